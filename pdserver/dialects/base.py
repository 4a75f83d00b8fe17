"""The part of a dialect that the HTTP protocol uses."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Protocol

import msgspec

from pdserver.dialects.codec import LARGE_BYTES
from pdserver.errors import InvalidRequest, Kind, PdError
from pdserver.memory_file import THRESHOLD_BYTES, MemoryFile, view
from pdserver.types import Failure, Outcome, Reply, Request

Headers = list[tuple[bytes, bytes]]
"""As received or to be sent; received names are in lower case."""
TIMEOUT_HEADER = b"x-request-timeout-ms"
"""How many milliseconds the client waits for the answer, from the request's arrival."""
_MOST_TIMEOUT_MS = 3_600_000
_RETRY: Headers = [(b"retry-after", b"1")]


def retry_headers(failure: Failure) -> Headers:
    """The header that says in how many seconds to try again, if that may help."""
    return _RETRY if failure.kind in (Kind.UNAVAILABLE, Kind.OVERLOADED) else []


class ErrorWords(msgspec.Struct, frozen=True):
    """How a dialect words errors over HTTP."""

    failure: Callable[[Failure], tuple[int, bytes]]
    """The status, and a body in JSON."""
    refusal: Callable[[int, str], bytes]
    """A JSON body for a status and a text, for requests without a route."""
    unrouted: Callable[[str, bytes], PdError | None] = lambda method, path: None
    """What is wrong with a method and a path that no route takes; None: the status 404 or 405 says it."""


def parse_timeout(value: bytes) -> float:
    """The seconds that a timeout header names. Raises InvalidRequest."""
    try:
        milliseconds = int(value) if value.isdigit() else 0
    except ValueError:  # more digits than Python reads
        milliseconds = 0
    if 1 <= milliseconds <= _MOST_TIMEOUT_MS:
        return milliseconds / 1000
    text = value[:40].decode("latin-1")
    raise InvalidRequest(
        f"{TIMEOUT_HEADER.decode()}: {text}: expected a whole number of milliseconds from 1 to {_MOST_TIMEOUT_MS}"
    )


class Body(msgspec.Struct, frozen=True, gc=False):
    """A request's body: in memory, or in a memory file if it is large."""

    data: bytes
    file: MemoryFile | None = None
    """Sealed."""
    kept: list[MemoryFile] = []
    """The files of the decoded request. They live until it is answered."""

    def read(self) -> bytes | memoryview:
        """The whole body, from memory or from the file."""
        return self.data if self.file is None else view(self.file.fd)

    @property
    def is_large(self) -> bool:
        """Whether decoding it may take long."""
        return self.file is not None or len(self.data) >= LARGE_BYTES

    @property
    def files(self) -> list[MemoryFile]:
        return [] if self.file is None else [self.file]


class Pieces:
    """Collects a body piece by piece: in memory, or in a memory file once it is large."""

    def __init__(self) -> None:
        self.size = 0
        self._pieces: list[bytes] = []
        self._file: MemoryFile | None = None

    def add(self, piece: bytes) -> None:
        """Add a piece. Raises Unavailable if there is no room for it."""
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
    """An outcome, encoded by a dialect."""

    status: int
    content_type: bytes
    body: bytes
    headers: Headers = []
    reason: bytes = b""
    """The reason phrase, if it is not the usual one of the status."""
    more: tuple[bytes, ...] = ()
    """Pieces of the body after `body`, so that large ones need not be joined."""


Decode = Callable[[Headers, Body, str], Request | asyncio.Task[Request]]
"""Makes a request of its headers, its body and its id; or a task for that, if it takes long. Both raise PdError."""


class Door(Protocol):
    """A route for predictions, which the HTTP protocol answers itself, without an ASGI application."""

    def matches(self, method: bytes, target: bytes) -> bool:
        """Whether this request is a prediction. If not, it goes to the ASGI application."""

    def prepare(self, target: bytes, headers: Headers) -> Decode:
        """What decodes each request with this target, and with headers that differ from these in nothing but what no
        dialect reads: the request's id and its place in a trace. Raises InvalidRequest."""

    def encode(self, request: Request, outcome: Outcome) -> Response | asyncio.Task[Response]:
        """The answer, or a task that encodes it if that takes long. The task never raises. A request that could not be
        decoded names no model, and has only its headers."""

    def encode_chunk(self, request: Request, piece: Reply) -> Response | asyncio.Task[Response]:
        """A piece of a streamed answer."""
