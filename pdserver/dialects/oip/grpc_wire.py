"""ModelInferRequest and ModelInferResponse as bytes, with the tensors' bytes left where they are.

Parsing such a message copies each tensor twice, and writing one does, too. But its fields can come one by one: those of
raw contents are cut out on the way in, and put behind the others on the way out. Only they can be large.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pdserver.dialects.protos import decode, message_class
from pdserver.errors import InvalidRequest

_Request = message_class("inference.ModelInferRequest")
_RAW_INPUT = b"\x3a"
"""How field 7 begins that has a length: raw_input_contents."""
_RAW_OUTPUT = b"\x32"
"""The same of field 6, raw_output_contents."""
_STREAMED = b"\x12"
"""The same of field 2, infer_response of ModelStreamInferResponse."""
CUT_BYTES = 32 * 1024
"""Below, copying costs less than looking at each field."""
_VARINT, _EIGHT_BYTES, _LENGTH, _FOUR_BYTES = 0, 1, 2, 5


def split(data: bytes | memoryview) -> tuple[Any, Sequence[bytes | memoryview]]:
    """A ModelInferRequest, and its raw_input_contents, which are cut out of it if it is large.

    Raises InvalidRequest.
    """
    if len(data) < CUT_BYTES:
        message = decode(_Request, data)
        return message, message.raw_input_contents
    return _cut(data)


def _cut(data: bytes | memoryview) -> tuple[Any, list[memoryview]]:
    rest = memoryview(data)
    kept: list[memoryview] = []
    raw: list[memoryview] = []
    begin = place = 0
    try:
        while place < len(data):
            start = place
            tag, place = _varint(data, place)
            kind = tag & 7
            if kind == _LENGTH:
                length, place = _varint(data, place)
                end = place + length
            elif kind == _VARINT:
                _, end = _varint(data, place)
            else:
                end = place + {_EIGHT_BYTES: 8, _FOUR_BYTES: 4}[kind]
            if end > len(data):
                raise IndexError
            if tag == _RAW_INPUT[0]:
                kept.append(rest[begin:start])
                raw.append(rest[place:end])
                begin = end
            place = end
    except (IndexError, KeyError):
        raise InvalidRequest(f"what was sent is not a {_Request.DESCRIPTOR.full_name}") from None
    kept.append(rest[begin:])
    return decode(_Request, bytes(kept[0]) if len(kept) == 1 else b"".join(kept)), raw


def id_of(data: bytes | memoryview) -> str:
    """The request's id, as far as it can be read."""
    try:
        return str(split(data)[0].id)
    except Exception:  # noqa: BLE001 - it is asked when something has failed already
        return ""


def join(head: bytes, raw: Sequence[bytes]) -> bytes:
    """A ModelInferResponse with raw_output_contents added."""
    pieces = [head]
    for data in raw:
        pieces += (_RAW_OUTPUT, _varint_of(len(data)), data)
    return b"".join(pieces)


def streamed(response: bytes) -> bytes:
    """A ModelStreamInferResponse with this ModelInferResponse."""
    return b"".join((_STREAMED, _varint_of(len(response)), response))


def _varint(data: bytes | memoryview, place: int) -> tuple[int, int]:
    """A number of seven bits a byte, the lowest first, and where it ends. Raises IndexError where the data end."""
    byte = data[place]
    if byte < 0x80:
        return byte, place + 1
    number = byte & 0x7F
    for shift in range(7, 70, 7):
        place += 1
        byte = data[place]
        number |= (byte & 0x7F) << shift
        if byte < 0x80:
            return number, place + 1
    raise IndexError


def _varint_of(number: int) -> bytes:
    pieces = bytearray()
    while number > 0x7F:
        pieces.append(number & 0x7F | 0x80)
        number >>= 7
    pieces.append(number)
    return bytes(pieces)
