"""The floor: the least that a server of our design does for a prediction. It has no logs, metrics, checks or errors.

uvicorn's protocol on uvloop answers in the callbacks of its HTTP parser. One forked worker runs the model, and gets
whatever waits as one batch. A frame on the socket between them: how many bodies, the length of each, the bodies; each
number as four bytes.
"""

from __future__ import annotations

import asyncio
import os
import socket
import struct
import sys
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

import uvicorn
import uvloop
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

Reply = Callable[[bytes], None]
_PATH = b"/predictions/"
_HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\nx-request-id: 00000000\r\ncontent-length: %d\r\n\r\n%b"


def frame(bodies: Sequence[bytes]) -> bytes:
    return struct.pack(f"<{len(bodies) + 1}I", len(bodies), *map(len, bodies)) + b"".join(bodies)


def work(channel: socket.socket) -> None:
    """Answer frames until the server hangs up."""
    from bench.model import load_from_environment

    model = load_from_environment()
    frames = channel.makefile("rb")
    while count := frames.read(4):
        sizes = struct.iter_unpack("<I", frames.read(4 * int.from_bytes(count, "little")))
        rows = [model.row(frames.read(size)) for (size,) in sizes]
        channel.sendall(frame(model.answers(rows)))


class Worker(asyncio.Protocol):
    """The server's end of the socket. One batch runs; what comes meanwhile waits for the next."""

    def __init__(self, batch_size: int) -> None:
        self._batch_size = batch_size
        self._waiting: deque[tuple[bytes, Reply]] = deque()
        self._running: list[Reply] = []
        self._received = b""
        self._transport: Any = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport

    def ask(self, body: bytes, reply: Reply) -> None:
        self._waiting.append((body, reply))
        if len(self._waiting) == 1 and not self._running:
            asyncio.get_running_loop().call_soon(self._send)  # with all that this turn of the loop still reads

    def _send(self) -> None:
        if self._running or not self._waiting:
            return
        batch = [self._waiting.popleft() for _ in range(min(self._batch_size, len(self._waiting)))]
        self._running = [reply for _, reply in batch]
        self._transport.write(frame([body for body, _ in batch]))

    def data_received(self, data: bytes) -> None:
        data = self._received = self._received + data if self._received else data
        count = len(self._running)
        start = 4 + 4 * count
        if len(data) < start:
            return
        sizes = struct.unpack_from(f"<{count}I", data, 4)
        if len(data) < start + sum(sizes):
            return
        answered, self._running, self._received = self._running, [], b""
        self._send()  # before the answers are written: the worker need not wait for that
        for reply, size in zip(answered, sizes, strict=True):
            reply(data[start : start + size])
            start += size


class Predictions(HttpToolsProtocol):
    """Predictions are answered here, all else by the application."""

    worker: Worker
    _body: list[bytes] | None = None

    def on_headers_complete(self) -> None:
        if self.url.startswith(_PATH):
            self._body = []
        else:
            super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        if self._body is None:
            super().on_body(body)
        else:
            self._body.append(body)

    def on_message_complete(self) -> None:
        if self._body is None:
            super().on_message_complete()
        else:
            body, self._body = b"".join(self._body), None
            self.worker.ask(body, self._reply)

    def _reply(self, body: bytes) -> None:
        if not self.transport.is_closing():
            self.transport.write(_HEAD % (len(body), body))


async def application(scope: Any, receive: Any, send: Any) -> None:
    """ASGI 3. Nobody asks for anything but predictions."""


async def serve(channel: socket.socket, port: int) -> None:
    channel.setblocking(False)
    Predictions.worker = Worker(int(os.environ["BENCH_BATCH_SIZE"]))
    await asyncio.get_running_loop().create_connection(lambda: Predictions.worker, sock=channel)
    config = uvicorn.Config(
        application, port=port, loop="uvloop", http=Predictions, lifespan="off", access_log=False, log_level="error"
    )
    await uvicorn.Server(config).serve()


def main() -> None:
    ours, theirs = socket.socketpair()
    if os.fork():
        theirs.close()
        uvloop.run(serve(ours, int(sys.argv[1])))
    else:
        ours.close()
        work(theirs)


if __name__ == "__main__":
    main()
