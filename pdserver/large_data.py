"""Moves large inputs and outputs to memory files, beside the message that they belong to."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar, cast

import msgspec

from pdserver.memory_file import THRESHOLD_BYTES, Buffer, MemoryFile, view
from pdserver.types import Part, Tensor

_ALIGNMENT = 64
_Kind = TypeVar("_Kind", bound=Part | Tensor)


def put_beside(items: list[_Kind], file: int) -> list[Buffer]:
    """Move large data out of `items`. Returns the pieces of the memory file with this number, or none if nothing is
    large. Each item is aligned."""
    pieces: list[Buffer] = []
    place = 0
    for idx, item in enumerate(items):
        size = len(item.data)
        if size >= THRESHOLD_BYTES:
            items[idx] = msgspec.structs.replace(item, data=b"", file=file, start=place, size=size)
            padding = -size % _ALIGNMENT
            pieces += (item.data, bytes(padding))
            place += size + padding
    return pieces


def put_in_place(items: list[_Kind], files: Sequence[MemoryFile]) -> None:
    """Reverse `put_beside`."""
    views = [view(file.fd) for file in files]
    for idx, item in enumerate(items):
        if item.file >= 0:
            data = cast(bytes, views[item.file][item.start : item.start + item.size])
            items[idx] = msgspec.structs.replace(item, data=data, file=-1, start=0, size=0)
