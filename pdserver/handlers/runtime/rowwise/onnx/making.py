"""ONNX's operations that make tensors of nothing but numbers and shapes."""

from __future__ import annotations

from pdarchiver.graph import Tensor
from pdserver.handlers.runtime.rowwise.dims import ONE, Dim
from pdserver.handlers.runtime.rowwise.making import filled, known_numbers, numel, shape
from pdserver.handlers.runtime.rowwise.rules import Outputs, Step, rule
from pdserver.handlers.runtime.rowwise.value import Mixed, Value, constant, one, whole

_SINGLE, _LISTS = ("value_int", "value_float"), ("value_ints", "value_floats")

rule("Size")(numel)


@rule("Constant")
def given(step: Step) -> Outputs:
    return [_constant(_tensor(step))]


def _tensor(step: Step) -> Tensor:
    if isinstance(found := step.attribute("value", None), Tensor):
        return found
    for name in _SINGLE:
        if (number := step.attribute(name, None)) is not None:
            return Tensor((), [number])
    for name in _LISTS:
        if (numbers := step.attribute(name, None)) is not None:
            return Tensor((len(numbers),), numbers)
    raise Mixed


def _constant(tensor: Tensor) -> Value:
    dims = tuple(map(Dim, tensor.shape))
    if tensor.numbers is None:
        return Value(dims)
    numbers = known_numbers(tensor.numbers) if len(dims) <= 1 else None
    return Value(dims, numbers=numbers, uniform=len(set(tensor.numbers)) == 1)


@rule("ConstantOfShape")
def constant_of_shape(step: Step) -> Outputs:
    tensor = step.attribute("value", Tensor((1,), [0]))
    numbers = known_numbers(tensor.numbers or ())
    return [filled(step, whole(step.operand(0)), numbers[0] if numbers else None)]


@rule("Shape")
def part_of_shape(step: Step) -> Outputs:
    [value] = shape(step)
    assert isinstance(value, Value)  # noqa: S101 - for the type checker
    assert value.numbers is not None  # noqa: S101
    numbers = value.numbers[step.attribute("start", 0) : step.attribute("end", None)]
    return [Value((Dim(len(numbers)),), numbers=numbers)]


@rule("Range")
def arange(step: Step) -> Outputs:
    """Of nothing that is the rows', nor of their number: else a row would be told from another by its place."""
    for operand in step.inputs:
        constant(operand)
    start, limit, delta = whole(step.inputs)  # type: ignore[arg-type]  # they are not lists
    counts = start == Dim(0) and delta == ONE and limit is not None and limit.number >= 0
    return [Value((limit if counts and limit is not None else step.new_symbol(),))]


@rule("EyeLike")
def eye_like(step: Step) -> Outputs:
    constant(step.operand(0))
    return [Value(one(step.operand(0)).dims)]
