"""JSON that strangers wrote, read without a doubt about what it says.

orjson refuses what is not JSON, NaN and halves of surrogate pairs among it, and takes the last of two equal keys. Here
these are refused as well, and so is a document that is nested deeply enough to harm whoever walks through it. Nearly
every document passes by a comparison of counts, which costs a fraction of a microsecond.
"""

from __future__ import annotations

import json
import re
from typing import Any

import orjson

from pdserver.formats.values import shown
from pdserver.memory_file import Buffer

MAX_DEPTH = 100
"""Of lists and objects in each other."""
_OF_NUMBERS = b"0123456789+-.eE, \t\r\n"
_STRINGS = re.compile(rb'"[^"\\]*(?:\\.[^"\\]*)*"\s*(:?)', re.DOTALL)
"""Each string of a document, and whether it is a key."""
_NESTING = frozenset({dict, list})


class InvalidJson(ValueError):
    """`str(error)` says what is wrong, and where. `syntax`: it is not JSON at all."""

    def __init__(self, problem: str, *, syntax: bool = False) -> None:
        super().__init__(problem)
        self.syntax = syntax


def loads(data: Buffer) -> Any:
    """The value of a JSON document in UTF-8. Raises InvalidJson."""
    text = data if isinstance(data, bytes) else bytes(data)
    try:
        value = orjson.loads(text)
    except orjson.JSONDecodeError as error:
        raise InvalidJson(f"{error.msg} at line {error.lineno}, column {error.colno}", syntax=True) from None
    colons = text.count(b":")
    shallow = text.count(b"[") + text.count(b"{") <= MAX_DEPTH or _is_shallow(text)
    if shallow and (colons < 2 or (type(value) is dict and len(value) == colons)):
        return value
    # Fewer keys than colons: some are in strings, or two keys are one.
    if (keys := _count_keys(value)) < colons and keys < _STRINGS.findall(text).count(b":"):
        json.loads(text, object_pairs_hook=_without_twins)
    return value


def _is_shallow(text: bytes) -> bool:
    """Whether that can be seen quickly, as it can of rows of numbers, however many there are: without their numbers,
    the innermost lists are empty, then those around them are."""
    rest = text.translate(None, _OF_NUMBERS)
    for removed in range(8):
        if rest.count(b"[") + rest.count(b"{") <= MAX_DEPTH - removed:
            return True
        rest = rest.replace(b"[]", b"")
    return False


def _count_keys(value: Any) -> int:
    """Of all objects together. Raises InvalidJson for what is nested too deeply."""
    keys = 0
    level = [value]
    for _ in range(MAX_DEPTH):
        inner: list[Any] = []
        for held in level:
            values = held
            if type(held) is dict:
                keys += len(held)
                values = held.values()
            elif type(held) is not list:
                continue
            if not _NESTING.isdisjoint(map(type, values)):
                inner += [item for item in values if type(item) in _NESTING]
        if not inner:
            return keys
        level = inner
    raise InvalidJson(f"lists and objects are nested more than {MAX_DEPTH} deep")


def _without_twins(pairs: list[tuple[str, Any]]) -> None:
    seen = set[str]()
    for key, _ in pairs:
        if key in seen:
            raise InvalidJson(f'the key "{shown(key)}" is given twice')
        seen.add(key)
