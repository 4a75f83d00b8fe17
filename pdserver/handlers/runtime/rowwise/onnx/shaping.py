"""ONNX's operations that give the same elements in another shape, or repeat them."""

from __future__ import annotations

from dataclasses import replace

from pdserver.handlers.runtime.rowwise.dims import ONE, Dim
from pdserver.handlers.runtime.rowwise.rules import Outputs, Step, rule
from pdserver.handlers.runtime.rowwise.shaping import flatten_to_matrix, in_shape, tile, with_ones
from pdserver.handlers.runtime.rowwise.shaping import transpose as transposed
from pdserver.handlers.runtime.rowwise.value import (
    Mixed,
    Number,
    Value,
    any_tensor,
    axis_of,
    even_folded,
    fixed,
    one,
    whole,
)

rule("Tile")(tile)


@rule("Reshape")
def reshape(step: Step) -> Outputs:
    wanted = whole(step.operand(1))
    if step.attribute("allowzero", 0) and Dim(0) in wanted:
        raise Mixed
    return [in_shape(step, even_folded(step.operand(0)), wanted)]


@rule("Flatten")
def flatten(step: Step) -> Outputs:
    value = one(step.operand(0))
    axis = step.attribute("axis", 1)
    return flatten_to_matrix(replace(step, attributes={"axis": axis + value.rank if axis < 0 else axis}))


def axes(step: Step, operand: int = 1) -> list[int] | None:
    """By an operand, as later versions have them, or an attribute. None when there are none."""
    if step.operand(operand) is not None:
        return fixed(step.operand(operand))
    found: list[int] | None = step.attribute("axes", None)
    return found


@rule("Squeeze")
def squeeze(step: Step) -> Outputs:
    value = any_tensor(step.operand(0))
    gone = axes(step)
    if gone is None:  # all of length 1
        if value.axis is not None or any(dim.symbols for dim in value.dims):
            raise Mixed
        gone = [at for at, dim in enumerate(value.dims) if dim == ONE]
    places = {axis_of(value, axis) for axis in gone}
    if value.axis in places:
        raise Mixed
    dims = tuple(dim for at, dim in enumerate(value.dims) if at not in places)
    return [replace(value, dims=dims, axis=value.axis and value.axis - sum(at < value.axis for at in places))]


@rule("Unsqueeze")
def unsqueeze(step: Step) -> Outputs:
    """Axes are those of the result."""
    value = any_tensor(step.operand(0))
    new = axes(step) or []
    return [with_ones(value, sorted(axis_of(value, at, more=len(new)) for at in new))]


@rule("Transpose")
def transpose(step: Step) -> Outputs:
    value = one(step.operand(0))
    order = step.attribute("perm", None) or list(reversed(range(value.rank)))
    return transposed(replace(step, attributes={"perm": order}))


@rule("Expand")
def expand(step: Step) -> Outputs:
    """By broadcasting: 1 keeps a length."""
    value, wanted = one(step.operand(0)), whole(step.operand(1))
    rank = max(value.rank, len(wanted))
    dims = [*(ONE,) * (rank - value.rank), *value.dims]
    axis = None if value.axis is None else value.axis + rank - value.rank
    for at, number in enumerate([*(ONE,) * (rank - len(wanted)), *wanted]):
        if number == ONE or number == dims[at]:
            continue
        if at == axis or (number is not None and number.number < 1):
            raise Mixed
        if number is not None and number.counts_rows:
            if axis is not None or dims[at] != ONE:
                raise Mixed
            axis = at  # the same for each row
        dims[at] = _longer(step, dims[at], number)
    return [Value(tuple(dims), axis, uniform=value.uniform)]


def _longer(step: Step, own: Dim, wanted: Number) -> Dim:
    """At least one of the two is 1, or they are equal."""
    if own == ONE:
        return step.new_symbol() if wanted is None else wanted
    if not own.symbols:
        return own
    return step.new_symbol() if wanted is None or wanted.symbols else wanted
