"""Sends requests at a constant rate, independent of the answers.

A latency counts from the moment at which its request was due. So a server that stalls is charged for all requests that
would have come meanwhile (no coordinated omission).
"""

from __future__ import annotations

import contextlib
import gc
import select
import socket
import statistics
import time
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from bench.load import Target

_CONNECTIONS = 32
"""Connections that are open from the start. More are opened when all of them wait."""
_MOST_CONNECTIONS = 900
"""select(2) takes descriptors below 1024; its timeout is precise where epoll's is in milliseconds."""
_DRAIN_SECONDS = 10.0


@dataclass(frozen=True)
class Open:
    p50_ms: float
    p99_ms: float
    p999_ms: float
    max_ms: float
    requests: int
    failures: int
    """Answers other than 200, broken connections, and what was due when all connections waited."""


@dataclass
class _Connection:
    socket: socket.socket
    due: float = 0.0
    received: bytearray = field(default_factory=bytearray)
    expected_bytes: int = 0
    """Of head and body; 0 until the head is complete."""

    def fileno(self) -> int:
        return self.socket.fileno()

    def is_answered(self) -> bool:
        """Read what is there, and return whether the answer is complete. Raises OSError for an unreadable answer."""
        data = self.socket.recv(1 << 18)
        if not data:
            raise ConnectionError("closed by the server")
        self.received += data
        if not self.expected_bytes:
            head, end, _ = self.received.partition(b"\r\n\r\n")
            if not end:
                return False
            lengths = [line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:")]
            if not lengths:
                raise ConnectionError("an answer without Content-Length")
            self.expected_bytes = len(head) + len(end) + int(lengths[0].partition(b":")[2])
        return len(self.received) >= self.expected_bytes


class _Client:
    def __init__(self, target: Target) -> None:
        parts = urlsplit(target.url)
        self._address = (parts.hostname or "", parts.port or 80)
        body = target.body
        lines = [f"POST {parts.path} HTTP/1.1", f"Host: {parts.netloc}", f"Content-Type: {target.content_type}"]
        lines += [f"{name}: {value}" for name, value in target.headers.items()]
        self._request = "\r\n".join([*lines, f"Content-Length: {len(body)}", "", ""]).encode() + body
        self._idle = [self._connect() for _ in range(_CONNECTIONS)]
        self._busy: dict[int, _Connection] = {}
        self.latencies: list[float] = []
        self.failures = 0

    def _connect(self) -> _Connection:
        connection = socket.create_connection(self._address, 10)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return _Connection(connection)

    @property
    def in_flight(self) -> int:
        return len(self._busy)

    def send(self, due: float) -> None:
        if not self._idle and self.in_flight >= _MOST_CONNECTIONS:
            self.failures += 1
            return
        try:
            connection = self._idle.pop() if self._idle else self._connect()
            connection.socket.sendall(self._request)
        except OSError:
            self.failures += 1
            return
        connection.due, connection.expected_bytes = due, 0
        connection.received.clear()
        self._busy[connection.fileno()] = connection

    def receive(self, timeout_seconds: float) -> None:
        """Receive answers until then, or until the first one."""
        readable, _, _ = select.select(list(self._busy), [], [], max(timeout_seconds, 0.0))
        for number in readable:
            connection = self._busy[number]
            try:
                if not connection.is_answered():
                    continue
            except OSError:
                del self._busy[number]
                connection.socket.close()
                self.failures += 1
                continue
            del self._busy[number]
            self.latencies.append(time.monotonic() - connection.due)
            self.failures += not connection.received.startswith(b"HTTP/1.1 200")
            self._idle.append(connection)

    def close(self) -> None:
        for connection in [*self._idle, *self._busy.values()]:
            connection.socket.close()


def open_loop(target: Target, rate: float, seconds: float) -> Open:
    """`rate` requests per second for so long, at equal intervals."""
    with contextlib.closing(_Client(target)) as client:
        gc.disable()
        try:
            _drive(client, rate, int(rate * seconds))
        finally:
            gc.enable()
        failures = client.failures + client.in_flight
        milliseconds = [latency * 1000 for latency in client.latencies] or [float("nan")] * 2
    cuts = statistics.quantiles(milliseconds, n=1000, method="inclusive")
    return Open(cuts[499], cuts[989], cuts[998], max(milliseconds), len(client.latencies), failures)


def _drive(client: _Client, rate: float, total: int) -> None:
    started = time.monotonic() + 0.01
    sent = 0
    while sent < total:
        due = started + sent / rate
        wait = due - time.monotonic()
        if wait <= 0:
            client.send(due)
            sent += 1
            client.receive(0)
        else:
            client.receive(wait)
    deadline = time.monotonic() + _DRAIN_SECONDS
    while client.in_flight and (left := deadline - time.monotonic()) > 0:
        client.receive(left)
