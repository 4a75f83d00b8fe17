"""Pieces of tensors, tensors side by side, and what is taken by an index: slice, concat, gather and their like."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from pdserver.handlers.runtime.rowwise.dims import ONE, Dim
from pdserver.handlers.runtime.rowwise.elementwise import broadcast
from pdserver.handlers.runtime.rowwise.rules import Outputs, Step, rule
from pdserver.handlers.runtime.rowwise.value import (
    MOST_NUMBERS,
    Mixed,
    Value,
    any_tensor,
    axis_of,
    constant,
    fixed,
    one,
    passed_on,
    rows_axis,
    several,
    whole,
)

_TO_THE_END = 2**31 - 1


def off_rows(value: Value, axis: int) -> int:
    """`axis_of`, which must not be the rows'."""
    found = axis_of(value, axis)
    if found == value.axis:
        raise Mixed
    return found


@rule("slice strided_slice")
def cut(step: Step) -> Outputs:
    value = any_tensor(step.operand(0))
    bounds = step.inputs[1:4]
    axes = [axis_of(value, axis) for axis in step.attribute("axes", [])]
    gone = [axis_of(value, axis) for axis in step.attribute("decrease_axis", [])]
    if value.numbers is not None and value.rank == 1 and step.kind == "slice":
        return [_some_numbers(value, *(fixed(bound)[0] for bound in bounds), gone=bool(gone))]
    value = one(value)
    starts, ends, *strides = (whole(bound) for bound in bounds)
    dims = list(value.dims)
    for place, axis in enumerate(axes):
        kept = starts[place] == Dim(0) and all(stride[place] == ONE for stride in strides)
        end = ends[place]
        reaches = end == value.dims[axis] or (end is not None and not end.symbols and end.number >= _TO_THE_END)
        if kept and reaches:
            continue
        if axis == value.axis or any(number is not None and number.counts_rows for number in (starts[place], end)):
            raise Mixed
        dims[axis] = step.new_symbol()
    return [_left(step, value, dims, gone)]


def _left(step: Step, value: Value, dims: list[Dim], gone: Sequence[int]) -> Value:
    """What is left of the axes; lengths that the file says are those."""
    if value.axis in gone:
        raise Mixed
    kept = [at for at in range(value.rank) if at not in gone]
    said = step.dims()
    axis = None if value.axis is None else kept.index(value.axis)
    found = [dims[at] if dims[at] == value.dims[at] else said[i] for i, at in enumerate(kept) if len(said) == len(kept)]
    return Value(tuple(found or (dims[at] for at in kept)), axis, uniform=value.uniform)


def _some_numbers(value: Value, start: int, end: int, *, gone: bool) -> Value:
    numbers = (value.numbers or ())[slice(start, None if start == -1 and not end else end)]
    return Value(() if gone else (Dim(len(numbers)),), numbers=numbers)


@rule("split split_with_num unbind")
def split(step: Step) -> Outputs:
    value = passed_on(step.operand(0))
    if step.kind == "unbind":
        axes = [step.attribute("axis", 0)]
    else:
        axes = fixed(step.operand(1 if step.kind == "split_with_num" else 2))
    axis = off_rows(value, axes[0])
    pieces: list[Value] = []
    for item in range(len(step.shapes[0])):
        dims, at = list(value.dims), value.axis
        if step.kind == "unbind":
            del dims[axis]
            at = at if at is None else at - (axis < at)
        else:
            dims[axis] = step.dims(0, item)[axis]
        pieces.append(Value(tuple(dims), at))
    return [pieces]


# Together


@rule("concat")
def concat(step: Step) -> Outputs:
    values = list(step.inputs[0]) if isinstance(step.inputs[0], Sequence) else []
    axes = fixed(step.operand(1)) if step.operand(1) is not None else [0]
    return [joined(step, values, axes[0])]


def joined(step: Step, given: Sequence[Value], along: int) -> Value:
    """Side by side along an axis."""
    are_sizes = sum(len(value.numbers or ()) for value in given) <= MOST_NUMBERS
    counts = any(value.counts_rows for value in given) or all(value.numbers is not None for value in given)
    if given and counts and are_sizes and all(value.rank == 1 for value in given):
        numbers = whole(given)
        return Value((Dim(len(numbers)),), numbers=numbers)
    values = several(given)
    axis = axis_of(values[0], along)
    found = _side_by_side(step, values)
    if axis == found.axis:
        raise Mixed
    dims = list(found.dims)
    lengths = [value.dims[axis] for value in values]
    known = all(not length.symbols for length in lengths)
    dims[axis] = Dim(sum(length.number for length in lengths)) if known else step.new_symbol()
    return Value(tuple(dims), found.axis)


