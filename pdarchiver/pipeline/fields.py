"""Reads a pipeline's YAML key by key. Errors name the place and the nearest key."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator
from typing import Any, NoReturn

from pdarchiver.errors import InvalidPipeline, nearest

NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_-]{0,63}")
_DURATION = re.compile(r"(\d+(?:\.\d+)?)\s*(ms|s|m)")
_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0}
_PRINTED = 100


class Fields:
    """A mapping of the file, and its place. `known` are the keys that it may have; None: any names."""

    def __init__(self, place: str, value: Any, known: Iterable[str] | None = None) -> None:
        self.place = place
        if not isinstance(value, dict):
            raise InvalidPipeline(place, f"expected a mapping (key: value), found {shown(value)}")
        for key in value:
            if not isinstance(key, str):
                raise InvalidPipeline(place, f"the key {shown(key)} is not text; put it in quotes")
        self.value: dict[str, Any] = value
        if known is not None:
            self.check_keys(known)

    def check_keys(self, known: Iterable[str]) -> None:
        allowed = sorted(known)
        for key in self.value:
            if key not in allowed:
                self.fail(key, f"unknown key{nearest(key[:_PRINTED], allowed)}; there are {', '.join(allowed)}")

    def at(self, key: str) -> str:
        if len(key) > _PRINTED or not key.isprintable():
            key = shown(key)
        return f"{self.place}.{key}" if self.place else key

    def fail(self, key: str, problem: str) -> NoReturn:
        raise InvalidPipeline(self.at(key), problem)

    def required(self, key: str, what: str) -> Any:
        value = self.value.get(key)
        if value is None:
            self.fail(key, f"missing: {what}")
        return value

    def text(self, key: str) -> str:
        """Raises InvalidPipeline for anything but text that is not empty and prints; "" if the key is absent."""
        if key not in self.value:
            return ""
        return text(self.at(key), self.value[key])

    def truth(self, key: str) -> bool:
        value = self.value.get(key, False)
        if not isinstance(value, bool):
            self.fail(key, f"expected true or false, found {shown(value)}")
        return value

    def whole(self, key: str, default: int | None = None) -> int:
        value = self.value.get(key, default)
        if type(value) is not int:  # in Python, bool is an int
            self.fail(key, f"expected a whole number, found {shown(value)}")
        return value

    def seconds(self, key: str) -> float:
        """Of a duration such as `2 s` or `500 ms`; 0.0 if the key is absent."""
        if key not in self.value:
            return 0.0
        value = self.value[key]
        match = _DURATION.fullmatch(value.strip()[:_PRINTED]) if isinstance(value, str) else None
        if match is None or not float(match[1]):
            self.fail(key, f"expected a duration with its unit, such as 2 s or 500 ms, found {shown(value)}")
        return float(match[1]) * _UNITS[match[2]]

    def names(self, what: str) -> Iterator[str]:
        """The keys, each checked to be a name."""
        for key in self.value:
            check_name(self.at(key), key, what)
            yield key


def check_name(place: str, name: str, what: str) -> None:
    if name.startswith("$"):
        raise InvalidPipeline(place, f"{shown(name)} can't be {what}: names that begin with $ are reserved")
    if not NAME.fullmatch(name):
        raise InvalidPipeline(
            place,
            f"{shown(name)} can't be {what}: expected at most 64 letters, digits, _ and -, no - in front",
        )


def text(place: str, value: Any) -> str:
    if isinstance(value, int | float) and not isinstance(value, bool):
        raise InvalidPipeline(place, f"expected text, found the number {shown(value)}: put it in quotes")
    if not isinstance(value, str) or not value or not value.isprintable():
        raise InvalidPipeline(place, f"expected text, found {shown(value)}")
    return value


def shown(value: Any) -> str:
    """A short form of a value for an error's text, in one line."""
    if value is None:
        return "nothing"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float) and not math.isfinite(value):
        return "no finite number"
    if isinstance(value, dict | list):
        return f"{'a' if value else 'an empty'} {'mapping' if isinstance(value, dict) else 'list'}"
    if isinstance(value, int) and value.bit_length() > 256:
        return "a number of hundreds of digits"
    printed = value[: _PRINTED + 1] if isinstance(value, str) else value
    found = repr(printed)
    return found if len(found) <= _PRINTED else found[:_PRINTED] + "…"
