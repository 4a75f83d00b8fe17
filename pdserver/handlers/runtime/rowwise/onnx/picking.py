"""ONNX's operations that take pieces of tensors, or put tensors side by side."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import accumulate

from pdserver.handlers.runtime.rowwise.dims import ONE, Dim
from pdserver.handlers.runtime.rowwise.picking import joined, note_limit, off_rows, pick, taken
from pdserver.handlers.runtime.rowwise.rules import Outputs, Step, rule
from pdserver.handlers.runtime.rowwise.value import (
    Mixed,
    Number,
    Value,
    any_tensor,
    axis_of,
    fixed,
    one,
    passed_on,
    whole,
)

_TO_THE_END = 2**31 - 1

rule("GatherElements")(pick)


@rule("Slice")
def cut(step: Step) -> Outputs:
    value = any_tensor(step.operand(0))
    starts, ends, axes, strides = _bounds(step)
    places = [axis_of(value, axis) for axis in (range(len(starts)) if axes is None else axes)]
    if value.numbers is not None and value.rank == 1:
        return [_some_numbers(value, starts[0], ends[0], strides[0])]
    value = one(value)
    dims = list(value.dims)
    for at, *bounds in zip(places, starts, ends, strides, strict=True):
        if not _is_all(value.dims[at], *bounds):
            if at == value.axis or any(bound is not None and bound.counts_rows for bound in bounds):
                raise Mixed
            dims[at] = _length(step, value.dims[at], bounds)
    return [Value(tuple(dims), value.axis, uniform=value.uniform)]


def _bounds(step: Step) -> tuple[Sequence[Number], Sequence[Number], list[int] | None, Sequence[Number]]:
    """Starts, ends, axes and strides: by operands, or by attributes as in earlier versions."""
    axes: list[int] | None
    if step.operand(1) is None:
        given = [tuple(map(Dim, step.attribute(name, []))) for name in ("starts", "ends")]
        axes = step.attribute("axes", None)
        return given[0], given[1], axes, (ONE,) * len(given[0])
    starts = whole(step.operand(1))
    axes = None if step.operand(3) is None else fixed(step.operand(3))
    strides = (ONE,) * len(starts) if step.operand(4) is None else whole(step.operand(4))
    return starts, whole(step.operand(2)), axes, strides


def _is_all(length: Dim, start: Number, end: Number, stride: Number) -> bool:
    if start != Dim(0) or stride != ONE or end is None:
        return False
    reached = not (end.symbols or length.symbols) and end.number >= length.number
    return reached or end == length or (not end.symbols and end.number >= _TO_THE_END)


def _length(step: Step, length: Dim, bounds: Sequence[Number]) -> Dim:
    if length.symbols or any(bound is None or bound.symbols for bound in bounds):
        return step.new_symbol()
    return Dim(len(range(length.number)[_slice(*bounds)]))


def _some_numbers(value: Value, *bounds: Number) -> Value:
    if any(bound is None or bound.symbols for bound in bounds):
        raise Mixed
    numbers = (value.numbers or ())[_slice(*bounds)]
    return Value((Dim(len(numbers)),), numbers=numbers)


def _slice(*bounds: Number) -> slice:
    return slice(*(bound.number for bound in bounds if bound is not None))


@rule("Split")
def split(step: Step) -> Outputs:
    value = any_tensor(step.operand(0))
    axis = off_rows(value, step.attribute("axis", 0))
    lengths = _lengths(step, value.dims[axis])
    if value.numbers is not None and value.rank == 1:
        ends = list(accumulate(length.number for length in lengths))
        pieces = zip(lengths, ends, strict=True)
        return [Value((own,), numbers=value.numbers[end - own.number : end]) for own, end in pieces]
    return [replace(value.plain(), dims=(*value.dims[:axis], own, *value.dims[axis + 1 :])) for own in lengths]


def _lengths(step: Step, whole_length: Dim) -> Sequence[Dim]:
    """Of the pieces: said, or as equal as can be."""
    count = len(step.shapes)
    if step.operand(1) is not None or "split" in step.attributes:
        said = fixed(step.operand(1)) if step.operand(1) is not None else step.attribute("split", [])
        return [Dim(length) for length in said]
    if whole_length.symbols:
        return [step.new_symbol() for _ in range(count)]
    each = -(-whole_length.number // count)
    return [Dim(len(range(whole_length.number)[at * each : (at + 1) * each])) for at in range(count)]


@rule("Concat")
def concat(step: Step) -> Outputs:
    values = [value for value in step.inputs if isinstance(value, Value)]
    if not values:
        raise Mixed
    return [joined(step, values, step.attribute("axis", 1))]


@rule("Gather")
def gather(step: Step) -> Outputs:
    value, index = any_tensor(step.operand(0)), passed_on(step.operand(1))
    axis = axis_of(value, step.attribute("axis", 0))
    if value.numbers is not None and index.numbers is not None and value.rank == 1 and index.rank <= 1:
        return [Value(index.dims, numbers=tuple(value.numbers[at] for at in fixed(index)))]
    value = one(value)
    if value.is_constant:
        note_limit(step, index, value.dims[axis])
    return [taken(value, index, axis)]


@rule("GatherND")
def gather_nd(step: Step) -> Outputs:
    """The first axes, `batch_dims`, are the same for both."""
    value, index = one(step.operand(0)), passed_on(step.operand(1))
    same = step.attribute("batch_dims", 0)
    if not index.rank or index.axis == index.rank - 1 or index.dims[-1].symbols:
        raise Mixed
    if value.axis is not None and (value.axis >= same or index.axis != value.axis):
        raise Mixed
    if value.axis is None and index.axis is not None and index.axis < same:
        raise Mixed
    return [Value((*index.dims[:-1], *value.dims[same + index.dims[-1].number :]), index.axis)]
