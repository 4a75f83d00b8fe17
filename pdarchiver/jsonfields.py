"""Reads untrusted JSON field by field. Errors point at the field."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any, NoReturn

from pdarchiver.errors import InvalidManifest

_MAX_DEPTH = 32
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\ud800-\udfff]")


class JsonObject:
    """A JSON object and its pointer. Fields that are absent or null read as None; wrong types raise InvalidManifest."""

    def __init__(self, pointer: str, value: Any) -> None:
        if not isinstance(value, dict):
            raise InvalidManifest(pointer, f"expected an object, found {shown(value)}")
        self.pointer = pointer
        self.value: dict[str, Any] = value

    def fail(self, key: str, problem: str) -> NoReturn:
        escaped = key[:200].replace("~", "~0").replace("/", "~1")
        raise InvalidManifest(f"{self.pointer}/{escaped}", problem)

    def mapping(self, key: str) -> dict[str, Any] | None:
        value = self.value.get(key)
        if value is not None and not isinstance(value, dict):
            self.fail(key, f"expected an object, found {shown(value)}")
        return value

    def array(self, key: str) -> list[Any] | None:
        value = self.value.get(key)
        if value is not None and not isinstance(value, list):
            self.fail(key, f"expected an array, found {shown(value)}")
        return value

    def text(self, key: str, check: Callable[[str], object] = str) -> str | None:
        """A string without control characters, for which `check` raises no ValueError; "" reads as absent."""
        value = self.value.get(key)
        if value is not None and not isinstance(value, str):
            self.fail(key, f"expected a string, found {shown(value)}")
        if not value:
            return None
        if _CONTROL.search(value):
            self.fail(key, f"has control characters: {value[:200]!r}")
        try:
            check(value)
        except ValueError as error:
            self.fail(key, str(error))
        return value

    def required_text(self, key: str) -> str:
        return self.text(key) or self.fail(key, "expected a string that is not empty")


def load(data: bytes) -> JsonObject:
    """The object in a JSON document in UTF-8, without a byte order mark and without repeated keys.

    Anything that other programs could not read again is refused as well: halves of surrogate pairs, whole numbers of
    more than 64 bits, deep nesting.
    """
    try:
        root = json.loads(
            data.decode(), object_pairs_hook=_no_twins, parse_constant=_no_constant, parse_int=_whole_number
        )
        _check_depth(root)
        json.dumps(root, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        raise InvalidManifest("", "not JSON in UTF-8: a text has half of a surrogate pair") from None
    except (ValueError, RecursionError) as error:
        raise InvalidManifest("", f"not JSON in UTF-8: {error}") from None
    return JsonObject("", root)


def shown(value: object) -> str:
    """A short form of a JSON value for an error's text, on one line and without control characters."""
    return "nothing" if value is None else json.dumps(value)[:100]


def _no_twins(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in pairs:
        if key in found:
            raise ValueError(f"key {key[:200]!r} is given twice")
        found[key] = value
    return found


def _whole_number(text: str) -> int:
    # The length first, because reading a number of a million digits is slow.
    if len(text) > 20 or not -(2**63) <= int(text) < 2**64:
        raise ValueError(f"the number {text[:40]} is too large")
    return int(text)


def _check_depth(root: Any) -> None:
    level = [root] if isinstance(root, dict | list) else []
    for _ in range(_MAX_DEPTH):
        if not level:
            return
        inner = [item for held in level for item in (held.values() if isinstance(held, dict) else held)]
        level = [item for item in inner if isinstance(item, dict | list)]
    raise ValueError(f"nested more than {_MAX_DEPTH} deep")


def _no_constant(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is not JSON")
