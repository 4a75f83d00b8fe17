"""A running server's status for its own user: JSON, from a socket beside its pid file.

Other users can't reach the socket, and it needs no token, certificate or port. So `pdserver --status` works whatever is
wrong with those.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import socket
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from pdserver.system.unix_sockets import short_name

_ASK_SECONDS = 10.0


class StatusSocket:
    """Sends the status to every client that connects. It belongs to the holder of the pid file, who replaces the socket
    that an earlier server has left."""

    def __init__(self, path: Path, tell: Callable[[], Mapping[str, Any]]) -> None:
        self._path = path
        self._tell = tell
        self._server: asyncio.Server | None = None

    async def open(self) -> None:
        """Raises OSError."""
        self._path.unlink(missing_ok=True)
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        with short_name(self._path) as address:
            sock.bind(address)
            os.chmod(address, 0o600)  # noqa: PTH101 - a name within /proc
        self._server = await asyncio.start_unix_server(self._answer, sock=sock)

    async def _answer(self, _reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            writer.write(json.dumps(self._tell()).encode())
            writer.close()
            await writer.wait_closed()

    def close(self) -> None:
        """Idempotent."""
        if self._server is not None:
            self._server.close()
            self._server = None
            self._path.unlink(missing_ok=True)


def ask(path: Path, timeout_seconds: float = _ASK_SECONDS) -> dict[str, Any] | None:
    """The server's status, or None if it does not answer: it has just started, is about to end, or hangs."""
    with (
        contextlib.suppress(OSError, ValueError, RecursionError),
        socket.socket(socket.AF_UNIX) as sock,
        short_name(path) as address,
    ):
        sock.settimeout(timeout_seconds)
        sock.connect(address)
        with sock.makefile("rb") as said:
            told = json.loads(said.read())
            return told if isinstance(told, dict) else None
    return None
