"""What clients and operators do to the server that nobody should, and what the others notice of it."""

from __future__ import annotations

import asyncio
import http.client
import os
import random
import signal
import socket
import struct
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from urllib.parse import urlsplit

import hpack
import psutil
import requests
from hyperframe import frame as frames

from tests.conftest import pack_handler
from tests.grpc_client import prediction
from tests.http2_client import PREDICTIONS, Http2, head, message
from tests.running import RunningServer, eventually, open_descriptors, written_mib
from tests.soak.client import Tally, clients
from tests.soak.scenarios import Figure, until_ready, warm_up

_WORKERS = 5
_CLIENTS = 8
_LARGE_BYTES = 1 << 20
_MOST_WAIT_SECONDS = 0.5
_PAUSE_SECONDS = 0.5
"""Between two kills: a request that meets both is not tried a third time."""


def _server(folder: Path, **settings: str) -> RunningServer:
    store = folder / "store"
    store.mkdir(parents=True)
    pack_handler(store, "faults", name="echo", config=f"minWorkers: {_WORKERS}\nbatchSize: 8\n")
    pack_handler(store, "faults", name="slow", config="minWorkers: 1\n")
    pack_handler(store, "mirror", name="mirror", config="minWorkers: 1\n")
    return RunningServer(folder / "server", store, "all", settings)


def _pid(server: RunningServer) -> int:
    assert server.process is not None
    return server.process.pid


def _memory_files(server: RunningServer) -> int:
    return sum("memfd:" in name for name in open_descriptors(_pid(server)))


def _held_mib(server: RunningServer) -> float:
    return written_mib(_pid(server))


def _beside(server: RunningServer, tally: Tally, trouble: Callable[[], None]) -> None:
    """Well-meaning clients ask while there is trouble."""
    done = threading.Event()

    async def play() -> None:
        async def make_trouble() -> None:
            try:
                await asyncio.to_thread(trouble)
            finally:
                done.set()

        await asyncio.gather(
            make_trouble(), clients(tally, server.inference, "echo", _CLIENTS, lambda: not done.is_set())
        )

    asyncio.run(play())


# Clients that leave


def leavers(folder: Path, count: int) -> list[Figure]:
    """Clients leave in the middle of their requests, or before they have their answers."""
    with _server(folder) as server:
        warm_up(server, "echo", 2_000)
        _leave(server, 50, random.Random(1))
        with suppress(AssertionError):
            eventually(lambda: not _memory_files(server), 30)
        before = _held_mib(server), len(open_descriptors(_pid(server)))
        tally = Tally()
        _beside(server, tally, lambda: _leave(server, count, random.Random(2)))
        server.session.close()
        with suppress(AssertionError):
            eventually(lambda: not _memory_files(server), 30)
        files = _memory_files(server)
        grown = _held_mib(server) - before[0], len(open_descriptors(_pid(server))) - before[1]
    return [
        Figure(
            f"{count:,} clients that leave: requests of others lost",
            f"{len(tally.lost) + len(tally.wrong)} of {tally.sent:,}",
            "0",
            not tally.lost and not tally.wrong,
        ),
        Figure(
            "left of their requests: memory files, descriptors, memory",
            f"{files}, {grown[1]}, {grown[0]:.1f} MiB",
            "0, 0, ≤ 32 MiB",
            not files and grown[1] <= 0 and grown[0] <= 32,
        ),
    ]


def _leave(server: RunningServer, count: int, dice: random.Random) -> None:
    parts = urlsplit(server.inference)
    body = bytes(_LARGE_BYTES)
    request = (
        f"POST /predictions/slow HTTP/1.1\r\nHost: localhost:{parts.port}\r\n"
        f"Content-Type: application/octet-stream\r\nContent-Length: {len(body)}\r\n\r\n"
    ).encode() + body
    for _ in range(count):
        with socket.create_connection(("127.0.0.1", parts.port or 80), timeout=30) as sock:
            whole = dice.random() < 0.5
            with suppress(OSError):
                sock.sendall(request if whole else request[: dice.randrange(len(request))])
            if dice.random() < 0.5:  # close() sends a reset
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


# Descriptors


