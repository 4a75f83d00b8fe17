"""Lengths of axes that are not known before a model runs, as products: 12·N·T."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import NamedTuple

ROWS = "N"
"""The symbol for the number of rows."""


class Dim(NamedTuple):
    """A number times symbols, in the order of the alphabet."""

    number: int
    symbols: tuple[str, ...] = ()

    @property
    def counts_rows(self) -> bool:
        return ROWS in self.symbols


ONE = Dim(1)


def product(dims: Iterable[Dim]) -> Dim:
    number, symbols = 1, list[str]()
    for dim in dims:
        number *= dim.number
        symbols += dim.symbols
    return Dim(number, tuple(sorted(symbols)))


def quotient(dim: Dim, divisor: Dim) -> Dim | None:
    """None when it is not a whole one whatever the symbols stand for."""
    if not divisor.number or dim.number % divisor.number or Counter(divisor.symbols) - Counter(dim.symbols):
        return None
    left = Counter(dim.symbols) - Counter(divisor.symbols)
    return Dim(dim.number // divisor.number, tuple(sorted(left.elements())))
