"""Which front end of a server has which clients."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import psutil

from tests.running import RunningServer

T = TypeVar("T")


def of_all(server: RunningServer, address: str, connect: Callable[[], T]) -> list[T]:
    """Connected clients, as `connect` makes them, of which each front end has at least one; `address` is a port's."""
    port = int(address.rpartition(":")[2])
    clients: list[T] = []
    while not all(_has_client(each, port) for each in server.front_ends()):
        assert len(clients) < 64, "the system chooses at random whose client it is"
        clients.append(connect())
    return clients


def _has_client(process: psutil.Process, port: int) -> bool:
    return any(each.laddr.port == port and each.status == "ESTABLISHED" for each in process.net_connections("tcp"))
