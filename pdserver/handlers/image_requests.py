"""Where in a request its image is."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Sequence
from typing import Any

from pdserver.errors import InvalidRequest
from pdserver.handlers.npy import NPY_MAGIC, load_npy
from pdserver.values import shown


def find(row: dict[str, Any], input_name: str) -> Any:
    """An image file's bytes; or an array or nested lists, which are for the model's input `input_name` as they are.

    Raises InvalidRequest when there is nothing, or more than can be told apart.
    """
    value = _only(row, input_name)
    if isinstance(value, dict):
        value = _only(value, input_name)
    if isinstance(value, str):
        return _from_base64(value)
    if isinstance(value, bytearray):
        value = bytes(value)
    if isinstance(value, bytes) and value.startswith(NPY_MAGIC):
        return load_npy(value)
    return value


def agree(some: Sequence[int], others: Sequence[int]) -> bool:
    """Whether two shapes, of equal rank, are the same but for lengths of -1."""
    return all(-1 in pair or pair[0] == pair[1] for pair in zip(some, others, strict=True))


def _only(row: dict[str, Any], input_name: str) -> Any:
    names = [name for name in ("data", "body", input_name) if name in row]
    if not names and len(row) != 1:
        got = ", ".join(map(shown, row)) or "nothing"
        raise InvalidRequest(f'expected an image as the body or as a part called "data", got {got}')
    return row[names[0]] if names else next(iter(row.values()))


def _from_base64(text: str) -> bytes:
    """Strictly, but for the line breaks that tools put in."""
    try:
        return base64.b64decode(text.replace("\r", "").replace("\n", ""), validate=True)
    except (binascii.Error, ValueError):
        raise InvalidRequest("expected an image; the text is not base64 of one") from None
