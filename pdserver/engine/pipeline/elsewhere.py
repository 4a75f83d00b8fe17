"""What another process does for a pipeline, since it would hold up the event loop: it takes large JSON apart, and
writes large answers as JSON. The functions are those that the front end uses for what is small."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol, cast

import msgspec

from pdarchiver.pipeline.graph import Type
from pdserver.engine.pipeline.answers import reply_of
from pdserver.engine.pipeline.requests import is_taken_apart, values_of
from pdserver.memory_file import THRESHOLD_BYTES, MemoryFile, kept_view, view
from pdserver.pipeline.moved import Moved, file_at, item_of, moved, received
from pdserver.pipeline.values import JSON, Item, Value, Values
from pdserver.types import Part, RelayedRequest, Reply, Request, Tensor

_LARGE_BYTES = 64 * 1024
"""JSON of this size takes up to some 10 ms to take apart."""
_OPAQUE = Request("", None, "", [])


class Reading(msgspec.Struct, frozen=True, array_like=True):
    """An opaque request, and what the pipeline takes."""

    given: list[Part | Tensor]
    inputs: dict[str, Type]
    needed: frozenset[str]


class Writing(msgspec.Struct, frozen=True, array_like=True):
    """What came out of a pipeline that has declared so many outputs."""

    outputs: Moved
    declared: int


class Elsewhere(Protocol):
    """The other process. Its calls raise what the functions do here, Overloaded and Unavailable."""

    async def read(self, given: Reading, files: Sequence[MemoryFile]) -> tuple[Moved, list[MemoryFile]]:
        """Calls `read` there."""

    async def write(self, given: Writing, files: Sequence[MemoryFile]) -> MemoryFile:
        """Calls `write` there."""


def is_read_elsewhere(request: Request, inputs: Mapping[str, Type]) -> bool:
    """Whether large JSON is to be taken apart for it."""
    return not request.typed and any(
        (given.size or len(given.data)) >= _LARGE_BYTES and is_taken_apart(given, inputs) for given in request.inputs
    )


async def values_read(
    elsewhere: Elsewhere, request: Request, kept: Sequence[object], inputs: Mapping[str, Type], needed: frozenset[str]
) -> dict[str, Value]:
    """As `values_of`. `kept` keeps the request's files open."""
    owners = {file.fd: file for file in kept if isinstance(file, MemoryFile)}
    files = [file_at(fd, owners.get(fd)) for fd in request.files]
    found, files = await elsewhere.read(Reading(request.inputs, dict(inputs), needed), files)
    return received(found, files)


def read(given: Reading, files: Sequence[MemoryFile]) -> tuple[Moved, list[MemoryFile]]:
    items = [item_of(each, files) for each in given.given]
    return moved(values_of(_OPAQUE, items, given.inputs, given.needed))


def is_written_elsewhere(request: Request, outputs: Values, declared: int) -> bool:
    """Whether a large answer is to be written as JSON."""
    if request.typed:
        return False
    values = list(outputs.values())
    if declared == len(values) == 1 and isinstance(values[0], Item) and isinstance(values[0].given, Part):
        return False  # it is the answer as it is
    items = [item for value in values for item in (value if isinstance(value, list) else (value,))]
    return sum([item.given.size or len(item.given.data) for item in items]) >= THRESHOLD_BYTES


async def reply_written(elsewhere: Elsewhere, request: Request, outputs: Values, declared: int) -> Reply:
    """As `reply_of`."""
    what, files = moved(outputs)
    file = await elsewhere.write(Writing(what, declared), files)
    contents = kept_view(file) if isinstance(request, RelayedRequest) else view(file.fd)
    return Reply(cast("bytes", contents), JSON, size=len(contents))


def write(given: Writing, files: Sequence[MemoryFile]) -> MemoryFile:
    reply = reply_of(_OPAQUE, received(given.outputs, files), None, given.declared)
    file = MemoryFile([reply.body])
    file.seal()
    return file
