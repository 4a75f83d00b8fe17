"""A request's inputs → the values that a handler is given."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache, partial
from typing import Any

import numpy as np

from pdserver.errors import InvalidRequest
from pdserver.formats import strict_json
from pdserver.formats.strict_json import InvalidJson
from pdserver.formats.values import shown
from pdserver.handlers.runtime.npy import NPY_MAGIC, load_npy
from pdserver.types import Binary, Part, Tensor

_BEGINS_OF_JSON = (b"{", b"[")


def decode(given: Part | Tensor) -> Any:
    """JSON as Python values and text as str, where the content type says it; a Tensor as a read-only array; anything
    else as a bytearray.

    Raises InvalidRequest for what is not what its content type or shape says.
    """
    if isinstance(given, Tensor):
        return _array(given)
    try:
        return _decoder(given.content_type)(given.data)
    except InvalidJson as error:
        raise InvalidRequest(f"{_title(given)} is not valid JSON: {error}") from None
    except ValueError as error:
        raise InvalidRequest(f"{_title(given)} is not text as its content type says: {error}") from None


def decode_arrays(given: Part | Tensor) -> Any:
    """As `decode`, but a large .npy file becomes a read-only array on the same memory, not a copy of its bytes."""
    data: Any = given.data
    if isinstance(data, memoryview) and data[: len(NPY_MAGIC)] == NPY_MAGIC and isinstance(given, Part):
        return load_npy(data) if _decoder(given.content_type) is bytearray else decode(given)
    return decode(given)


def begins_of_json(content_type: str) -> tuple[bytes, ...] | None:
    """By which first bytes built-in handlers know that data of this type are JSON; None: all data of it are."""
    read = _decoder(content_type)
    return None if read is strict_json.loads else _BEGINS_OF_JSON if read is bytearray else ()


def undecoded(given: Part | Tensor) -> Any:
    """A Part as a bytearray, whatever its content type; a Tensor as from `decode`."""
    return _array(given) if isinstance(given, Tensor) else bytearray(given.data)


def opened(value: Any) -> Any:
    """The value of bytes without a stated type, for built-in handlers: their JSON, if they are JSON.

    Raises InvalidRequest for JSON that is refused for another reason than its syntax.
    """
    if not isinstance(value, Binary) or value[:64].lstrip()[:1] not in _BEGINS_OF_JSON:
        return value
    try:
        return strict_json.loads(value)
    except InvalidJson as error:
        if error.syntax:
            return value
        raise InvalidRequest(f"the request is not valid JSON: {error}") from None


def _title(given: Part) -> str:
    return "the body" if given.name == "body" else f'the part "{shown(given.name)}"'


def _array(given: Tensor) -> Any:
    try:
        return np.frombuffer(given.data, given.dtype).reshape(given.shape)
    except (TypeError, ValueError):
        size = f"{len(given.data)} bytes are not {shown(given.dtype)} of shape {list(given.shape)}"
        raise InvalidRequest(f'input "{shown(given.name)}": {size}') from None


# The cache is bounded, since content types come from clients.
@lru_cache(maxsize=256)
def _decoder(content_type: str) -> Callable[[bytes], Any]:
    """The function that reads data of this type, which raises ValueError."""
    media, *parameters = (piece.strip() for piece in content_type.split(";"))
    media = media.lower()
    if media == "application/json" or media.endswith("+json"):
        charset = _charset(parameters)
        return strict_json.loads if charset in _OF_JSON else partial(_refuse, f"JSON is UTF-8, not {shown(charset)}")
    if media.startswith("text/"):
        charset = _charset(parameters)
        if charset not in _CHARSETS:
            return partial(_refuse, f"the charset {shown(charset)} is not known here: send UTF-8")
        return partial(str, encoding=charset)
    return bytearray


_OF_JSON = frozenset({"utf-8", "utf8", "us-ascii", "ascii"})
# By name, and not whatever Python finds a codec for: punycode takes quadratic time, unicode_escape is no charset, and
# every unknown name that Python is asked for it remembers for ever.
_CHARSETS = _OF_JSON.union(
    *(names.split() for names in (
        "latin1 latin-1 iso-8859-1 iso-8859-2 iso-8859-3 iso-8859-4 iso-8859-5 iso-8859-6 iso-8859-7 iso-8859-8",
        "iso-8859-9 iso-8859-10 iso-8859-11 iso-8859-13 iso-8859-14 iso-8859-15 iso-8859-16 koi8-r koi8-u",
        "windows-1250 windows-1251 windows-1252 windows-1253 windows-1254 windows-1255 windows-1256 windows-1257",
        "windows-1258 utf-16 utf-16le utf-16be utf-32 utf-32le utf-32be gbk gb2312 gb18030 big5 big5-hkscs",
        "shift-jis euc-jp iso-2022-jp euc-kr tis-620",
    ))
)  # fmt: skip


def _charset(parameters: list[str]) -> str:
    for parameter in parameters:
        key, _, value = parameter.partition("=")
        if key.strip().lower() == "charset":
            return value.strip().strip('"').lower().replace("_", "-")
    return "utf-8"


def _refuse(reason: str, _: bytes) -> Any:
    raise ValueError(reason)
