"""What is counted for the limits that hold for a server's clients together."""

from __future__ import annotations

from pdserver.security.access import PORTS
from pdserver.security.failures import SHARED_NUMBERS, Failures, SharedFailures
from pdserver.system.budget import Budget, SharedBudget
from pdserver.system.connections import Connections, SharedConnections
from pdserver.system.shared_page import COUNTED, LIMITED, SharedPage

TOKENS = "tokens"
_CONNECTIONS = {port: place for place, port in enumerate(PORTS, LIMITED)}
_RECEIVING = LIMITED + len(PORTS)
_FAILURES = {secret: _RECEIVING + 1 + number * SHARED_NUMBERS for number, secret in enumerate((TOKENS, *PORTS))}
"""Places of a shared page: connections of each port, bytes that are being received, and the first ones of failures."""
assert max(_FAILURES.values()) + SHARED_NUMBERS <= COUNTED  # noqa: S101


class Limits:
    """For the only process of a server."""

    def __init__(self, receive_buffer_bytes: int) -> None:
        self.receiving = Budget(receive_buffer_bytes)
        """For bodies that are being received, on all ports."""

    def connections(self, port: str) -> Connections:
        """An empty set for this process's connections of a port."""
        return Connections()

    def failures(self, secret: str) -> Failures:
        """For wrong TOKENS, or for guesses of the headers of a port's restricted APIs."""
        return Failures()


class SharedLimits(Limits):
    """For one of several processes, which share a page."""

    def __init__(self, receive_buffer_bytes: int, page: SharedPage) -> None:
        self._page = page
        self.receiving = SharedBudget(receive_buffer_bytes, page, _RECEIVING)

    def connections(self, port: str) -> Connections:
        return SharedConnections(self._page, _CONNECTIONS[port])

    def failures(self, secret: str) -> Failures:
        return SharedFailures(self._page, _FAILURES[secret])


def connections_of(page: SharedPage, number: int) -> int:
    """The connections that a process has on all ports."""
    return sum(page.rows[number][place] for place in _CONNECTIONS.values())
