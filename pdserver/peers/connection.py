"""A connection to another node: HTTP/1.1, kept, for one request at a time.

The bytes of targets and headers go on as they came, which no client library offers, and it is known whether a request
that failed was sent. Neither side's data pile up: the request is written as the node takes it, and the answer read as
the client does.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
import time
from collections import deque
from collections.abc import AsyncGenerator
from typing import Any
from urllib.parse import urlsplit

import httptools
import msgspec

from pdserver.peers.tls import TlsToNodes

Headers = list[tuple[bytes, bytes]]
_CONNECT_SECONDS = 2.0
_PIECE_BYTES = 256 * 1024
_MOST_UNREAD_BYTES = 256 * 1024
"""Of an answer that arrives faster than the client reads it."""
_MAX_HEAD_BYTES = 64 * 1024
_ASK_AFTER_SECONDS, _ASK_AGAIN_SECONDS = 5, 2
"""A node's machine is asked whether it is there when it has sent nothing for so long."""
_SILENT_SECONDS = 10
"""One that acknowledges nothing for so long is given up."""
_LENGTHS = frozenset({b"content-length", b"transfer-encoding"})
"""The body of an answer with neither of them ends with the connection."""
WITHOUT_BODY = (204, 304)
"""Statuses of answers that have none."""


class NotConnected(Exception):
    """The connection could not be made: nothing was sent."""


class Broken(Exception):
    """The connection broke after the request was sent, or a part of it."""


class Head(msgspec.Struct, frozen=True):
    """The head of an answer."""

    status: int
    reason: bytes
    headers: Headers
    """Names in lower case."""


class PeerConnection(asyncio.Protocol):
    """Made by `connect`. `ask`, then `pieces` to the end; then it can be asked again, if it `is_usable`."""

    transport: asyncio.Transport

    def __init__(self) -> None:
        self.kept_since = 0.0
        """Seconds of `time.monotonic`; 0: it was not kept for another request yet."""
        self._loop = asyncio.get_running_loop()
        self._lost: Exception | None = None
        self._writable = asyncio.Event()
        self._writable.set()
        self._waiter: asyncio.Future[None] | None = None
        self._complete = True
        self._kept = True
        self._begin()

    def _begin(self) -> None:
        self._parser: Any = httptools.HttpResponseParser(self)
        self._reason = b""
        self._headers: Headers = []
        self._head: Head | None = None
        self._head_bytes = self._header_bytes = 0
        """What has come before the head is complete, and what of it is headers."""
        self._ends_with_connection = False
        self._pieces: deque[bytes] = deque()
        self._unread_bytes = 0

    @property
    def was_kept(self) -> bool:
        """Whether it has had an earlier request."""
        return self.kept_since > 0

    @property
    def is_usable(self) -> bool:
        """Whether another request may be sent."""
        return self._complete and self._kept and self._lost is None and not self.transport.is_closing()

    async def ask(self, head: bytes, body: bytes | memoryview, *, without_body: bool) -> Head:
        """Send a request, and wait for the head of its answer. `without_body`: the answer has none, whatever its head
        says. Raises Broken."""
        self._begin()
        self._complete, self._without_body = False, without_body
        sending = asyncio.ensure_future(self._send(head, body))
        try:
            while self._head is None:
                await self._changed()
            if not sending.done():  # it answers without having read all
                self._kept = False
            return self._head
        finally:
            sending.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await sending

    async def _send(self, head: bytes, body: bytes | memoryview) -> None:
        if len(body) <= _PIECE_BYTES:
            self.transport.write(head + body)
            return
        self.transport.write(head)
        rest = memoryview(body)
        for start in range(0, len(rest), _PIECE_BYTES):
            await self._writable.wait()
            if self._lost is not None:
                return
            self.transport.write(rest[start : start + _PIECE_BYTES])

    async def pieces(self) -> AsyncGenerator[bytes, None]:
        """The body of the answer, as it comes. Raises Broken."""
        while True:
            while self._pieces:
                piece = self._pieces.popleft()
                self._unread_bytes -= len(piece)
                if self._unread_bytes <= _MOST_UNREAD_BYTES // 2 and self._lost is None:
                    self.transport.resume_reading()
                yield piece
            if self._complete:
                return
            await self._changed()

    async def _changed(self) -> None:
        if self._lost is not None:
            raise Broken(str(self._lost) or type(self._lost).__name__)
        self._waiter = self._loop.create_future()
        try:
            await self._waiter
        finally:
            self._waiter = None

    def close(self) -> None:
        """At once: the node sees that nobody waits for the answer. Idempotent."""
        self.transport.abort()

    # What the transport calls

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        self.transport = transport
        transport.set_write_buffer_limits(high=_PIECE_BYTES)

    def connection_lost(self, exc: Exception | None) -> None:
        self._lost = self._lost or exc or ConnectionResetError("the connection was closed")
        self._complete = self._complete or (self._ends_with_connection and exc is None)
        self._writable.set()
        self._wake()

    def pause_writing(self) -> None:
        self._writable.clear()

    def resume_writing(self) -> None:
        self._writable.set()

    def data_received(self, data: bytes) -> None:
        if self._complete:
            self.close()  # nothing was asked
            return
        if self._head is None:
            self._head_bytes += len(data)
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade) as error:
            self._fail(f"its answer is not HTTP/1.1: {error}")
            return
        if self._head is None and self._head_bytes > _MAX_HEAD_BYTES:
            self._fail("the head of its answer is too large")
        elif self._unread_bytes > _MOST_UNREAD_BYTES and not self._complete:
            self.transport.pause_reading()
        self._wake()

    def _fail(self, why: str) -> None:
        self._lost = self._lost or ConnectionError(why)
        self.close()
        self._wake()

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    # What the parser calls

    def on_status(self, reason: bytes) -> None:
        self._reason += reason

    def on_header(self, name: bytes, value: bytes) -> None:
        if self._head is not None:
            return  # it is a trailer
        self._header_bytes += len(name) + len(value)
        if self._header_bytes > _MAX_HEAD_BYTES:
            raise ValueError("the headers are too large")
        self._headers.append((name.lower(), value))

    def on_headers_complete(self) -> None:
        status = self._parser.get_status_code()
        if status < 200:  # `100 Continue`: the answer follows
            self._reason, self._headers = b"", []
            return
        self._kept = self._kept and self._parser.should_keep_alive()
        self._head = Head(status, self._reason, self._headers)
        self._ends_with_connection = not any(name in _LENGTHS for name, _ in self._headers)
        if self._without_body and status not in WITHOUT_BODY:
            self._complete, self._kept = True, False  # the parser waits for what does not come

    def on_body(self, data: bytes) -> None:
        self._pieces.append(data)
        self._unread_bytes += len(data)

    def on_message_complete(self) -> None:
        self._complete = self._head is not None


