"""CRC-32C (Castagnoli), as TensorFlow's records have it. Source: RFC 3720, appendix B.4.

In numpy, since the standard library lacks it: many blocks of the data are taken at a time, byte by byte, and their
remainders are then put together.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

_POLYNOMIAL = 0x82F63B78
_BLOCK_BYTES = 1024
_FEW_BYTES = 16 * _BLOCK_BYTES
_ALL_ONES = 0xFFFFFFFF
_Words = NDArray[np.uint32]


def crc32c(data: bytes | memoryview) -> int:
    whole = len(data) - len(data) % _BLOCK_BYTES if len(data) >= _FEW_BYTES else 0
    state = _ALL_ONES
    if whole:
        blocks = np.frombuffer(data, np.uint8, whole).reshape(-1, _BLOCK_BYTES)
        first, second, third, fourth = _tables_of_a_block()
        for remainder in _remainders(blocks).tolist():
            state = (
                first[state & 255] ^ second[state >> 8 & 255] ^ third[state >> 16 & 255] ^ fourth[state >> 24]
            ) ^ remainder
    table = _table().tolist()
    for byte in memoryview(data)[whole:]:
        state = table[(state ^ byte) & 255] ^ state >> 8
    return int(state ^ _ALL_ONES)


def _remainders(blocks: NDArray[Any], states: _Words | None = None) -> _Words:
    """Of each block by itself, beginning with these states, or with zero."""
    table = _table()
    state = np.zeros(len(blocks), np.uint32) if states is None else states
    for column in np.ascontiguousarray(blocks.T):
        state = table[(state ^ column) & 255] ^ state >> 8
    return state


@lru_cache(maxsize=1)
def _table() -> _Words:
    """What each byte makes of a state of zero."""
    state = np.arange(256, dtype=np.uint32)
    for _ in range(8):
        state = np.where(state & 1, state >> 1 ^ _POLYNOMIAL, state >> 1).astype(np.uint32)
    return state


@lru_cache(maxsize=1)
def _tables_of_a_block() -> list[list[int]]:
    """What a block of zeros makes of each byte of a state; all of them together make what it makes of the state."""
    states = np.concatenate([np.arange(256, dtype=np.uint32) << shift for shift in (0, 8, 16, 24)]).astype(np.uint32)
    zeros = np.zeros((len(states), _BLOCK_BYTES), np.uint8)
    tables: list[list[int]] = _remainders(zeros, states).reshape(4, 256).tolist()
    return tables
