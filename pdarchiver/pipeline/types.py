"""Types of values, as text, and which goes where."""

from __future__ import annotations

import re

from pdarchiver.dtypes import DTYPES
from pdarchiver.errors import nearest
from pdarchiver.pipeline.graph import ANY, OPAQUE, Type

_TENSOR = re.compile(r"(\w+)\s*(?:\[([^\]]*)\])?")
_LENGTH = re.compile(r"-1|\d{1,18}")
_MAX_RANK = 32
_PLAIN = {"any": ANY, "bytes": Type("bytes"), "text": Type("text"), "json": Type("json")}
_WORDS = (*_PLAIN, "list", "tensor", *sorted(DTYPES))


def parse(text: str) -> Type:
    """The type that `bytes`, `float32[-1, 3, 224, 224]`, `int64` or `list of bytes` names. Raises ValueError."""
    words = text.split()
    if words[:1] == ["list"]:
        return _list(text, words)
    match = _TENSOR.fullmatch(text.strip())
    kind, lengths = match.groups() if match else ("", None)
    if lengths is None and kind in _PLAIN:
        return _PLAIN[kind]
    if kind not in DTYPES and kind != "tensor":
        known = "bytes, text, json, any, list, list of TYPE, a tensor's dtype or dtype[lengths]"
        raise ValueError(f"{text[:100]!r} is no type{nearest(text[:100], _WORDS)}: expected {known}")
    return Type("tensor", "" if kind == "tensor" else kind, None if lengths is None else _shape(text, lengths))


def _list(text: str, words: list[str]) -> Type:
    if len(words) == 1:
        return Type("list")
    if words[1] != "of" or len(words) == 2:
        raise ValueError(f"{text[:100]!r} is no type: expected list, or list of TYPE")
    item = parse(" ".join(words[2:])) if words[2] != "list" else Type("list")
    if item.kind == "list":
        raise ValueError(f"{text[:100]!r}: there are no lists of lists; put the items into one list, or give json")
    return Type("list", item=item)


def _shape(text: str, lengths: str) -> tuple[int, ...]:
    parts = [part.strip() for part in lengths.split(",")] if lengths.strip() else []
    if len(parts) > _MAX_RANK or not all(_LENGTH.fullmatch(part) for part in parts):
        raise ValueError(
            f"{text[:100]!r}: expected at most {_MAX_RANK} lengths, each a whole number, or -1 for any length"
        )
    return tuple(map(int, parts))


def fits(given: Type, wanted: Type) -> bool:
    """Whether a value of the type `given` may be one of the type `wanted`: False where that is impossible."""
    if "any" in (given.kind, wanted.kind):
        return True
    if given.kind in OPAQUE and wanted.kind in OPAQUE:
        return True
    if given.kind != wanted.kind:
        return False
    if given.kind == "list":
        return fits(given.item or ANY, wanted.item or ANY)
    if given.dtype and wanted.dtype and given.dtype != wanted.dtype:
        return False
    return given.shape is None or wanted.shape is None or _same(given.shape, wanted.shape)


def _same(one: tuple[int, ...], other: tuple[int, ...]) -> bool:
    return len(one) == len(other) and all(a == b or -1 in (a, b) for a, b in zip(one, other, strict=True))


def row(tensor: Type) -> Type:
    """Of an item along a tensor's first axis. The tensor has one, or its shape is not known."""
    return Type("tensor", tensor.dtype, None if tensor.shape is None else tensor.shape[1:])


def joined(one: Type, other: Type) -> Type:
    """Of a value that is of the one type or of the other, as exactly as can be said."""
    if one == other:
        return one
    if one.kind != other.kind:
        return ANY
    if one.kind == "list":
        item = joined(one.item or ANY, other.item or ANY)
        return Type("list", item=None if item == ANY else item)
    dtype = one.dtype if one.dtype == other.dtype else ""
    if one.shape is None or other.shape is None or len(one.shape) != len(other.shape):
        return Type("tensor", dtype)
    return Type("tensor", dtype, tuple(a if a == b else -1 for a, b in zip(one.shape, other.shape, strict=True)))


def may_be_true_or_false(value: Type) -> bool:
    """Whether a condition may ask for it: all but tensors of none or several numbers."""
    return value.kind != "tensor" or value.shape is None or all(length in (-1, 1) for length in value.shape)
