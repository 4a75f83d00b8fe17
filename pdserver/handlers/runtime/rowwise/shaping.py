"""The same elements in another shape, or repeated: reshape, transpose, expand and their like."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from pdserver.handlers.runtime.rowwise.dims import ONE, Dim, product, quotient
from pdserver.handlers.runtime.rowwise.elementwise import broadcast
from pdserver.handlers.runtime.rowwise.rules import Outputs, Step, rule
from pdserver.handlers.runtime.rowwise.value import Dims, Mixed, Number, Value, any_tensor, axis_of, fixed, one, whole

# The same elements in the same order


def reshaped(step: Step, value: Value, dims: Dims) -> Value:
    """In other lengths, and as many elements as before. The rows stay in order along the axis that has as many elements
    before it, or as many from it on, as theirs has, if it can be divided by their number."""
    if value.axis is None:
        return Value(dims, numbers=value.numbers, uniform=value.uniform)
    before = product((*value.dims[: value.axis], value.before))
    rest = quotient(product(value.dims[value.axis :]), value.before)
    for axis, length in enumerate(dims):
        same = product(dims[:axis]) == before or product(dims[axis:]) == rest
        if same and quotient(length, step.rows) is not None:
            return Value(dims, axis, ids_of=value.ids_of)
        folded = quotient(before, product(dims[:axis]))
        if folded is not None and quotient(length, product((folded, step.rows))) is not None:
            return Value(dims, axis, folded)
    raise Mixed


@rule("reshape")
def reshape(step: Step) -> Outputs:
    return [in_shape(step, any_tensor(step.operand(0)), whole(step.operand(1)))]


def in_shape(step: Step, value: Value, wanted: Sequence[Number]) -> Value:
    """0 stands for the operand's own length, -1 for what is left."""
    dims: list[Dim | None] = []
    for at, number in enumerate(wanted):
        if number is None:  # known to be the same for all rows, and nothing else
            dims.append(step.length(at))
        elif number == Dim(0):
            dims.append(value.dims[axis_of(value, at)])
        else:
            dims.append(None if number == Dim(-1) else number)
    if dims.count(None) > 1:
        raise Mixed
    if None in dims:
        rest = quotient(product(value.dims), product(dim for dim in dims if dim is not None))
        if rest is None:
            raise Mixed
        dims[dims.index(None)] = rest
    return reshaped(step, value, tuple(dim for dim in dims if dim is not None))


@rule("flatten")
def flatten(step: Step) -> Outputs:
    value = one(step.operand(0))
    if not value.rank:
        raise Mixed
    start, stop = (axis_of(value, step.attribute(name, at)) for name, at in (("start_axis", 1), ("stop_axis", 1)))
    middle = product(value.dims[start : stop + 1])
    return [reshaped(step, value, (*value.dims[:start], middle, *value.dims[stop + 1 :]))]


@rule("flatten_to_matrix")
def flatten_to_matrix(step: Step) -> Outputs:
    value = one(step.operand(0))
    at = step.attribute("axis", 1)
    return [reshaped(step, value, (product(value.dims[:at]), product(value.dims[at:])))]


@rule("squeeze")
def squeeze(step: Step) -> Outputs:
    value = any_tensor(step.operand(0))
    axes = [axis_of(value, axis) for axis in fixed(step.operand(1))]
    # Of an axis of any length, it depends on the length whether it goes; without axes, on all of them.
    if not axes or any(value.dims[axis].symbols for axis in axes):
        raise Mixed
    axes = [axis for axis in axes if value.dims[axis] == ONE and axis != value.axis]
    dims = tuple(dim for at, dim in enumerate(value.dims) if at not in axes)
    axis = None if value.axis is None else value.axis - sum(at < value.axis for at in axes)
    return [replace(value, dims=dims, axis=axis)]


@rule("unsqueeze")
def unsqueeze(step: Step) -> Outputs:
    value = any_tensor(step.operand(0))
    axes = fixed(step.operand(1))  # each of what those before it have made, as Paddle does
    return [with_ones(value, [at + value.rank + made + 1 if at < 0 else at for made, at in enumerate(axes)])]


def with_ones(value: Value, places: Sequence[int]) -> Value:
    """With axes of length 1 inserted there, one after the other."""
    dims, axis = list(value.dims), value.axis
    for place in places:
        dims.insert(place, ONE)
        axis = axis if axis is None else axis + (place <= axis)
    return replace(value, dims=tuple(dims), axis=axis)


@rule("transpose")
def transpose(step: Step) -> Outputs:
    value = one(step.operand(0))
    order = [axis_of(value, at) for at in step.attribute("perm", [])]
    if sorted(order) != list(range(value.rank)):
        raise Mixed
    axis = None if value.axis is None else order.index(value.axis)
    return [Value(tuple(value.dims[at] for at in order), axis, uniform=value.uniform)]


# Larger


@rule("expand")
def expand(step: Step) -> Outputs:
    value = one(step.operand(0))
    wanted = whole(step.operand(1))
    return [_expanded(step, value, wanted)]


def _expanded(step: Step, value: Value, wanted: Sequence[Number]) -> Value:
    more = len(wanted) - value.rank
    dims: list[Dim] = []
    axis = None if value.axis is None else value.axis + more
    for at, number in enumerate(wanted):
        own = value.dims[at - more] if at >= more else ONE
        if number == Dim(-1):
            dims.append(own)
        elif number is None:
            if at == axis:
                raise Mixed
            dims.append(step.new_symbol())
        elif number.counts_rows and axis is None and own == ONE:
            axis = at  # the same for each row
            dims.append(number)
        elif number.counts_rows and (at != axis or number != own):
            raise Mixed
        else:
            if at == axis and number != own:
                raise Mixed
            dims.append(number)
    return Value(tuple(dims), axis, uniform=value.uniform)


@rule("expand_as")
def expand_as(step: Step) -> Outputs:
    value, like = one(step.operand(0)), one(step.operand(1))
    if like.axis is None:
        return [_expanded(step, value, like.dims)]
    return [replace(broadcast(step, [value, Value(like.dims, like.axis)]), dims=like.dims)]


@rule("tile")
def tile(step: Step) -> Outputs:
    value = one(step.operand(0))
    times = whole(step.operand(1))
    rank = max(value.rank, len(times))
    dims = [*(ONE,) * (rank - value.rank), *value.dims]
    axis = None if value.axis is None else value.axis + rank - value.rank
    for at, number in enumerate([*(ONE,) * (rank - len(times)), *times]):
        if number == ONE:
            continue
        if at == axis:
            raise Mixed
        if number is None:
            dims[at] = step.new_symbol()
        elif number.counts_rows:
            if axis is not None or dims[at] != ONE:
                raise Mixed
            axis, dims[at] = at, number
        else:
            dims[at] = product((dims[at], number))
    return [Value(tuple(dims), axis, uniform=value.uniform)]
