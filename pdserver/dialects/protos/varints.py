"""Packed varints of protobuf ↔ numbers, all of them at once.

Source: https://protobuf.dev/programming-guides/encoding. Taken one by one in Python, a picture's 150,000 numbers would
take longer than many an inference.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from pdserver.errors import InvalidRequest

_MOST_BYTES = 10
"""Of one number of 64 bits."""


def read(data: bytes, dtype: str) -> bytes:
    """The numbers as little-endian data of `dtype`: an integer one of 32 or 64 bits, or bool. Larger ones lose their
    upper bits, as with protobuf itself. Raises InvalidRequest."""
    values = _values(np.frombuffer(data, np.uint8))
    if dtype == "bool":
        return bytes((values != 0).data)
    return bytes(values.astype(f"<u{np.dtype(dtype).itemsize}", copy=False).data)


def write(data: bytes, dtype: str) -> bytes:
    """Reverse `read`, for integers of any size."""
    held: NDArray[Any] = np.frombuffer(data, dtype)
    values = held.astype(np.int64, copy=False).view(np.uint64)
    if not len(values):
        return b""
    longest = int(values.max())
    sizes = np.ones(len(values), np.int64)
    for place in range(1, _MOST_BYTES):
        if longest >> 7 * place == 0:
            break
        sizes += values >= np.uint64(1 << 7 * place)
    ends = np.cumsum(sizes)
    written = np.empty(ends[-1], np.uint8)
    starts = ends - sizes
    for place in range(int(sizes.max())):
        there = sizes > place
        piece = (values[there] >> np.uint64(7 * place)).astype(np.uint8) & 0x7F
        written[starts[there] + place] = piece | ((sizes[there] > place + 1).astype(np.uint8) << 7)
    return written.tobytes()


def _values(held: NDArray[np.uint8]) -> NDArray[np.uint64]:
    """Each number's lower 64 bits. Raises InvalidRequest."""
    if not len(held):
        return np.empty(0, np.uint64)
    ends = np.flatnonzero(held < 0x80)
    if not len(ends) or ends[-1] != len(held) - 1:
        raise InvalidRequest("the last number of a packed field is cut short")
    if len(ends) == len(held):
        return held.astype(np.uint64)
    starts = np.concatenate([[0], ends[:-1] + 1])
    sizes = ends - starts + 1
    if sizes.max() > _MOST_BYTES:
        raise InvalidRequest(f"a number of a packed field has more than {_MOST_BYTES} bytes")
    shifts = (np.arange(len(held)) - np.repeat(starts, sizes)).astype(np.uint64) * np.uint64(7)
    pieces = (held & 0x7F).astype(np.uint64) << shifts
    return np.bitwise_or.reduceat(pieces, starts)
