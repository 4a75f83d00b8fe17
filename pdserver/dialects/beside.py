"""Moves large inputs and outputs to memory files, beside the message that they belong to."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import TypeVar, cast

import msgspec

from pdserver.configuration.model import ModelSpec
from pdserver.dialects.codec import Codec, Given, Work
from pdserver.memory_file import THRESHOLD_BYTES, Buffer, MemoryFile, view
from pdserver.types import Part, Request, Tensor

_ALIGNMENT = 64
_Kind = TypeVar("_Kind", bound=Part | Tensor)
AnyRequest = TypeVar("AnyRequest", bound=Request)


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


def handed_over(request: AnyRequest, files: list[MemoryFile]) -> tuple[AnyRequest, list[MemoryFile]]:
    """A request with its `files`, as another process returns it."""
    if pieces := put_beside(request.inputs, len(files)):
        file = MemoryFile(pieces)
        file.seal()
        files = [*files, file]
    return request, files


def slim(spec: ModelSpec) -> ModelSpec:
    """Without what other processes don't use of it."""
    return dataclasses.replace(spec, manifest={}, model_config={}, key=b"")


async def request_by(
    codec: Codec, work: Work[Given, AnyRequest], given: Given, files: Sequence[MemoryFile], weight: int = 0
) -> tuple[AnyRequest, list[MemoryFile]]:
    """The request that another process has decoded, and its files. Raises what `codec.run` does."""
    request, received = await codec.run(work, given, files, weight)
    return msgspec.structs.replace(request, files=[file.fd for file in received]), received
