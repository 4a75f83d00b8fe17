"""protobuf's wire format, as far as messages are taken apart and put together without copying what is large in them.

Source: https://protobuf.dev/programming-guides/encoding
"""

from __future__ import annotations

from collections.abc import Iterator

from pdserver.dialects.rpc import Answer
from pdserver.errors import InvalidRequest

MAX_FIELDS = 4096
"""Of a large message: each of them is looked at."""
_ONE_BYTE = [bytes((number,)) for number in range(0x80)]
_LARGE_BYTES = 64 * 1024
_VARINT, _EIGHT_BYTES, _LENGTH, _FOUR_BYTES = 0, 1, 2, 5


class TooManyFields(InvalidRequest):
    """The message may be a good one, but looking at each of its fields would take long."""


def fields(data: bytes | memoryview, name: str) -> Iterator[tuple[int, int, int, int]]:
    """Each field of a message called `name`: its tag, where it begins, where its value does, which is behind the length
    if there is one, and where it ends. Raises InvalidRequest, TooManyFields."""
    place = count = 0
    try:
        while place < len(data):
            count += 1
            if count > MAX_FIELDS:
                raise TooManyFields(f"the {name} has more than {MAX_FIELDS:,} fields")
            start = place
            tag, place = varint_in(data, place)
            kind = tag & 7
            if kind == _LENGTH:
                length, place = varint_in(data, place)
                end = place + length
            elif kind == _VARINT:
                _, end = varint_in(data, place)
            else:
                end = place + {_EIGHT_BYTES: 8, _FOUR_BYTES: 4}[kind]
            if end > len(data):
                raise IndexError
            yield tag, start, place, end
            place = end
    except (IndexError, KeyError):
        raise InvalidRequest(f"what was sent is not a {name}") from None


def field(tag: bytes, data: bytes) -> tuple[bytes, bytes, bytes]:
    """The pieces of a field that has a length."""
    return tag, varint(len(data)), data


def joined(pieces: list[bytes]) -> Answer:
    """A message in pieces, as one if that is soon done."""
    return b"".join(pieces) if sum(map(len, pieces)) < _LARGE_BYTES else pieces


def varint(number: int) -> bytes:
    """Seven bits a byte, the lowest first."""
    if number < 0x80:
        return _ONE_BYTE[number]
    pieces = bytearray()
    while number > 0x7F:
        pieces.append(number & 0x7F | 0x80)
        number >>= 7
    pieces.append(number)
    return bytes(pieces)


def varint_in(data: bytes | memoryview, place: int) -> tuple[int, int]:
    """A number, and where it ends. Raises IndexError where the data end."""
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
