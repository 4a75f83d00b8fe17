"""Values that people write: numbers within bounds, and how an error shows what was written and what was meant."""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

Given = TypeVar("Given")
T = TypeVar("T")

YEAR_SECONDS = 31_536_000
SHA256 = re.compile(r"[0-9a-f]{64}")


_MOST_NAMES = 8
_LONGEST_WORD = 200


def nearest(word: str, known: Iterable[str], cutoff: float = 0.6) -> str:
    """`; did you mean X?` for the known word that is most like `word`, or nothing."""
    if len(word) > _LONGEST_WORD:  # nobody's slip, and comparing takes its time
        return ""
    close = difflib.get_close_matches(word, list(known), n=1, cutoff=cutoff)
    return f"; did you mean {close[0]}?" if close else ""


def shown(value: object) -> str:
    """`value` for an error's text: on one line, without control characters, not endless."""
    text = value if isinstance(value, str) else repr(value)
    if len(text) <= 80 and text.isprintable():
        return text
    text = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text[:120])
    return text if len(text) <= 80 else text[:77] + "…"


def listed(values: Iterable[object]) -> str:
    """`shown` of each, of the first few alone; "nothing" when there are none."""
    held = list(values)
    more = f" and {len(held) - _MOST_NAMES} more" if len(held) > _MOST_NAMES else ""
    return ", ".join(map(shown, held[:_MOST_NAMES])) + more or "nothing"


def _as_it_is(value: object) -> object:
    return value


def _without_point(value: float) -> float:
    """A whole number as an int, as TorchServe's clients read it."""
    return int(value) if value.is_integer() else value


@dataclass(frozen=True)
class ValueParser(Generic[Given, T]):
    """Reads a value as it is written. Raises ValueError with what was expected."""

    takes: str
    """What is written, in a word, for help."""
    parse: Callable[[Given], T]
    write: Callable[[Any], Any] = _as_it_is
    """The way back."""

    def __call__(self, value: Given) -> T:
        return self.parse(value)


def takes(takes: str) -> Callable[[Callable[[Given], T]], ValueParser[Given, T]]:
    """Makes a parser of a function."""
    return lambda parse: ValueParser(takes, parse)


def whole(unit: str, low: int, high: int) -> ValueParser[object, int]:
    """Whole numbers of `unit` from `low` to `high`."""

    def parse(value: object) -> int:
        if isinstance(value, int) and not isinstance(value, bool) and low <= value <= high:
            return value
        raise ValueError(f"expected a whole number of {unit} from {low} to {high}")

    return ValueParser(unit.upper(), parse)


def number(unit: str, low: float, high: float) -> ValueParser[object, float]:
    """Numbers of `unit` from `low` to `high`."""

    def parse(value: object) -> float:
        if isinstance(value, int | float) and not isinstance(value, bool) and low <= value <= high:
            return float(value)
        raise ValueError(f"expected a number of {unit} from {low:g} to {high:.10g}")

    return ValueParser(unit.upper(), parse, _without_point)


_milliseconds = number("milliseconds", 0, 3_600_000)
milliseconds: ValueParser[object, float] = ValueParser(
    "MILLISECONDS",
    lambda value: _milliseconds(value) / 1000,
    lambda seconds: _without_point(round(seconds * 1000, 6)),
)
"""Milliseconds, as seconds."""

_megabytes = whole("megabytes", 0, 2**20)
megabytes: ValueParser[object, int] = ValueParser(
    "MEGABYTES", lambda value: _megabytes(value) << 20, lambda size: size >> 20
)
"""Megabytes (MiB), as bytes."""


@takes("true|false")
def boolean(value: object) -> bool:
    if isinstance(value, bool):
        return value
    raise ValueError("expected true or false")


def one_of(*words: str) -> ValueParser[object, str]:
    def parse(value: object) -> str:
        if isinstance(value, str) and value in words:
            return value
        raise ValueError(f"expected {', '.join(words[:-1])} or {words[-1]}")

    return ValueParser("|".join(words), parse)


def as_number(text: str) -> object:
    """`text` as the int or float that it spells in plain decimal digits; anything else stays as it is."""
    if re.fullmatch(r"[+-]?[0-9]{1,18}", text):
        return int(text)
    if re.fullmatch(r"[+-]?[0-9]{1,18}\.[0-9]{1,18}", text):
        return float(text)
    return text
