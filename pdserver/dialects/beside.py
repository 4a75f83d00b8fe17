"""Requests that other processes have read, with large inputs in memory files beside them."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import TypeVar

import msgspec

from pdserver.configuration.model import ModelSpec
from pdserver.dialects.codec import Codec, Given, Work
from pdserver.large_data import put_beside
from pdserver.memory_file import MemoryFile
from pdserver.types import Request

AnyRequest = TypeVar("AnyRequest", bound=Request)


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