def _side_by_side(step: Step, values: Sequence[Value]) -> Value:
    """Of equal rank. Raises Mixed when the rows of one are not where those of all are."""
    ranks, places = {value.rank for value in values}, {value.axis for value in values if not value.uniform}
    rowed = [value for value in values if value.axis is not None]
    if len(ranks) != 1 or len(places | {value.axis for value in rowed}) > 1:
        raise Mixed
    if not rowed:
        return Value(values[0].dims)
    axis = rows_axis(rowed[0])
    if any(value.dims[axis] != rowed[0].dims[axis] for value in values):
        raise Mixed
    return Value(rowed[0].dims, axis)


@rule("stack")
def stack(step: Step) -> Outputs:
    values = list(step.inputs[0]) if isinstance(step.inputs[0], Sequence) else []
    if values and all(not value.rank and value.axis is None and not value.mixed for value in values):
        numbers = whole(values)
        return [Value((Dim(len(numbers)),), numbers=numbers)]
    values = several(values)
    found = _side_by_side(step, values)
    at = axis_of(found, step.attribute("axis", 0), more=1)
    axis = None if found.axis is None else found.axis + (at <= found.axis)
    return [Value((*found.dims[:at], Dim(len(values)), *found.dims[at:]), axis)]


@rule("builtin.combine")
def combine(step: Step) -> Outputs:
    values = [value for value in step.inputs if isinstance(value, Value)]
    if len(values) != len(step.inputs):
        raise Mixed
    return [values]


@rule("builtin.split")
def apart(step: Step) -> Outputs:
    held = step.operand(0)
    return list(held) if isinstance(held, Sequence) else [held]


@rule("builtin.slice")
def item(step: Step) -> Outputs:
    held = step.operand(0)
    if not isinstance(held, Sequence):
        raise Mixed
    return [held[step.attribute("index", 0)]]


# By index


@rule("gather index_select")
def gather(step: Step) -> Outputs:
    value, index = one(step.operand(0)), passed_on(step.operand(1))
    if step.kind == "index_select" or step.operand(2) is None:
        axis = axis_of(value, step.attribute("axis", 0))
    else:
        axis = axis_of(value, fixed(step.operand(2))[0])
    return [taken(value, index, axis)]


def taken(value: Value, index: Value, axis: int) -> Value:
    """Pieces of `value` along an axis, by their numbers."""
    if value.axis is not None and (index.axis is not None or axis == value.axis):
        raise Mixed
    dims = (*value.dims[:axis], *index.dims, *value.dims[axis + 1 :])
    if index.axis is not None:
        return Value(dims, axis + index.axis)
    return Value(dims, None if value.axis is None else value.axis + (value.axis > axis) * (index.rank - 1))


@rule("gather_nd")
def gather_nd(step: Step) -> Outputs:
    value, index = one(step.operand(0)), passed_on(step.operand(1))
    if value.axis is not None or not index.rank or index.axis == index.rank - 1 or index.dims[-1].symbols:
        raise Mixed
    return [Value((*index.dims[:-1], *value.dims[index.dims[-1].number :]), index.axis)]


@rule("index_sample take_along_axis")
def pick(step: Step) -> Outputs:
    value, index = one(step.operand(0)), one(step.operand(1))
    axis = 1 if step.kind == "index_sample" else step.attribute("axis", 0)
    if value.rank != index.rank or value.axis != index.axis or value.axis is None:
        raise Mixed
    off_rows(value, axis)
    if value.dims[value.axis] != index.dims[value.axis]:
        raise Mixed
    return [index.plain()]


@rule("embedding embedding_of_columns")
def embedding(step: Step) -> Outputs:
    ids, weights = one(step.operand(0)), one(step.operand(1))
    constant(weights)
    if step.kind == "embedding_of_columns":
        if ids.dims[-1:] != (ONE,) or ids.axis == ids.rank - 1:
            raise Mixed
        ids = replace(ids, dims=ids.dims[:-1])
    note_limit(step, ids, weights.dims[0])
    return [Value((*ids.dims, *weights.dims[1:]), ids.axis)]


def note_limit(step: Step, ids: Value, rows: Dim) -> None:
    """If they are an input's numbers, and this is how many rows the embedding has."""
    if ids.ids_of and not rows.symbols:
        step.limits[ids.ids_of] = min(rows.number, step.limits.get(ids.ids_of, rows.number))


@rule("set_value set_value_with_tensor")
def set_value(step: Step) -> Outputs:
    value = one(step.operand(0))
    with_tensor = step.kind == "set_value_with_tensor"
    for bound in step.inputs[2:5] if with_tensor else step.inputs[1:4]:
        constant(bound)
    axes = [off_rows(value, axis) for axis in step.attribute("axes", [])]
    if not axes or step.attribute("none_axes", []):
        raise Mixed
    if with_tensor:
        put = one(step.operand(1))
        gone = [axis_of(value, axis) for axis in step.attribute("decrease_axes", [])]
        kept = [at for at in range(value.rank) if at not in gone]
        place = Value(tuple(value.dims[at] if at == value.axis else ONE for at in kept),
                      None if value.axis is None else kept.index(value.axis))  # fmt: skip
        if broadcast(step, [place, put]).axis != place.axis:
            raise Mixed
    return [value.plain()]
