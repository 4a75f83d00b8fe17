"""Operations that work on each element by itself, or on those in the same place."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from pdserver.handlers.runtime.rowwise.dims import ONE, ROWS, Dim, product, quotient
from pdserver.handlers.runtime.rowwise.rules import Outputs, Step, rule
from pdserver.handlers.runtime.rowwise.value import Argument, Mixed, Number, Value, constant, one, passed_on


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
    return unknown(some, other) if some is None or other is None else product((some, other))


def _parts(some: Number, other: Number) -> Number:
    found = quotient(some, other) if some is not None and other is not None else None
    return unknown(some, other) if found is None else found


def _sum(some: Number, other: Number) -> Number:
    if some is None or other is None:
        return unknown(some, other)
    if not some.number or not other.number:
        return other if not some.number else some
    return Dim(some.number + other.number, some.symbols) if some.symbols == other.symbols else unknown(some, other)


def _difference(some: Number, other: Number) -> Number:
    return _sum(some, None if other is None else Dim(-other.number, other.symbols))


def _rest(some: Number, other: Number) -> Number:
    """Of a division."""
    if some is None or other is None or some.symbols or other.symbols or some.number < 0 or other.number <= 0:
        return unknown(some, other)
    return Dim(some.number % other.number)


def _larger(some: Number, other: Number) -> Number:
    """There is at least one row."""
    if some is None or other is None:
        return unknown(some, other)
    low, high = sorted((some, other), key=lambda number: (len(number.symbols), number.number))
    if high.symbols and (low.symbols or low.number > 1 or set(high.symbols) != {ROWS} or high.number < 1):
        return unknown(some, other)
    return high


def unknown(*numbers: Number) -> Number:
    """What is made of these. Raises Mixed where it could depend on the number of rows."""
    if any(number is not None and number.counts_rows for number in numbers):
        raise Mixed
    return None


_ARITHMETIC: dict[str, Callable[[Number, Number], Number]] = {
    "add": _sum,
    "subtract": _difference,
    "multiply": _times,
    "floor_divide": _parts,
    "divide": _parts,
    "Add": _sum,
    "Sub": _difference,
    "Mul": _times,
    "Div": _parts,
    "Mod": _rest,
    "Max": _larger,
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
