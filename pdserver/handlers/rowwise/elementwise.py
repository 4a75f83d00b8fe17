"""Operations that work on each element by itself, on those in the same place, or along axes that are not the rows'."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from pdserver.handlers.rowwise.dims import ONE, Dim, product, quotient
from pdserver.handlers.rowwise.rules import Outputs, Step, rule
from pdserver.handlers.rowwise.value import (
    Argument,
    Mixed,
    Number,
    Value,
    constant,
    fixed,
    one,
    passed_on,
    rows_axis,
    several,
)


def broadcast(step: Step, values: Sequence[Value]) -> Value:
    """Of several operands, aligned at their last axes as numpy does it. Raises Mixed when the rows of two are not in
    the same place, or something that is not rows lies along them."""
    rank = max(value.rank for value in values)
    places = {value.axis + rank - value.rank for value in values if value.axis is not None}
    if len(places) > 1:
        raise Mixed
    axis = places.pop() if places else None
    padded = [(*(ONE,) * (rank - value.rank), *value.dims) for value in values]
    columns = [list(column) for column in zip(*padded, strict=True)]
    if axis is None:
        return Value(tuple(_longest(step, column) for column in columns))
    rows = next(value.dims[value.axis] for value in values if value.axis is not None)
    for value in values:
        own = axis - rank + value.rank
        if own >= 0:
            length = value.dims[own]
            fits = length == rows if value.axis is not None else length == ONE or (value.uniform and length == rows)
            if not fits:
                raise Mixed
    dims = [_longest(step, column) for column in columns]
    dims[axis] = rows
    return Value(tuple(dims), axis)


def _longest(step: Step, dims: list[Dim]) -> Dim:
    found = {dim for dim in dims if dim != ONE}
    if len(found) <= 1:
        return found.pop() if found else ONE
    numbers = [dim for dim in found if not dim.symbols]
    return numbers[0] if numbers else step.new_symbol()


@rule(
    "abs acos asin atan ceil cos cosh erf erfinv exp expm1 floor log log10 log1p log2 reciprocal relu round rsqrt"
    " sigmoid sign sin sinh sqrt square tan tanh atanh acosh asinh gelu elu selu silu swish mish softplus softsign"
    " softshrink leaky_relu relu6 thresholded_relu logsigmoid tanh_shrink stanh celu logical_not isnan isinf isfinite"
    " bitwise_not hardswish hardsigmoid hardtanh hardshrink digamma lgamma trunc rint i0 logit angle conj real imag"
    " pow clip prelu quantize_linear dequantize_linear nan_to_num"
)
def each_element(step: Step) -> Outputs:
    value = passed_on(step.operand(0))
    for other in step.inputs[1:]:
        constant(other)
    if not step.attribute("is_test", True):
        raise Mixed
    unknown = None if value.numbers is None else (None,) * len(value.numbers)
    return [Value(value.dims, value.axis, numbers=unknown, uniform=value.uniform)]


@rule("assign share_data memcpy memcpy_d2h memcpy_h2d cast")
def same(step: Step) -> Outputs:
    value = step.operand(0)
    if not isinstance(value, Value) or value.mixed:
        passed_on(value)
        raise Mixed
    return [value]


@rule("dropout")
def dropout(step: Step) -> Outputs:
    value = passed_on(step.operand(0))
    if not step.attribute("is_test", False):
        raise Mixed
    return [value.plain()]


@rule("full_like")
def full_like(step: Step) -> Outputs:
    value = passed_on(step.operand(0))
    constant(step.operand(1))
    return [Value(value.dims, value.axis, uniform=True)]


@rule("scale increment")
def scale(step: Step) -> Outputs:
    value = step.operand(0)
    if not isinstance(value, Value) or value.numbers is None:
        return each_element(step)
    constant(step.operand(1))
    by = step.operand(1)
    factor = by.numbers[0] if isinstance(by, Value) and by.numbers else None
    bias = step.attribute("bias", 0)
    if not isinstance(bias, int | float) or bias != int(bias):
        factor = None
    if step.attribute("bias_after_scale", True) is not True or step.kind != "scale":
        factor = None
    numbers = [_sum(_times(number, factor), Dim(int(bias))) for number in value.numbers]
    return [replace(value, numbers=tuple(numbers))]


def _times(some: Number, other: Number) -> Number:
    return _unknown(some, other) if some is None or other is None else product((some, other))


def _parts(some: Number, other: Number) -> Number:
    found = quotient(some, other) if some is not None and other is not None else None
    return _unknown(some, other) if found is None else found


def _sum(some: Number, other: Number) -> Number:
    if some is None or other is None:
        return _unknown(some, other)
    if not some.number or not other.number:
        return other if not some.number else some
    return Dim(some.number + other.number, some.symbols) if some.symbols == other.symbols else _unknown(some, other)


def _difference(some: Number, other: Number) -> Number:
    return _sum(some, None if other is None else Dim(-other.number, other.symbols))


def _unknown(some: Number, other: Number) -> Number:
    """Raises Mixed where it could depend on the number of rows."""
    if any(number is not None and number.counts_rows for number in (some, other)):
        raise Mixed
    return None


_ARITHMETIC: dict[str, Callable[[Number, Number], Number]] = {
    "add": _sum,
    "subtract": _difference,
    "multiply": _times,
    "floor_divide": _parts,
    "divide": _parts,
}


@rule(
    "add subtract multiply divide maximum minimum fmax fmin elementwise_pow remainder floor_divide equal not_equal"
    " less_than less_equal greater_than greater_equal logical_and logical_or logical_xor bitwise_and bitwise_or"
    " bitwise_xor where add_n atan2 heaviside lerp copysign hypot"
)
def same_place(step: Step) -> Outputs:
    given = list(step.inputs[0]) if isinstance(step.inputs[0], Sequence) else list(step.inputs)
    sizes = _sizes(step, given)
    if sizes is not None:
        return [sizes]
    if any(isinstance(value, Value) and value.sized_by_data for value in given):
        _check_sized(given)
    values = [one(value) for value in given]
    start = step.attribute("axis_of_second", -1)
    if start != -1 and values[1].rank < values[0].rank:
        more = (ONE,) * (values[0].rank - start - values[1].rank)
        values[1] = replace(values[1], dims=values[1].dims + more)
    return [broadcast(step, values)]


def _check_sized(given: Sequence[Argument]) -> None:
    """What is as long as the data say, and constants beside it."""
    for value in given:
        if not isinstance(value, Value) or not (value.sized_by_data or value.is_constant):
            raise Mixed
    raise Mixed(sized_by_data=True)


def _sizes(step: Step, given: Sequence[Argument]) -> Value | None:
    """Of two tensors of sizes; None when they are none."""
    operation = _ARITHMETIC.get(step.kind)
    if operation is None or not all(isinstance(value, Value) and value.numbers is not None for value in given):
        return None
    first, second = (value for value in given if isinstance(value, Value))
    some, others = first.numbers or (), second.numbers or ()
    count = max(len(some), len(others))
    if len(some) not in (1, count) or len(others) not in (1, count):
        return None
    pairs = zip(some * (count // len(some)), others * (count // len(others)), strict=True)
    dims = first.dims if len(some) == count else second.dims
    return Value(dims, numbers=tuple(operation(*pair) for pair in pairs))


# Along axes


def _along(value: Value, axes: Sequence[int]) -> list[int]:
    """The axes, counted from the first. Raises Mixed when the rows are along one of them, or all are meant."""
    if not axes:
        if value.axis is not None:
            raise Mixed
        return list(range(value.rank))
    found = [axis + value.rank if axis < 0 else axis for axis in axes]
    if value.axis in found or not all(0 <= axis < max(value.rank, 1) for axis in found):
        raise Mixed
    return found


def _without(value: Value, axes: Sequence[int], *, keep: bool) -> Value:
    if keep:
        return Value(tuple(ONE if at in axes else dim for at, dim in enumerate(value.dims)), value.axis)
    dims = tuple(dim for at, dim in enumerate(value.dims) if at not in axes)
    axis = None if value.axis is None else value.axis - sum(at < value.axis for at in axes)
    return Value(dims, axis)


@rule("sum mean max min prod any all amax amin logsumexp frobenius_norm")
def reduce(step: Step) -> Outputs:
    value = one(step.operand(0))
    axes = [] if step.attribute("reduce_all", False) else _axes(step)
    return [_without(value, _along(value, axes), keep=step.attribute("keepdim", False))]


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
    return [_without(value, _along(value, axes), keep=step.attribute("keepdims", False))]


@rule("p_norm")
def norm(step: Step) -> Outputs:
    value = one(step.operand(0))
    axes = [] if step.attribute("asvector", False) else [step.attribute("axis", -1)]
    return [_without(value, _along(value, axes), keep=step.attribute("keepdim", False))]


@rule("cumsum cumprod logcumsumexp")
def running(step: Step) -> Outputs:
    value = one(step.operand(0))
    axes = [step.attribute("dim", -1)] if step.kind == "cumprod" else _axes(step)
    _along(value, [] if step.attribute("flatten", False) else axes)
    return [value.plain()]


@rule("softmax log_softmax argsort")
def along_an_axis(step: Step) -> Outputs:
    value = one(step.operand(0))
    _along(value, [step.attribute("axis", -1)])
    return [value.plain(), value.plain()]


@rule("topk")
def topk(step: Step) -> Outputs:
    value = one(step.operand(0))
    constant(step.operand(1))
    _along(value, [step.attribute("axis", -1)])
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
    _along(value, step.attribute("axis", []))
    return [value.plain()]


@rule("roll")
def roll(step: Step) -> Outputs:
    value = one(step.operand(0))
    _along(value, step.attribute("axis", []))
    constant(step.operand(1))
    return [value.plain()]


@rule("fused_softmax_mask fused_softmax_mask_upper_triangle")
def masked_softmax(step: Step) -> Outputs:
    values = several([value for value in step.inputs if isinstance(value, Value)])
    found = broadcast(step, values)
    if rows_axis(found) == found.rank - 1:
        raise Mixed
    return [found]
