"""Heads of predictions that need not be parsed again.

A client sends the same head with every request of a connection, and many clients send the same one. What a parser made
of it once, it would make of it again: of a request that came whole, in one piece and between two others, the bytes
before the body say all there is to know. Parsing takes a third of the front end's own time for a small request.
"""

from __future__ import annotations

import msgspec

from pdserver.dialects.base import Door, Headers

_MOST = 1000
_MAX_BYTES = 2048
_END = b"\r\n\r\n"


class Head(msgspec.Struct, frozen=True, gc=False):
    """Of a prediction in HTTP/1.1, on a connection that is kept, with a body of known length."""

    door: Door
    method: bytes
    target: bytes
    headers: Headers
    """Not to be changed: later requests share them."""
    length: int
    """Of the body, in bytes."""


class KnownHeads:
    """A bounded memory; when it is full, it begins anew."""

    def __init__(self) -> None:
        self._heads: dict[bytes, Head] = {}

    def find(self, data: bytes) -> tuple[Head, bytes] | None:
        """The head and the body, if `data` are exactly one request whose head is known."""
        end = data.find(_END, 0, _MAX_BYTES) + len(_END)
        head = self._heads.get(data[:end])
        return (head, data[end:]) if head is not None and len(data) - end == head.length else None

    def learn(self, data: bytes, head: Head) -> None:
        """Keep `head`, if `data` are exactly the one request that it was parsed from."""
        end = data.find(_END, 0, _MAX_BYTES) + len(_END)
        if end < len(_END) or len(data) - end != head.length:
            return
        if len(self._heads) >= _MOST:
            self._heads.clear()
        self._heads[data[:end]] = head