def starved(folder: Path, seconds: float) -> list[Figure]:
    """The front end is at its limit of descriptors, since somebody holds connections that say nothing."""
    with _server(folder, max_connections="100000") as server, ExitStack() as stack:
        client = stack.enter_context(_Mirrored(server))
        assert client.ask() == 200
        process = psutil.Process(_pid(server))
        usual = process.rlimit(psutil.RLIMIT_NOFILE)
        process.rlimit(psutil.RLIMIT_NOFILE, (process.num_fds() + 60, usual[1]))
        idle = [stack.enter_context(socket.create_connection(client.address)) for _ in range(300)]
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            client.ask()
        for sock in idle:
            sock.close()
        with suppress(AssertionError):
            eventually(lambda: client.ask() == 200, 30)
        well = client.ask() == 200
        process.rlimit(psutil.RLIMIT_NOFILE, usual)
    said = ", ".join(f"{number:,} × {status}" for status, number in sorted(client.statuses.items()))
    return [
        Figure(
            "at the limit of descriptors: answers by status; wrong; lost; connections refused",
            f"{said}; {client.wrong}; {client.lost}; {client.refused:,}",
            "200 and 503; 0; 0",
            not client.wrong and not client.lost and set(client.statuses) <= {200, 503},
        ),
        Figure("serves again afterwards", "yes" if well else "no", "yes", well),
    ]


class _Mirrored:
    """A client that has large bodies mirrored, over one connection for as long as the server keeps it."""

    def __init__(self, server: RunningServer) -> None:
        self.address = ("127.0.0.1", urlsplit(server.inference).port or 80)
        self.statuses = Counter[int]()
        self.wrong = self.lost = self.refused = 0
        """`refused`: connections that were closed before anything was answered on them."""
        self._body = os.urandom(_LARGE_BYTES)
        self._connection: http.client.HTTPConnection | None = None

    def __enter__(self) -> _Mirrored:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        if self._connection is not None:
            self._connection.close()

    def ask(self) -> int:
        """The status; 0: there was no answer."""
        new = self._connection is None
        connection = self._connection = self._connection or http.client.HTTPConnection(*self.address, timeout=30)
        try:
            connection.request("POST", "/predictions/mirror", self._body)
            answer = connection.getresponse()
            body = answer.read()
        except (OSError, http.client.HTTPException):
            self.refused += new
            self.lost += not new
            connection.close()
            self._connection = None
            return 0
        self.statuses[answer.status] += 1
        self.wrong += answer.status == 200 and body != self._body[::-1]
        if answer.will_close:
            connection.close()
            self._connection = None
        return answer.status


# Workers that die together


def together(folder: Path, count: int) -> list[Figure]:
    """All workers of a model are killed at once, again and again."""
    failed = 0
    with _server(folder) as server:
        warm_up(server, "echo", 2_000)
        tally = Tally()

        def kill() -> None:
            nonlocal failed
            for _ in range(count):
                for pid in server.pids("echo"):
                    with suppress(ProcessLookupError):  # the list is as old as its answer
                        os.kill(pid, signal.SIGKILL)
                until_ready(server, _WORKERS)
                failed += server.describe("echo")["status"] == "FAILED"
                time.sleep(_PAUSE_SECONDS)

        _beside(server, tally, kill)
    return [
        Figure(
            f"{_WORKERS} workers killed at once, {count} times: lost",
            f"{len(tally.lost)} of {tally.sent:,}",
            "0",
            not tally.lost,
        ),
        Figure("taken for a crash loop", f"{failed}", "0", not failed),
    ]


# Attacks on HTTP/2


@dataclass
class _Watch:
    """How others fare meanwhile: one over REST, one over gRPC, each without pause."""

    answers: int = 0
    longest: float = 0.0
    failures: list[str] = field(default_factory=list)

    def over_rest(self, server: RunningServer, done: threading.Event) -> None:
        with requests.Session() as session:
            self._ask(
                done, lambda: session.post(f"{server.inference}/predictions/echo", json={}, timeout=120).status_code
            )

    def over_grpc(self, server: RunningServer, done: threading.Event) -> None:
        with Http2(server.grpc_inference) as client:
            client.sock.settimeout(120)
            streams = iter(range(1, 2**31, 2))
            body = message(prediction("echo", body=b"{}"))
            self._ask(done, lambda: 200 if client.ask(next(streams), body).prediction else 0)

    def _ask(self, done: threading.Event, ask: Callable[[], int]) -> None:
        while not done.is_set():
            began = time.monotonic()
            try:
                status = ask()
            except (OSError, AssertionError) as error:
                self.failures.append(f"{type(error).__name__}: {error}")
                return
            self.longest = max(self.longest, time.monotonic() - began)
            self.answers += 1
            if status != 200:
                self.failures.append(str(status))


def _raw(kind: int, stream: int, payload: bytes = b"", flags: int = 0) -> bytes:
    return len(payload).to_bytes(3, "big") + bytes((kind, flags)) + stream.to_bytes(4, "big") + payload


