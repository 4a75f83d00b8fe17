"""What the HTTP protocol knows of a dialect."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Protocol

import msgspec

from pdserver.dialects.codec import LARGE_BYTES
from pdserver.errors import InvalidRequest, Kind
from pdserver.memory_file import THRESHOLD_BYTES, Buffer, MemoryFile, view
from pdserver.types import Failure, Outcome, Reply, Request

Headers = list[tuple[bytes, bytes]]
"""As received or to be sent; received names are in lower case."""
TIMEOUT_HEADER = b"x-request-timeout-ms"
"""How many milliseconds the client waits for the answer, from the request's arrival."""
_MOST_TIMEOUT_MS = 3_600_000
_RETRY: Headers = [(b"retry-after", b"1")]


def retry_headers(failure: Failure) -> Headers:
    """When to try again, in seconds, if that may help."""
    return _RETRY if failure.kind in (Kind.UNAVAILABLE, Kind.OVERLOADED) else []


class ErrorWords(msgspec.Struct, frozen=True):
    """How a dialect says over HTTP what went wrong."""

    failure: Callable[[Failure], tuple[int, bytes]]
    """The status, and a body in JSON."""
    refusal: Callable[[int, str], bytes]
    """A body in JSON for a status and a text: of requests that no route takes."""


def parse_timeout(value: bytes) -> float:
    """The seconds that a timeout header names. Raises InvalidRequest."""
    try:
        milliseconds = int(value) if value.isdigit() else 0
    except ValueError:  # so many digits that Python does not read them
        milliseconds = 0
    if 1 <= milliseconds <= _MOST_TIMEOUT_MS:
        return milliseconds / 1000
    text = value[:40].decode("latin-1")
    raise InvalidRequest(
        f"{TIMEOUT_HEADER.decode()}: {text}: expected a whole number of milliseconds from 1 to {_MOST_TIMEOUT_MS}"
    )


class Body(msgspec.Struct, frozen=True, gc=False):
    """A request's body: in memory, or in a memory file when it is large."""

    data: bytes
    file: MemoryFile | None = None
    """Sealed."""
    kept: list[MemoryFile] = []
    """The files of the request that was made of it; they live until that is answered."""

    def read(self) -> Buffer:
        """All of it, wherever it is."""
        return self.data if self.file is None else view(self.file.fd)

    @property
    def is_large(self) -> bool:
        """Whether it may take long to read."""
        return self.file is not None or len(self.data) >= LARGE_BYTES

    @property
    def files(self) -> list[MemoryFile]:
        return [] if self.file is None else [self.file]


class Pieces:
    """A body that comes piece by piece, and is kept as it should be when all of it is there."""

    def __init__(self) -> None:
        self.size = 0
        self._pieces: list[bytes] = []
        self._file: MemoryFile | None = None

    def add(self, piece: bytes) -> None:
        """Raises Unavailable when there is no room for it."""
        self.size += len(piece)
        if self._file is not None:
            self._file.append(piece)
            return
        self._pieces.append(piece)
        if self.size >= THRESHOLD_BYTES:
            pieces, self._pieces = self._pieces, []
            self._file = MemoryFile(pieces)

    def body(self) -> Body:
        if self._file is None:
            return Body(b"".join(self._pieces))
        self._file.seal()
        return Body(b"", self._file)


class Response(msgspec.Struct, frozen=True, gc=False):
    """An outcome in a dialect's words."""

    status: int
    content_type: bytes
    body: bytes
    headers: Headers = []
    reason: bytes = b""
    """The reason phrase, when it is not the status's usual one."""
    more: tuple[bytes, ...] = ()
    """Pieces of the body after `body`: large ones need not be joined."""


class Door(Protocol):
    """A route by which predictions come in, answered by the protocol itself instead of an ASGI application."""

    def matches(self, method: bytes, target: bytes) -> bool:
        """Whether this request is a prediction; it goes to the ASGI application when not."""

    def decode(self, target: bytes, headers: Headers, body: Body, request_id: str) -> Request | asyncio.Task[Request]:
        """The request, or who reads it, where that takes long. Raises InvalidRequest; the task, any PdError."""

    def encode(self, request: Request, outcome: Outcome) -> Response | asyncio.Task[Response]:
        """The answer, or who writes it, where that takes long: the task raises nothing. A request that could not be
        decoded names no model, and has no more than its headers."""

    def encode_chunk(self, request: Request, piece: Reply) -> Response | asyncio.Task[Response]:
        """A piece of a streamed answer."""
