"""brpc's frames: one call by itself, and a closed loop. No public load generator speaks them."""

from __future__ import annotations

import asyncio
import socket
import statistics
import time
from dataclasses import dataclass
from pathlib import Path

import uvloop

from bench.closed import Closed

_HEAD_BYTES = 12
_MOST_BYTES = 1 << 20


@dataclass(frozen=True)
class Frames:
    """The same frame, sent again and again. Its answer is a frame."""

    address: str
    """host:port"""
    body_file: Path
    """The whole frame."""

    @property
    def url(self) -> str:
        return f"prpc://{self.address}"

    @property
    def place(self) -> tuple[str, int]:
        host, _, port = self.address.rpartition(":")
        return host, int(port)


def ask_frame(target: Frames, timeout_seconds: float = 60.0) -> bytes:
    """The answer's frame. Raises OSError when there is none."""
    with socket.create_connection(target.place, timeout_seconds) as sock:
        sock.sendall(target.body_file.read_bytes())
        got = b""
        while len(got) < _HEAD_BYTES or len(got) < _length(got):
            piece = sock.recv(_MOST_BYTES)
            if not piece:
                raise OSError(f"the connection ended after {got[:200]!r}")
            got += piece
        return got


def closed_frame_loop(target: Frames, connections: int, seconds: float) -> Closed:
    """One call at a time on each connection, in one thread."""
    done: Closed = uvloop.run(_loop(target, connections, seconds))
    return done


async def _loop(target: Frames, connections: int, seconds: float) -> Closed:
    expected = len(ask_frame(target))
    loop, frame, times = asyncio.get_running_loop(), target.body_file.read_bytes(), list[float]()
    clients = [
        (await loop.create_connection(lambda: _Client(frame, times), *target.place))[1] for _ in range(connections)
    ]
    started = time.perf_counter()
    for client in clients:
        client.ask()
    await asyncio.sleep(seconds)
    elapsed, done = time.perf_counter() - started, list(times)
    failures = sum(client.lost or client.odd(expected) for client in clients)
    for client in clients:
        client.transport.abort()
    cuts = statistics.quantiles(done, n=100, method="inclusive") if len(done) > 1 else [0.0] * 99
    return Closed(
        requests_per_second=len(done) / elapsed,
        p50_ms=cuts[49] * 1e3,
        p99_ms=cuts[98] * 1e3,
        requests=len(done),
        failures=failures,
    )


def _length(got: bytes) -> int:
    """The length of the frame that begins with these bytes."""
    return _HEAD_BYTES + int.from_bytes(got[4:8], "big")


class _Client(asyncio.Protocol):
    transport: asyncio.Transport

    def __init__(self, frame: bytes, times: list[float]) -> None:
        self._frame = frame
        self._times = times
        self._got = b""
        self._asked = 0.0
        self._longest = 0
        self.lost = False

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        self.transport = transport

    def ask(self) -> None:
        self._asked = time.perf_counter()
        self.transport.write(self._frame)

    def data_received(self, data: bytes) -> None:
        self._got += data
        if len(self._got) < _HEAD_BYTES or len(self._got) < _length(self._got):
            return
        self._times.append(time.perf_counter() - self._asked)
        self._longest, self._got = max(self._longest, len(self._got)), b""
        self.ask()

    def odd(self, expected: int) -> bool:
        """Whether an answer was much longer or shorter than the right one, as an error's is. Times differ in length."""
        return bool(self._longest) and abs(self._longest - expected) > 16

    def connection_lost(self, exc: Exception | None) -> None:
        self.lost = True
