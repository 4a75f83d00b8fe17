"""What systemd is told of this server, in the words of sd_notify(3)."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket

_PATIENCE_SECONDS = 1.0


class Supervisor:
    """The process that started this one and asked to be told how it is. Without one, nothing is sent."""

    def __init__(self, address: str, watchdog_seconds: float) -> None:
        """`address` is that of a datagram socket, "@" before an abstract one; "" for no supervisor. With
        `watchdog_seconds` above 0, it ends a server from which it hears nothing for so long."""
        self._address = f"\0{address[1:]}" if address.startswith("@") else address
        self._watchdog_seconds = watchdog_seconds
        for name in ("NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID"):
            os.environ.pop(name, None)  # what this process starts must not speak for it

    def tell(self, *assignments: str, patience_seconds: float = _PATIENCE_SECONDS) -> None:
        """Send these, such as "READY=1", to a supervisor that may be slow to read. One that is gone, or does not read,
        is no reason to stop serving."""
        if self._address:
            with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
                sock.settimeout(patience_seconds)
                sock.sendto("\n".join(assignments).encode(), self._address)

    async def keep_calm(self) -> None:
        """Say that the event loop runs, until cancelled, as often as sd_watchdog_enabled(3) advises."""
        while self._address and self._watchdog_seconds:
            self.tell("WATCHDOG=1", patience_seconds=0)
            await asyncio.sleep(self._watchdog_seconds / 2)
