"""ONNX's operations that work on each element by itself, or on those in the same place."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from pdserver.handlers.runtime.rowwise.dims import Dim
from pdserver.handlers.runtime.rowwise.elementwise import each_element, same, same_place, unknown
from pdserver.handlers.runtime.rowwise.rules import Outputs, Step, place_by_place, rule
from pdserver.handlers.runtime.rowwise.value import Mixed, Number, Value, any_tensor, fixed, passed_on

_KEEPING = (1, 6, 7, 11)
"""The types that hold any size: float32, int32, int64, float64."""

rule(
    "Abs Acos Acosh Asin Asinh Atan Atanh BitwiseNot Celu Clip Cos Cosh Elu Erf Exp Gelu HardSigmoid HardSwish IsInf"
    " IsNaN LeakyRelu Log Mish Neg Not Reciprocal Relu Selu Shrink Sigmoid Sign Sin Sinh Softplus Softsign Sqrt Swish"
    " Tan Tanh ThresholdedRelu"
)(place_by_place(each_element))
rule(
    "Add Sub Mul Div Mod Pow Max Min Mean Sum And Or Xor BitShift BitwiseAnd BitwiseOr BitwiseXor Greater"
    " GreaterOrEqual Less LessOrEqual PRelu"
)(place_by_place(same_place))
rule("Identity CastLike")(same)


@rule("Floor Ceil Round")
def rounded(step: Step) -> Outputs:
    """Sizes are whole."""
    value = any_tensor(step.operand(0))
    return [value] if value.numbers is not None else each_element(step)


@rule("Cast")
def cast(step: Step) -> Outputs:
    [value] = same(step)
    assert isinstance(value, Value)  # noqa: S101 - for the type checker
    if value.numbers is None or step.attribute("to", 0) in _KEEPING:
        return [value]
    return [replace(value, numbers=tuple(unknown(number) for number in value.numbers))]


@rule("Dropout")
def dropout(step: Step) -> Outputs:
    value = passed_on(step.operand(0))
    if step.operand(2) is not None and fixed(step.operand(2)) != [0]:
        raise Mixed
    return [value.plain()]


@rule("Equal")
def equal(step: Step) -> Outputs:
    columns = _columns(step)
    return same_place(step) if columns is None else [_of(step, [_equal(*column) for column in columns])]


@rule("Where")
def where(step: Step) -> Outputs:
    columns = _columns(step)
    return same_place(step) if columns is None else [_of(step, [_chosen(*column) for column in columns])]


def _columns(step: Step) -> list[tuple[Number, ...]] | None:
    """The elements in the same place, of several tensors of sizes; None when they are none."""
    values = [value for value in step.inputs if isinstance(value, Value)]
    if any(value.mixed or not value.numbers or value.rank > 1 for value in values):
        return None
    count = max(len(value.numbers or ()) for value in values)
    if any(len(value.numbers or ()) not in (1, count) for value in values):
        return None
    return list(zip(*((value.numbers or ()) * (count // len(value.numbers or ())) for value in values), strict=True))


def _of(step: Step, numbers: Sequence[Number]) -> Value:
    rank = max(value.rank for value in step.inputs if isinstance(value, Value))
    return Value((Dim(len(numbers)),) * rank, numbers=tuple(numbers))


def _equal(some: Number, other: Number) -> Number:
    """1 or 0. No length is below 0."""
    if some is None or other is None:
        return unknown(some, other)
    if some == other or not (some.symbols or other.symbols):
        return Dim(int(some == other))
    return Dim(0) if min(some.number, other.number) < 0 < max(some.number, other.number) else unknown(some, other)


def _chosen(condition: Number, some: Number, other: Number) -> Number:
    if some == other:
        return some
    if condition is None or condition.symbols:
        return unknown(condition, some, other)
    return some if condition.number else other
