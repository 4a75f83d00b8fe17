"""Operations along axes: what is taken along one that is not the rows' leaves the rows where they are."""

from __future__ import annotations

from collections.abc import Sequence

from pdserver.handlers.runtime.rowwise.dims import ONE
from pdserver.handlers.runtime.rowwise.elementwise import broadcast
from pdserver.handlers.runtime.rowwise.rules import Outputs, Step, rule
from pdserver.handlers.runtime.rowwise.value import Mixed, Value, constant, fixed, one, rows_axis, several


def along(value: Value, axes: Sequence[int]) -> list[int]:
    """The axes, counted from the first. Raises Mixed when the rows are along one of them, or all are meant."""
    if not axes:
        if value.axis is not None:
            raise Mixed
        return list(range(value.rank))
    found = [axis + value.rank if axis < 0 else axis for axis in axes]
    if value.axis in found or not all(0 <= axis < max(value.rank, 1) for axis in found):
        raise Mixed
    return found


def without(value: Value, axes: Sequence[int], *, keep: bool) -> Value:
    if keep:
        return Value(tuple(ONE if at in axes else dim for at, dim in enumerate(value.dims)), value.axis)
    dims = tuple(dim for at, dim in enumerate(value.dims) if at not in axes)
    axis = None if value.axis is None else value.axis - sum(at < value.axis for at in axes)
    return Value(dims, axis)


@rule("sum mean max min prod any all amax amin logsumexp frobenius_norm")
def reduce(step: Step) -> Outputs:
    value = one(step.operand(0))
    axes = [] if step.attribute("reduce_all", False) else _axes(step)
    return [without(value, along(value, axes), keep=step.attribute("keepdim", False))]


def _axes(step: Step) -> list[int]:
    """By an operand, or an attribute."""
    if step.operand(1) is not None:
        return fixed(step.operand(1))
    axes = step.attribute("axis", [])
    return [axes] if isinstance(axes, int) else list(axes)


@rule("argmax argmin")
def best(step: Step) -> Outputs:
    value = one(step.operand(0))
    axes = [] if step.attribute("flatten", False) else fixed(step.operand(1))
    return [without(value, along(value, axes), keep=step.attribute("keepdims", False))]


@rule("p_norm")
def norm(step: Step) -> Outputs:
    value = one(step.operand(0))
    axes = [] if step.attribute("asvector", False) else [step.attribute("axis", -1)]
    return [without(value, along(value, axes), keep=step.attribute("keepdim", False))]


@rule("cumsum cumprod logcumsumexp")
def running(step: Step) -> Outputs:
    value = one(step.operand(0))
    axes = [step.attribute("dim", -1)] if step.kind == "cumprod" else _axes(step)
    along(value, [] if step.attribute("flatten", False) else axes)
    return [value.plain()]


@rule("softmax log_softmax argsort")
def along_an_axis(step: Step) -> Outputs:
    value = one(step.operand(0))
    along(value, [step.attribute("axis", -1)])
    return [value.plain(), value.plain()]


@rule("topk")
def topk(step: Step) -> Outputs:
    value = one(step.operand(0))
    constant(step.operand(1))
    along(value, [step.attribute("axis", -1)])
    if value.axis is None:
        return [Value(step.dims()), Value(step.dims(1))]
    rows = value.dims[value.axis]
    return [step.along(value.axis, rows), step.along(value.axis, rows, 1)]


@rule("one_hot")
def one_hot(step: Step) -> Outputs:
    value = one(step.operand(0))
    constant(step.operand(1))
    return [Value((*value.dims, step.new_symbol()), value.axis)]


@rule("triu tril")
def triangle(step: Step) -> Outputs:
    value = one(step.operand(0))
    if value.axis is not None and value.axis >= value.rank - 2:
        raise Mixed
    return [value.plain()]


@rule("flip")
def flip(step: Step) -> Outputs:
    value = one(step.operand(0))
    along(value, step.attribute("axis", []))
    return [value.plain()]


@rule("roll")
def roll(step: Step) -> Outputs:
    value = one(step.operand(0))
    along(value, step.attribute("axis", []))
    constant(step.operand(1))
    return [value.plain()]


@rule("fused_softmax_mask fused_softmax_mask_upper_triangle")
def masked_softmax(step: Step) -> Outputs:
    values = several([value for value in step.inputs if isinstance(value, Value)])
    found = broadcast(step, values)
    if rows_axis(found) == found.rank - 1:
        raise Mixed
    return [found]
