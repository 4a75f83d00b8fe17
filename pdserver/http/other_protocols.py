"""Other protocols on a port of HTTP: the first bytes of a connection say which one it speaks."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from typing import Protocol


class OtherConnection(Protocol):
    """A connection that speaks another protocol than HTTP/1.1. It is in the listener's set of connections from
    `connection_made` to `connection_lost`."""

    def connection_made(self, transport: asyncio.Transport) -> None: ...

    def data_received(self, data: bytes) -> None: ...

    def shutdown(self) -> None:
        """The server stops: close once what was accepted is answered."""


OtherProtocols = Mapping[bytes, Callable[[], OtherConnection]]
"""The bytes with which every connection of a protocol begins → what makes such a connection."""


def chosen(others: OtherProtocols, data: bytes) -> Callable[[], OtherConnection] | None:
    """What makes the connection that begins with these data. None if that is HTTP, or not known yet."""
    return next((make for first, make in others.items() if data.startswith(first)), None)


def is_undecided(others: OtherProtocols, data: bytes) -> bool:
    """Whether the data are too short to tell."""
    return any(first.startswith(data) for first in others)
