"""A request's inputs → the values that a handler is given."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache, partial
from typing import Any

import numpy as np
import orjson

from pdserver.errors import InvalidRequest
from pdserver.types import Part, Tensor
from pdserver.values import shown


def decode(given: Part | Tensor) -> Any:
    """JSON as Python values, text as str, a Tensor as a read-only array, anything else as bytes.

    Raises InvalidRequest for what is not what its content type or shape says.
    """
    if isinstance(given, Tensor):
        return _array(given)
    try:
        return _decoder(given.content_type)(given.data)
    except orjson.JSONDecodeError as error:
        where = f"line {error.lineno}, column {error.colno}"
        raise InvalidRequest(f"{_title(given)} is not valid JSON: {error.msg} at {where}") from None
    except (ValueError, LookupError) as error:
        raise InvalidRequest(f"{_title(given)} is not text as its content type says: {error}") from None


def undecoded(given: Part | Tensor) -> Any:
    """A Part as a bytearray, whatever its content type says; a Tensor as `decode` has it."""
    return _array(given) if isinstance(given, Tensor) else bytearray(given.data)


def _title(given: Part) -> str:
    return "the body" if given.name == "body" else f'the part "{shown(given.name)}"'


def _array(given: Tensor) -> Any:
    try:
        return np.frombuffer(given.data, given.dtype).reshape(given.shape)
    except (TypeError, ValueError):
        size = f"{len(given.data)} bytes are not {shown(given.dtype)} of shape {list(given.shape)}"
        raise InvalidRequest(f'input "{shown(given.name)}": {size}') from None


# Content types come from clients: the cache is bounded.
@lru_cache(maxsize=256)
def _decoder(content_type: str) -> Callable[[bytes], Any]:
    media, *parameters = (piece.strip() for piece in content_type.split(";"))
    media = media.lower()
    if not media:
        return _sniff
    if media == "application/json" or media.endswith("+json"):
        return orjson.loads
    if media.startswith("text/"):
        return partial(str, encoding=_charset(parameters))
    return bytes


def _charset(parameters: list[str]) -> str:
    for parameter in parameters:
        key, _, value = parameter.partition("=")
        if key.strip().lower() == "charset":
            return value.strip().strip('"')
    return "utf-8"


def _sniff(data: bytes) -> Any:
    """Of no stated type: JSON if it looks like it and is it, else bytes."""
    if bytes(data[:64]).lstrip()[:1] in (b"{", b"["):
        try:
            return orjson.loads(data)
        except orjson.JSONDecodeError:
            pass
    return bytes(data)