async def connect(url: str, tls: ssl.SSLContext, seconds: float) -> PeerConnection:
    """A connection to the server at a URL, within `seconds` and a few of our own. Raises NotConnected."""
    parts = urlsplit(url)
    secure = parts.scheme == "https"
    port = parts.port or (443 if secure else 80)
    loop = asyncio.get_running_loop()
    try:
        connecting = loop.create_connection(PeerConnection, parts.hostname or "", port, ssl=tls if secure else None)
        _, connection = await asyncio.wait_for(connecting, min(seconds, _CONNECT_SECONDS))
        _give_up_when_silent(connection.transport)
    except asyncio.TimeoutError:
        raise NotConnected("no connection in time") from None
    except ssl.SSLCertVerificationError as error:
        raise NotConnected(f"its certificate is not accepted: {error.verify_message} (peers_ca_file)") from None
    except OSError as error:
        raise NotConnected(error.strerror or str(error)) from None
    return connection


def _give_up_when_silent(transport: asyncio.Transport) -> None:
    """Have the system end the connection when the other machine is gone. Raises OSError when it has ended already, as
    when the node does not accept our certificate."""
    sock = transport.get_extra_info("socket")
    if sock is None:
        raise ConnectionResetError("the connection was closed")
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, _ASK_AFTER_SECONDS)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, _ASK_AGAIN_SECONDS)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, _SILENT_SECONDS * 1000)


class Pool:
    """Connections that are kept between requests, by URL."""

    def __init__(self, tls: TlsToNodes, keep_seconds: float, keep: int) -> None:
        """At most `keep` for each URL, for `keep_seconds`."""
        self._tls = tls
        self._keep_seconds = keep_seconds
        self._keep = keep
        self._idle: dict[str, list[PeerConnection]] = {}

    async def get(self, url: str, seconds: float, *, fresh: bool) -> PeerConnection:
        """`fresh`: none that was kept. Raises NotConnected."""
        idle = self._idle.get(url, [])
        oldest = time.monotonic() - self._keep_seconds
        while idle and not fresh:
            connection = idle.pop()
            if connection.is_usable and connection.kept_since > oldest:
                return connection
            connection.close()
        return await connect(url, self._tls.context, seconds)

    def put(self, url: str, connection: PeerConnection) -> None:
        """Take back what `get` gave, when its answer has been read, or nobody wants it."""
        idle = self._idle.setdefault(url, [])
        if connection.is_usable and len(idle) < self._keep:
            connection.kept_since = time.monotonic()
            idle.append(connection)
        else:
            connection.close()

    def keep_only(self, urls: set[str]) -> None:
        """Close what is kept for all other URLs."""
        for url in self._idle.keys() - urls:
            for connection in self._idle.pop(url):
                connection.close()
