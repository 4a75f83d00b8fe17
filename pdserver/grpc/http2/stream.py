"""One request and its answer on a connection."""

from __future__ import annotations

import asyncio
from collections import deque

STREAM_WINDOW = 1024 * 1024
"""Bytes that a client may send of a request before they are used up."""


class Stream:
    """What the connection keeps of it, and tells it. A subclass says what to make of a request."""

    __slots__ = (
        "credit", "emptied", "ended_here", "ended_there", "number", "owed", "seen_bytes", "sent_bytes",
        "trailers", "unsent", "waits_since", "window",
    )  # fmt: skip
    sent_bytes: int
    """Since there is data that waits."""
    seen_bytes: int
    """The same, when the connection last looked."""
    waits_since: float
    """When the client last took some of it."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.window = 0
        """Bytes of data that the client takes, besides the connection's `initial_window`; often less than zero."""
        self.credit = STREAM_WINDOW
        """Bytes of data that the client may send."""
        self.owed = 0
        """Bytes that are used up, and not granted anew yet."""
        self.unsent: deque[memoryview] = deque()
        """Data for which the client has no room yet."""
        self.trailers = b""
        """To be sent behind them."""
        self.ended_here = False
        self.ended_there = False
        self.emptied: asyncio.Future[None] | None = None

    def begin(self) -> None:
        """The request's head is here."""

    def receive(self, data: bytes, begin: int, end: int) -> None:
        """A piece of its body: data[begin:end]. Bytes are to be granted anew once they are used up."""

    def end(self) -> None:
        """It is complete."""

    def abandoned(self) -> None:
        """The client is gone, or wants no answer any more."""

    def check(self) -> None:
        """Called now and then: whether the client does its part."""

    async def drained(self) -> None:
        """Until the client has room for more, or is gone."""
        if self.unsent:
            self.emptied = asyncio.get_running_loop().create_future()
            await self.emptied

    def has_room(self) -> None:
        """All is sent, or nothing will be."""
        if self.emptied is not None and not self.emptied.done():
            self.emptied.set_result(None)
