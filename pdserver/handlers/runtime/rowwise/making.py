"""Operations that make tensors of nothing but numbers and shapes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pdserver.handlers.runtime.rowwise.dims import Dim, product
from pdserver.handlers.runtime.rowwise.rules import Outputs, Step, rule
from pdserver.handlers.runtime.rowwise.value import MOST_NUMBERS, Dims, Mixed, Number, Value, constant, one, whole


def known_numbers(values: Sequence[Any]) -> tuple[Number, ...] | None:
    if len(values) > MOST_NUMBERS or not all(isinstance(value, int | float) for value in values):
        return None
    return tuple(Dim(int(value)) if abs(value) <= 2**63 and value == int(value) else None for value in values)


def _fixed_dims(shape: Sequence[int]) -> Dims:
    if any(length < 0 for length in shape):
        raise Mixed
    return tuple(Dim(length) for length in shape)


@rule("full")
def full(step: Step) -> Outputs:
    dims = _fixed_dims(step.attribute("shape", []))
    count = product(dims).number
    numbers = known_numbers([step.attribute("value", 0)] * count) if len(dims) <= 1 and count <= MOST_NUMBERS else None
    return [Value(dims, numbers=numbers, uniform=True)]


@rule("full_int_array")
def full_int_array(step: Step) -> Outputs:
    values = step.attribute("value", [])
    return [Value((Dim(len(values)),), numbers=known_numbers(values))]


@rule("assign_value")
def assign_value(step: Step) -> Outputs:
    dims = step.dims()
    given = [step.attribute(name, []) for name in ("values", "int64_values", "int32_values")]
    values: Sequence[Any] = next(filter(None, given), [])
    fits = len(dims) <= 1 and len(values) == product(dims).number
    return [Value(dims, numbers=known_numbers(values) if fits else None)]


@rule("full_with_tensor")
def full_with_tensor(step: Step) -> Outputs:
    given = step.operand(0)
    constant(given)
    number = given.numbers[0] if isinstance(given, Value) and given.numbers else _read(step.attribute("value", ""))
    return [filled(step, whole(step.operand(1)), number)]


def _read(text: str) -> Number:
    try:
        return Dim(int(text))
    except ValueError:
        return None


def filled(step: Step, shape: Sequence[Number], number: Number) -> Value:
    """All elements are `number`."""
    counting = [at for at, length in enumerate(shape) if length is not None and length.counts_rows]
    if len(counting) > 1:
        raise Mixed
    dims = tuple(step.new_symbol() if length is None else length for length in shape)
    count = product(dims)
    are_sizes = len(dims) <= 1 and not count.symbols and count.number <= MOST_NUMBERS
    numbers = (number,) * count.number if are_sizes else None
    return Value(dims, counting[0] if counting else None, numbers=numbers, uniform=True)


@rule("full_batch_size_like")
def full_batch_size_like(step: Step) -> Outputs:
    like = one(step.operand(0))
    shape = [*step.attribute("shape", [])]
    dims = [Dim(length) for length in shape]
    place = step.attribute("output_dim_idx", 0)
    dims[place] = like.dims[step.attribute("input_dim_idx", 0)]
    if any(dim.number < 0 for dim in dims):
        raise Mixed
    return [Value(tuple(dims), place if dims[place].counts_rows else None, uniform=True)]


@rule("shape shape64")
def shape(step: Step) -> Outputs:
    value = step.operand(0)
    if not isinstance(value, Value) or value.mixed:
        raise Mixed
    return [Value((Dim(value.rank),), numbers=value.dims)]


@rule("numel")
def numel(step: Step) -> Outputs:
    value = step.operand(0)
    if not isinstance(value, Value) or value.mixed:
        raise Mixed
    return [Value((), numbers=(product(value.dims),))]


@rule("arange linspace eye uniform gaussian randint tril_indices triu_indices")
def made(step: Step) -> Outputs:
    """Of nothing that is the rows', nor of their number: else a row would be told from another by its place."""
    for operand in step.inputs:
        constant(operand)
    return [Value(step.dims())]


@rule("meshgrid")
def meshgrid(step: Step) -> Outputs:
    for operand in step.inputs:
        constant(operand)
    return [[Value(step.dims(0, item)) for item in range(len(step.shapes[0]))]]


@rule("prior_box")
def prior_box(step: Step) -> Outputs:
    """Of the pictures' sizes alone."""
    for operand in step.inputs:
        one(operand)
    return [Value(step.dims()), Value(step.dims(1))]