def _often(frame: bytes) -> Callable[[], Iterator[bytes]]:
    def pieces() -> Iterator[bytes]:
        piece = frame * (64 * 1024 // len(frame))
        while True:
            yield piece

    return pieces


def _calls(path: str, *, reset: bool = False, padding: str = "") -> Callable[[], Iterator[bytes]]:
    def pieces() -> Iterator[bytes]:
        encoder = hpack.Encoder()
        for first in range(1, 2**31, 128):
            piece = bytearray()
            for stream in range(first, first + 128, 2):
                fields = head(path + padding, ("x-filler", "w" * 2000))
                block = encoder.encode(fields)
                piece += frames.HeadersFrame(stream, block, flags=["END_HEADERS"]).serialize()
                if reset:
                    piece += _raw(3, stream, (8).to_bytes(4, "big"))
                else:
                    piece += _raw(0, stream, message(prediction("echo", body=b"{}")), flags=1)
            yield bytes(piece)

    return pieces


def _made_to_reset() -> Iterator[bytes]:
    """Calls that the server has to reset itself: a window of a call is moved by nothing, which is an error of its."""
    encoder = hpack.Encoder()
    for first in range(1, 2**31, 128):
        piece = bytearray()
        for stream in range(first, first + 128, 2):
            piece += frames.HeadersFrame(stream, encoder.encode(head()), flags=["END_HEADERS"]).serialize()
            piece += _raw(8, stream, bytes(4))
        yield bytes(piece)


def _empty_continuations() -> Iterator[bytes]:
    yield _raw(1, 1)
    yield from _often(_raw(9, 1))()


ATTACKS: dict[str, Callable[[], Iterator[bytes]]] = {
    "WINDOW_UPDATE": _often(_raw(8, 0, (1).to_bytes(4, "big"))),
    "SETTINGS": _often(_raw(4, 0, struct.pack(">HI", 4, 65_535))),
    "PING": _often(_raw(6, 0, bytes(8))),
    "PRIORITY": _often(_raw(2, 1, bytes(5))),
    "empty CONTINUATION": _empty_continuations,
    "unknown frames": _often(_raw(200, 0)),
    "resets": _calls(PREDICTIONS, reset=True),
    "resets by the server": _made_to_reset,
    "calls": _calls(PREDICTIONS),
    "unknown long paths": _calls("/no.Such/", padding="x" * 4000),
}


def attacks(folder: Path, seconds: float) -> list[Figure]:
    """One client after the other sends as fast as it can what a client should not, for some seconds each."""
    figures = []
    with _server(folder) as server:
        warm_up(server, "echo", 2_000)
        before = _held_mib(server)
        for name, pieces in ATTACKS.items():
            watch, sent, ended = _attacked(server, pieces, seconds)
            kept = not watch.failures and watch.longest <= _MOST_WAIT_SECONDS
            figures.append(
                Figure(
                    f"HTTP/2 attack, {name}: others' answers, failures, longest",
                    f"{watch.answers:,}, {len(watch.failures)}, {1000 * watch.longest:.0f} ms"
                    f" ({sent / 2**20:,.1f} MiB {'until hung up on' if ended else 'taken'})",
                    f"failures 0, ≤ {1000 * _MOST_WAIT_SECONDS:.0f} ms",
                    kept,
                )
            )
        grown = _held_mib(server) - before
    figures.append(Figure("grown by all attacks: memory of the front end", f"{grown:.1f} MiB", "≤ 64 MiB", grown <= 64))
    return figures


def _attacked(server: RunningServer, pieces: Callable[[], Iterator[bytes]], seconds: float) -> tuple[_Watch, int, bool]:
    """How others fared, the bytes that were sent, and whether the server hung up."""
    done = threading.Event()
    watch = _Watch()
    watchers = [threading.Thread(target=look, args=(server, done)) for look in (watch.over_rest, watch.over_grpc)]
    for watcher in watchers:
        watcher.start()
    sent, ended = 0, False
    end = time.monotonic() + seconds
    try:
        with Http2(server.grpc_inference) as attacker:
            attacker.sock.settimeout(seconds)
            reader = threading.Thread(target=_drain, args=(attacker.sock,))
            reader.start()
            for piece in pieces():
                if time.monotonic() > end:
                    break
                try:
                    attacker.sock.sendall(piece)
                except TimeoutError:
                    break
                except OSError:
                    ended = True
                    break
                sent += len(piece)
            with suppress(OSError):
                attacker.sock.shutdown(socket.SHUT_RDWR)
            reader.join()
        if ended:
            time.sleep(max(0.0, min(1.0, end - time.monotonic())))
    finally:
        done.set()
        for watcher in watchers:
            watcher.join()
    return watch, sent, ended


def _drain(sock: socket.socket) -> None:
    with suppress(OSError):
        while sock.recv(1 << 20):
            pass
