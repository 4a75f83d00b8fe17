"""Messages to and from a codec process. Memory files travel with the frame."""

from __future__ import annotations

import msgspec

from pdserver.errors import Kind
from pdserver.memory_file import MemoryFile


class Job(msgspec.Struct, frozen=True, array_like=True, tag="job"):
    work: str
    """The name of the work."""
    given: bytes
    """The input in MessagePack, of the work's type."""


class Done(msgspec.Struct, frozen=True, array_like=True, tag="done"):
    result: bytes
    """The result in MessagePack, of the work's type."""


class Failed(msgspec.Struct, frozen=True, array_like=True, tag="failed"):
    kind: Kind
    message: str
    status: int = 0
    """As that of a PdError."""


LOST = Failed(Kind.UNAVAILABLE, "the server has no file descriptors left for large bodies; try again in a moment")
"""The answer if files did not arrive."""


def received_files(fds: list[int]) -> list[MemoryFile]:
    return [MemoryFile.of(fd) for fd in fds]
