"""Heads of predictions that need not be parsed again.

A client sends the same head with every request of a connection, and many clients send the same one. If a request came
whole and in one piece, the bytes before the body determine all that the parser would find, so they need parsing only
once. Parsing takes a third of the front end's own time for a small request.
"""

from __future__ import annotations

import msgspec

from pdserver.dialects.base import Door, Headers

_MOST = 1000
_MAX_BYTES = 2048
_END = b"\r\n\r\n"


class KnownHead(msgspec.Struct, frozen=True, gc=False):
    """The parsed head of a prediction in HTTP/1.1, on a kept connection, with a body of known length."""

    door: Door
    method: bytes
    target: bytes
    headers: Headers
    """Must not be changed: later requests share them."""
    length: int
    """The body's length in bytes."""


class KnownHeads:
    """A bounded cache of parsed heads. It is cleared when it is full."""

    def __init__(self) -> None:
        self._heads: dict[bytes, KnownHead] = {}

    def find(self, data: bytes) -> tuple[KnownHead, bytes] | None:
        """The head and the body, if `data` is exactly one request whose head is known."""
        end = data.find(_END, 0, _MAX_BYTES) + len(_END)
        head = self._heads.get(data[:end])
        return (head, data[end:]) if head is not None and len(data) - end == head.length else None

    def learn(self, data: bytes, head: KnownHead) -> None:
        """Keep `head`, if `data` is exactly the one request that it was parsed from."""
        end = data.find(_END, 0, _MAX_BYTES) + len(_END)
        if end < len(_END) or len(data) - end != head.length:
            return
        if len(self._heads) >= _MOST:
            self._heads.clear()
        self._heads[data[:end]] = head
