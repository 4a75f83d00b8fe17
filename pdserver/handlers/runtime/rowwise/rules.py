"""The table of rules, by operation, and what they work with."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from pdserver.handlers.runtime.rowwise.dims import ONE, Dim
from pdserver.handlers.runtime.rowwise.value import Argument, Dims, Mixed, Value, constant


@dataclass
class Step:
    """One operation, with what is known of its operands."""

    kind: str
    inputs: Sequence[Argument]
    attributes: Mapping[str, Any]
    shapes: Sequence[Sequence[tuple[int, ...] | None]]
    """Of the outputs, as the file has them; of an output that is a list, several."""
    rows: Dim
    """How many there are."""
    symbols: Iterator[int]
    """For lengths that nothing is known of."""
    limits: dict[str, int] = field(default_factory=dict)
    """By input: what its numbers must be below."""
    writes: bool = True
    """Whether one that can write to its operands in place does so."""

    def operand(self, number: int) -> Argument:
        return self.inputs[number] if number < len(self.inputs) else None

    def attribute(self, name: str, otherwise: Any) -> Any:
        """Raises Mixed for one that is only known when the model runs."""
        value = self.attributes.get(name)
        if value is ...:
            raise Mixed
        return otherwise if value is None else value

    def new_symbol(self) -> Dim:
        return Dim(1, (f"_{next(self.symbols)}",))

    def dims(self, output: int = 0, item: int = 0) -> Dims:
        """Those of an output by the file, with new symbols for what it does not say."""
        shape = self.shapes[output][item]
        if shape is None:
            raise Mixed
        return tuple(Dim(length) if length >= 0 else self.new_symbol() for length in shape)

    def length(self, axis: int) -> Dim:
        """Of the first output by the file, or a new symbol."""
        shape = self.shapes[0][0]
        return self.new_symbol() if shape is None or shape[axis] < 0 else Dim(shape[axis])

    def along(self, axis: int, rows: Dim, output: int = 0, item: int = 0) -> Value:
        """An output with its rows, so many, along `axis`."""
        dims = list(self.dims(output, item))
        if not 0 <= axis < len(dims):
            raise Mixed
        dims[axis] = rows
        return Value(tuple(dims), axis)


Outputs = Sequence[Argument]
"""Those that come last may be missing: nothing is known of them."""
Rule = Callable[[Step], Outputs]
"""Raises Mixed."""
RULES: dict[str, Rule] = {}


def rule(kinds: str) -> Callable[[Rule], Rule]:
    """Enters a function for the operations of these names."""

    def enter(function: Rule) -> Rule:
        RULES.update(dict.fromkeys(kinds.split(), function))
        return function

    return enter


def place_by_place(function: Rule) -> Rule:
    """Makes a rule, of an operation that works on each place of the rows' axis by itself, one for folded rows too, as
    long as all other operands are constant."""

    def through(step: Step) -> Outputs:
        folded = [value for value in step.inputs if isinstance(value, Value) and value.before != ONE]
        if not folded:
            return function(step)
        apart = [replace(value, before=ONE) if value is folded[0] else value for value in step.inputs]
        constant([value for value in step.inputs if value is not None and value is not folded[0]])  # type: ignore[misc]
        outputs = function(replace(step, inputs=apart))
        return [replace(value, before=folded[0].before) for value in outputs if isinstance(value, Value)]

    return through
