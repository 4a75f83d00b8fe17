"""Steps over the fields of protobuf messages, without making objects of them."""

from __future__ import annotations

WITH_LENGTH = 2
"""The wire type of texts, bytes, messages and packed numbers."""
_LENGTHS = {1: 8, 5: 4, 3: 0, 4: 0}
"""Wire type → length. The last two mark the ends of a group, whose content is checked like any other."""
_32_BITS = 0xFFFFFFFF
"""C++ keeps this many bits of a key."""


def field(data: memoryview, at: int, size: int) -> tuple[int, int, int]:
    """A field's key, and where its value begins and ends. Raises ValueError if there is no field that fits.

    The key is the field's number * 8 + its wire type. `size`: of the message, of which `data` may be a part.
    """
    key, at = varint(data, at)
    key &= _32_BITS
    wire_type = key & 7
    if wire_type == 0 and key:
        return key, at, varint(data, at)[1]
    if wire_type == WITH_LENGTH:
        length, at = varint(data, at)
    elif wire_type in _LENGTHS:
        length = _LENGTHS[wire_type]
    else:
        raise ValueError(f"wire type {wire_type} at byte {at}")
    if at + length > size:
        raise ValueError(f"a field of {length} bytes at byte {at}, of {size}")
    return key, at, at + length


def varint(data: memoryview, at: int) -> tuple[int, int]:
    """A number, and where it ends. Raises ValueError."""
    if at < len(data) and data[at] < 0x80:  # as most are
        return data[at], at + 1
    value = 0
    for shift in range(0, 70, 7):
        if at >= len(data):
            break
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
    raise ValueError(f"a number that does not end at byte {at}")
