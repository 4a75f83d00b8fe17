"""Which front end of a server has which clients."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import psutil

from tests.running import RunningServer, eventually

T = TypeVar("T")
_ESTABLISHED = "01"
"""In /proc/net/tcp."""


def of_all(server: RunningServer, address: str, connect: Callable[[], T]) -> list[T]:
    """Connected clients, as `connect` makes them, of which each front end has at least one; `address` is a port's."""
    port = int(address.rpartition(":")[2])
    clients: list[T] = []
    while not all(_has_client(each, port) for each in server.front_ends()):
        assert len(clients) < 64, "the system chooses at random whose client it is"
        clients.append(connect())
        eventually(lambda: not _waits(port))
    return clients


def _waits(port: int) -> bool:
    """Whether the system has a connection to the port that no process has accepted yet: its socket has no inode."""
    for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
        _, local, _, state, *rest = line.split()
        if (int(local.rpartition(":")[2], 16), state, rest[5]) == (port, _ESTABLISHED, "0"):
            return True
    return False


def _has_client(process: psutil.Process, port: int) -> bool:
    return any(each.laddr.port == port and each.status == "ESTABLISHED" for each in process.net_connections("tcp"))
