"""What is known of a tensor between two operations."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from pdserver.handlers.runtime.rowwise.dims import Dim

Dims = tuple[Dim, ...]
Number = Dim | None
"""Of a tensor of whole numbers; None: one that does not depend on the rows, and is not known."""


@dataclass(frozen=True)
class Value:
    """With `axis`, the rows lie along it, the first one first, and each depends on its own row of the inputs alone.
    With `mixed`, nothing is known. With neither, it depends neither on the rows nor on how many there are."""

    dims: Dims = ()
    axis: int | None = None
    mixed: str = ""
    """The operation because of which nothing is known."""
    sized_by_data: bool = False
    """How long the first axis is depends on what the rows hold."""
    numbers: tuple[Number, ...] | None = None
    """The elements, where they are sizes and the like. They alone may say how many rows there are."""
    uniform: bool = False
    """All elements are equal."""
    ids_of: str = ""
    """The input that this is, whole numbers in another shape at most."""

    @property
    def rank(self) -> int:
        return len(self.dims)

    @property
    def is_constant(self) -> bool:
        """Neither the rows nor their number are in it."""
        return self.axis is None and not self.mixed and not self.counts_rows

    @property
    def counts_rows(self) -> bool:
        return self.numbers is not None and any(number is not None and number.counts_rows for number in self.numbers)

    def plain(self) -> Value:
        """Without what is known of its elements."""
        return replace(self, numbers=None, uniform=False, ids_of="")


Argument = Value | Sequence[Value] | None


class Mixed(Exception):
    """Raised by a rule that can't say where the rows are."""

    def __init__(self, *, sized_by_data: bool = False) -> None:
        super().__init__()
        self.sized_by_data = sized_by_data


def one(argument: Argument) -> Value:
    """Raises Mixed for what is left out, or several, or mixed, and for how many rows there are: that is for shapes."""
    if not isinstance(argument, Value) or argument.mixed or argument.counts_rows:
        raise Mixed
    return argument


def passed_on(argument: Argument) -> Value:
    """Likewise; who is as long as the operand is sized by data when that is."""
    if isinstance(argument, Value) and argument.sized_by_data:
        raise Mixed(sized_by_data=True)
    return one(argument)


def several(argument: Argument) -> list[Value]:
    """Likewise."""
    if not isinstance(argument, Sequence):
        return [one(argument)]
    return [one(value) for value in argument]


def constant(argument: Argument) -> None:
    """Raises Mixed for what is not constant, if it is there."""
    for value in [] if argument is None else several(argument):
        if not value.is_constant:
            raise Mixed


def whole(argument: Argument) -> tuple[Number, ...]:
    """The whole numbers in a tensor of sizes, or in several of them. Raises Mixed when they are not known to be some
    that are the same for all rows, or their number."""
    found: list[Number] = []
    for value in [argument] if isinstance(argument, Value) else argument or ():
        if value.mixed or value.axis is not None or (value.numbers is None and value.rank):
            raise Mixed
        found += (None,) if value.numbers is None else value.numbers
    return tuple(found)


def fixed(argument: Argument) -> list[int]:
    """Whole numbers that the file says, such as axes. Raises Mixed."""
    numbers = whole(argument)
    if any(number is None or number.symbols for number in numbers):
        raise Mixed
    return [number.number for number in numbers if number is not None]


def rows_axis(value: Value) -> int:
    """Raises Mixed when there are no rows in it."""
    if value.axis is None:
        raise Mixed
    return value.axis


def axis_of(value: Value, axis: int, *, more: int = 0) -> int:
    """Counted from the first. Raises Mixed when there is none such."""
    found = axis + value.rank + more if axis < 0 else axis
    if not 0 <= found < value.rank + more:
        raise Mixed
    return found


def any_tensor(argument: Argument) -> Value:
    """Any tensor, one of sizes too."""
    return argument if isinstance(argument, Value) and argument.counts_rows else passed_on(argument)
