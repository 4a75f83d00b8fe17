"""The elements of tensors that numpy cannot read: texts and bytes (BYTES), and bfloat16 (BF16).

Source: the binary data of the Open Inference Protocol, https://github.com/kserve/open-inference-protocol.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray

_LENGTH = struct.Struct("<I")


def elements(data: bytes | memoryview, count: int) -> list[bytes]:
    """The `count` elements of BYTES: each is behind its length. Raises ValueError if there are more or fewer."""
    found: list[bytes] = []
    place, end = 0, len(data)
    while place < end:
        if end - place < _LENGTH.size:
            raise ValueError(f"{end - place} bytes are left over after {len(found)} elements")
        start = place + _LENGTH.size
        place = start + _LENGTH.unpack_from(data, place)[0]
        if place > end:
            raise ValueError(f"element {len(found)} has {place - start} bytes, of which {end - start} are there")
        found.append(bytes(data[start:place]))
    if len(found) != count:
        raise ValueError(f"expected {count} elements, got {len(found)}")
    return found


def packed(items: Iterable[bytes]) -> bytes:
    """The data of BYTES with these elements."""
    pieces: list[bytes] = []
    for item in items:
        pieces += (_LENGTH.pack(len(item)), item)
    return b"".join(pieces)


def widened(bits: NDArray[np.uint16]) -> NDArray[np.float32]:
    """The numbers with these bits in bfloat16."""
    return (bits.astype(np.uint32) << 16).view(np.float32)


def rounded(numbers: NDArray[Any]) -> NDArray[np.uint16]:
    """The bits of the nearest bfloat16 numbers, with ties to even."""
    floats = np.ascontiguousarray(numbers, np.float32)
    bits = floats.view(np.uint32)
    halves = (bits + (0x7FFF + ((bits >> 16) & 1))) >> 16
    return np.where(np.isnan(floats), bits >> 16 | 0x40, halves).astype(np.uint16).reshape(numbers.shape)
