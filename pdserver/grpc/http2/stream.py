"""One request and its answer on a connection."""

from __future__ import annotations

import asyncio
from collections import deque

STREAM_WINDOW = 1024 * 1024
"""Bytes of a request that a client may send before the server has used them."""


_NONE: deque[memoryview] = deque(maxlen=0)


class Stream:
    """A stream's state, and the calls that the connection makes. A subclass handles the request."""

    # Defaults of the class, since most streams change few of them.
    number: int
    window = 0
    """Bytes of data that the client accepts, in addition to the connection's `initial_window`. Often negative."""
    credit = STREAM_WINDOW
    """Bytes of data that the client may send."""
    owed = 0
    """Bytes that are used up and not granted again yet."""
    unsent: deque[memoryview] = _NONE
    """Data for which the client has no room yet."""
    sent_bytes = 0
    """Bytes sent since data have been waiting."""
    seen_bytes = 0
    """The same at the connection's last check."""
    waits_since = 0.0
    """When the client last took some data."""
    trailers = b""
    """Sent after the data."""
    ended_here = ended_there = False
    emptied: asyncio.Future[None] | None = None

    def begin(self) -> None:
        """The request's head is here."""

    def receive(self, data: bytes, begin: int, end: int) -> None:
        """A piece of its body: data[begin:end]. The receiver grants the bytes again when they are used up."""

    def end(self) -> None:
        """The request is complete."""

    def take_whole(self, data: bytes, begin: int, end: int) -> None:
        """The request came whole, and data[begin:end] is its body."""
        self.begin()
        if not self.ended_here:
            self.receive(data, begin, end)
        if not self.ended_here:
            self.end()

    def abandoned(self) -> None:
        """The client has left, or wants no answer any more."""

    def check(self) -> None:
        """Called regularly to check that the client makes progress."""

    async def drained(self) -> None:
        """Wait until the client has room for more, or has left."""
        if self.unsent:
            self.emptied = asyncio.get_running_loop().create_future()
            await self.emptied

    def has_room(self) -> None:
        """All data are sent, or none will be any more."""
        if self.emptied is not None and not self.emptied.done():
            self.emptied.set_result(None)
