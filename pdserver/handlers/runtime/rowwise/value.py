"""What is known of a tensor between two operations."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from pdserver.handlers.runtime.rowwise.dims import ONE, Dim, product

Dims = tuple[Dim, ...]
Number = Dim | None
"""Of a tensor of whole numbers; None: one that does not depend on the rows, and is not known."""
MOST_NUMBERS = 64
"""Sizes are few."""
MOST_AXES = 64


@dataclass(frozen=True)
class Value:
    """With `axis`, the rows lie along it, the first one first, and each depends on its own row of the inputs alone.
    With `mixed`, nothing is known. With neither, it depends neither on the rows nor on how many there are."""

    dims: Dims = ()
    axis: int | None = None
    before: Dim = ONE
    """How many of other elements the rows' axis begins with, as if it were two axes, made one by a reshape: all rows
    lie in it so many times. Rules refuse it, but for those that take apart what was folded so."""
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

    def lies_as(self, other: Value) -> bool:
        """Whether the rows are in the same places."""
        return (self.dims, self.axis, self.before) == (other.dims, other.axis, other.before)

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
    """Raises Mixed for what is left out, or several, or mixed, or folded, and for how many rows there are: that is for
    shapes."""
    if not isinstance(argument, Value) or argument.mixed or argument.counts_rows or argument.before != ONE:
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
    that are the same for all rows, or their number, and for many."""
    found: list[Number] = []
    for value in [argument] if isinstance(argument, Value) else argument or ():
        found += _numbers(value)
        if len(found) > MOST_NUMBERS:
            raise Mixed
    return tuple(found)


def _numbers(value: Value) -> tuple[Number, ...]:
    if value.mixed or value.axis is not None:
        raise Mixed
    if value.numbers is not None:
        return value.numbers
    count = product(value.dims)
    if value.rank > 1 or count.symbols or count.number > MOST_NUMBERS:
        raise Mixed
    return (None,) * count.number


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


def even_folded(argument: Argument) -> Value:
    """Any tensor, one whose rows are not the first in their axis too."""
    return argument if isinstance(argument, Value) and argument.before != ONE else any_tensor(argument)
