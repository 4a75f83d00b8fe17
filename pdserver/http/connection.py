"""What every HTTP port does with a connection before a request reaches a dialect.

It checks a head as soon as it is complete: the name by which the server is called, the calling page, the token. It
limits everything that a client sends, and the time that it takes. A refusal is answered in order, as JSON, and nothing
after it on the connection is read: requests are smuggled past a proxy where two sides disagree on the end of a request.

uvicorn's own machinery for pipelined requests, flow control and shutdown stays in charge. A middleware would run too
late for these checks.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from typing import Any

import httptools
import msgspec
from uvicorn.config import Config
from uvicorn.protocols.http.flow_control import FlowControl
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol
from uvicorn.server import ServerState

from pdserver.dialects.base import Headers
from pdserver.http import heads
from pdserver.http.heads import MAX_HEAD_BYTES, MAX_HEADERS, MAX_TARGET_BYTES, head_too_large, target_too_long
from pdserver.http.passing import SENT, with_token
from pdserver.logs.access import Access
from pdserver.metrics.shared import Statuses
from pdserver.peers.http import HttpPeers
from pdserver.security.access import Need
from pdserver.security.guard import Guard
from pdserver.security.refused import Refused
from pdserver.system import descriptors
from pdserver.system.budget import Budget
from pdserver.system.connections import Connections

_log = logging.getLogger("pdserver.http")

MAX_CHUNKS = 64 * 1024
MAX_FRAMING_BYTES = 1024 * 1024
"""Limit for the chunks' sizes, extensions and trailers."""
MIN_BYTES_PER_SECOND = 256
"""A client that sends a body or reads an answer more slowly than this for `slow_client_seconds` is given up."""
_CHECK_SECONDS = 1.0
_LINGER_SECONDS = 2.0
_FAREWELL_SECONDS = 0.5
"""Time for a request that is on its way when the server stops."""
_GONE_SECONDS = 0.5
"""Interval for checking whether a client that has stopped sending is still there."""
_PIECE_BYTES = 2048
"""A larger piece may hold several requests, so these are parsed one by one."""
_CHUNKS_BYTES = 16 * 1024
"""The same limit for pieces of a chunked body."""
_TURN_SECONDS = 0.002
"""Time for the data of one connection before others have their turn."""
_HEAD_END = b"\r\n\r\n"
CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
IDLE, HEAD, BODY, UNKNOWN, GONE = range(5)
"""What is being received. UNKNOWN: too little of a connection to tell its protocol. GONE: it goes to another one."""


class HttpPort(msgspec.Struct, kw_only=True):
    """What all connections of one port share."""

    guard: Guard
    max_request_bytes: int
    max_connections: int
    slow_client_seconds: float
    idle_seconds: float
    """Between requests. The first request has only `slow_client_seconds`."""
    receiving: Budget
    """For bodies that come in several pieces."""
    statuses: Statuses
    """Answers given, by status."""
    access: Access | None
    peers: HttpPeers | None = None
    """Who answers for what is not served here."""


class NoEvent:
    """Stands in for the event by which uvicorn wakes a cycle's ASGI task, where there is no task."""

    def set(self) -> None:
        pass


class Refusal:
    """A refused request. It has the attributes of uvicorn's request-response cycle, under uvicorn's names."""

    message_event = NoEvent()
    keep_alive = False
    disconnected = False
    response_started = False

    def __init__(self, connection: Connection, refused: Refused, method: bytes) -> None:
        self.refused = refused
        self.method = method
        self.target = connection.url
        self.response_complete = False
        self._connection = connection

    def begin_turn(self) -> None:
        self.response_complete = True
        self._connection.write_refusal(self)


class Flow(FlowControl):
    """uvicorn's flow control, which reads nothing more while received data wait to be parsed."""

    unparsed = False

    def resume_reading(self) -> None:
        if not self.unparsed:
            super().resume_reading()


class Connection(HttpToolsProtocol):
    """uvicorn's HTTP protocol, hardened against hostile clients."""

    cycle: Any  # a RequestResponseCycle of uvicorn's, a Refusal, what a subclass adds, or None
    pipeline: deque[Any]
    """(cycle, application), the next one last. Without an application, the cycle's `begin_turn` is called."""
    flow: Flow
    connections: Connections

    def __init__(
        self,
        port: HttpPort,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        super().__init__(config, server_state, app_state, _loop)
        self.port = port
        self.url = b""
        self.headers = []
        self.peer = "-"
        self._client = "-"
        self._token = ""
        """The scope of the last request's token, if it needed one."""
        self.phase = IDLE
        self.discarding_input = False
        """Whether further input is thrown away."""
        self.leaving = False
        """Whether the next request is the last one, because the server stops."""
        self._held = False
        """Whether the next request waits until the client has read its answers."""
        self._upgrade: bytes | None = None
        """The head of a request that asks for another protocol, without that wish."""
        self._unparsed = b""
        """Received data that wait for other connections' turns. They are parsed up to `_parsed`."""
        self._parsed = 0
        self._turn_is_due = False
        """Whether `_turn` is running, or about to."""
        self._feeding = 0
        """Size of the piece that is being parsed."""
        self._fed = 0
        """Bytes since the current request began, without the piece in which it began. -1 while there is only that."""
        self.body_bytes = 0
        self.counted_bytes = 0
        """Bytes of the body that count for the port's budget."""
        self._chunks = 0
        self.length = 0
        """The body's length in bytes, as the head says it. 0 if it doesn't."""
        self.request_id = b""
        self.keep_alive = True
        self.version = "1.1"
        self._owed: object = None
        self._since = 0.0
        self._mark = 0
        self._check_timer: asyncio.TimerHandle | None = None

    # What the transport calls

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self.flow = Flow(transport)
        if self.client:
            self._client = self.client[0]
            self.peer = f"{self._client}:{self.client[1]}"
        self._check_timer = self.loop.call_later(_CHECK_SECONDS, self._check_progress)
        if self.connections.exceed(self.port.max_connections):
            self.refuse(Refused(503, "too many connections (max_connections)", ((b"retry-after", b"1"),)))
        elif not descriptors.are_left_for(transport):
            self.refuse(Refused(503, descriptors.NONE_LEFT, ((b"retry-after", b"1"),)))

    def connection_lost(self, exc: Exception | None) -> None:
        for cycle, _ in self.pipeline:
            cycle.disconnected = True
        if self._check_timer is not None:
            self._check_timer.cancel()
        super().connection_lost(exc)
        self.give_back()
        self._unparsed = b""
        self.pipeline.clear()
        self.cycle = self._owed = None  # break the reference cycle, so that their memory is freed at once

    def eof_received(self) -> bool:  # type: ignore[override]
        """The client sends nothing more. It still gets its answers; then the transport is closed. With TLS it does not,
        because the transport can't be open in only one direction."""
        if self.phase != IDLE:
            self.refuse(Refused(400, f"the connection was closed {self._place_in_request()}"))
        if self._is_answered() or not self.transport.can_write_eof():
            return False
        self.cycle.keep_alive = False
        self.loop.call_later(_GONE_SECONDS, self._probe_client)
        return True

    def _probe_client(self) -> None:
        """Find out whether the client has closed its connection or has only stopped sending. The two look the same
        until something is sent: if it has closed, its system resets the connection. Otherwise it ignores the
        `100 Continue`."""
        if not (self.transport.is_closing() or self._is_answered()):
            if not self.pipeline and not self.cycle.response_started and self.version != "1.0":
                self.transport.write(CONTINUE)
            self.loop.call_later(_GONE_SECONDS, self._probe_client)

    def shutdown(self) -> None:
        """The server stops. The last answer says that it is the last. If no answer can say so any more, the client has
        a moment left: a request may be on its way, and would be lost if the connection were closed at once."""
        self.leaving = True
        if not (self._is_answered() or self.cycle.response_started or self.phase == HEAD):
            self.cycle.keep_alive = False
        self._close_when_idle(self)

    def _is_answered(self) -> bool:
        """Whether no request waits for its answer."""
        return self.cycle is None or self.cycle.response_complete

    def _close_when_idle(self, last: object) -> None:
        """Close the connection if it is idle and has had no request since this was called before."""
        idle = self.phase == IDLE and self._is_answered() and not self._unparsed
        if idle and self.cycle is last:
            self.transport.close()
        elif not self.transport.is_closing():
            self.loop.call_later(_FAREWELL_SECONDS, self._close_when_idle, self.cycle if idle else self)

    def resume_writing(self) -> None:
        super().resume_writing()
        self._owed = None
        if self._held:
            self._held = False
            self._next()

    def data_received(self, data: bytes) -> None:
        if len(data) > _PIECE_BYTES:
            self._unparsed, self._parsed = data, 0
            self._parse_pending()
        else:
            self._take(data)

    def _take(self, data: bytes) -> None:
        while data and not self.discarding_input:
            data = self._feed(data)

    def _parse_pending(self) -> None:
        """Parse the received data until a request has to wait for another's answer, or others have their turn. It goes
        head by head, so that only one request begins at a time. Nothing more is read before the rest is parsed."""
        data, start, until = self._unparsed, self._parsed, 0.0
        while start < len(data) and not self.discarding_input:
            if self.pipeline or self._held:
                self._wait(start, goes_on=False)
                return
            if self.phase == BODY and self.length:
                end = start + self.length - self.body_bytes
            elif until and time.monotonic() > until:
                self._wait(start, goes_on=True)
                return
            else:
                until = until or time.monotonic() + _TURN_SECONDS
                end = start + _CHUNKS_BYTES
                if self.phase != BODY:
                    found = data.find(_HEAD_END, start, start + _PIECE_BYTES)
                    end = (found if found >= 0 else start + _PIECE_BYTES) + len(_HEAD_END)
            self._take(data[start:end])
            start = end
        self._unparsed = b""

    def _wait(self, parsed: int, *, goes_on: bool) -> None:
        """Leave the rest for later: with `goes_on`, until others had their turn; otherwise until `_resume` runs."""
        self._parsed = parsed
        self.flow.pause_reading()
        self.flow.unparsed = True
        self._turn_is_due = goes_on
        if goes_on:
            self.loop.call_soon(self._turn)

    def _resume(self) -> None:
        """No request waits for another's answer any more."""
        if not self._unparsed:
            self.flow.resume_reading()
        elif not self._turn_is_due:
            self._turn_is_due = True
            self.loop.call_soon(self._turn)

    def _turn(self) -> None:
        """Go on after others had their turn."""
        if self.transport.is_closing():
            return
        self._parse_pending()
        if not self._unparsed:
            self._turn_is_due = self.flow.unparsed = False
            if not (self.pipeline or self._held):
                self.flow.resume_reading()

    def _feed(self, data: bytes) -> bytes:
        """Parse `data`. Returns what is to be parsed after it."""
        self._feeding = len(data)
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserUpgrade as upgrade:
            head, self._upgrade = self._upgrade, None
            self.parser = httptools.HttpRequestParser(self)
            return (head or b"") + data[upgrade.args[0] :]
        except httptools.HttpParserCallbackError as error:
            self._failed(error.__context__)
        except httptools.HttpParserError as error:
            hint = ": this port speaks http, not https" if data[:1] == b"\x16" and not self.url else ""
            self.refuse(Refused(400, f"not HTTP/1.1: {error} {self._place_in_request()}{hint}"))
        if self.phase != IDLE and not self.discarding_input:
            self._count_unfinished(len(data))
        return b""

    def _failed(self, error: BaseException | None) -> None:
        """A callback of the parser raised."""
        if not isinstance(error, Refused):
            _log.error("a request of %s could not be read", self.peer, exc_info=error)
            error = Refused(500, "internal error; the server's log has more")
        self.refuse(error)

    def _place_in_request(self) -> str:
        """The client's place in the request, for an error's text."""
        if self.phase == BODY:
            return f"in the body, after {self.body_bytes:,} bytes"
        if self.phase == IDLE or not self.url:
            return "in the request line"
        return f"in the head, after {heads.text(self.headers[-1][0]) if self.headers else 'the request line'}"

    def _count_unfinished(self, count: int) -> None:
        """`count` more bytes came, and the request is not complete yet."""
        self._fed = self._fed + count if self._fed >= 0 else 0
        if self.phase == HEAD:
            if len(self.url) > MAX_TARGET_BYTES:
                self.refuse(target_too_long())
            elif self._fed > MAX_HEAD_BYTES:
                self.refuse(head_too_large())
        elif self._fed - self.body_bytes > MAX_FRAMING_BYTES or len(self.headers) > MAX_HEADERS:
            limits = f"{MAX_FRAMING_BYTES:,} bytes around the body's chunks, or {MAX_HEADERS} headers after them"
            self.refuse(Refused(413, f"more than {limits}"))
        elif more := self.body_bytes - self.counted_bytes:
            if self.port.receiving.take(more, self.counted_bytes):
                self.counted_bytes = self.body_bytes
            else:
                self.refuse(_no_room())

    # What the parser calls

    def on_message_begin(self) -> None:
        self.phase = HEAD
        self._fed = -1
        self.url = b""
        self.headers = []
        self.expect_100_continue = False

    def on_header(self, name: bytes, value: bytes) -> None:
        self.headers.append((name.lower(), value))

    def on_headers_complete(self) -> None:
        headers = self.headers
        if len(headers) > MAX_HEADERS or self._fed >= 0 or self._feeding > MAX_HEAD_BYTES:
            heads.check_size(headers)  # needed only if the head began in an earlier piece, or the piece is large
        if len(self.url) > MAX_TARGET_BYTES:
            raise target_too_long()
        seen = heads.looked_at(headers)
        parser = self.parser
        if self.leaving:
            self._expect_another()
        self.keep_alive = parser.should_keep_alive()
        self.version = parser.get_http_version()
        method = parser.get_method()
        if b"upgrade" in seen and parser.should_upgrade():
            self._upgrade = heads.without_upgrade(method, self.url, self.version, headers)
            return
        if not self.url.startswith(b"/") or self.version != "1.1":
            self.url = heads.path_of(self.url, self.version, seen)
        host = seen.get(b"host")
        if host not in self.port.guard.hosts.known:
            self._check_host(host)
        if b"transfer-encoding" in seen or b"expect" in seen:
            self.expect_100_continue = heads.expects_continue(seen, self.version)
            self._chunks = 0
        self.length = int(seen.get(b"content-length", 0))
        self.request_id = seen.get(b"x-request-id", b"")
        if b"authorization" in seen and self.port.guard.keyring is not None:
            headers = [header for header in headers if header[0] != b"authorization"]  # models must not see it
        self.headers = []  # so that trailers after the body are not taken for headers
        self.body_bytes = 0
        self.dispatch(method, headers, seen)
        if self.leaving:
            self.cycle.keep_alive = False
        self.phase = BODY
        if self.length > self.port.max_request_bytes:
            raise self._body_too_large()

    def _expect_another(self) -> None:
        """A request comes while the server stops: the one before it is not the last, unless its answer said so."""
        if not (self._is_answered() or self.cycle.response_started):
            self.cycle.keep_alive = self.keep_alive

    def _check_host(self, host: bytes | None) -> None:
        if host is not None:
            self.port.guard.hosts.check(host)
        elif self.version != "1.0":
            raise Refused(400, "the header host is missing")

    def need(self, method: bytes) -> Need:
        """Which token the request needs, and whether pages of other sites may make it."""
        return self.port.guard.rules.need(method, self.url)

    def dispatch(self, method: bytes, headers: Headers, seen: dict[bytes, bytes]) -> None:
        """Begin the request whose head is complete and valid. Raises Refused."""
        guard = self.port.guard
        asked = seen.get(b"access-control-request-method") if method == b"OPTIONS" and guard.cors.origin else None
        need = self.need(asked or method)
        guard.check_page(need, headers, b"%b://%b" % ((self.scheme or "http").encode(), seen.get(b"host", b"")))
        if asked is None:  # otherwise it is a preflight request, which has no token yet
            self._token = guard.check_token(need, headers, seen.get(b"authorization"), self._client)
        self.to_application(guard.shown(headers))
        self.scope["state"]["token"] = self._token
        if self.port.peers is not None and not need.guarded:  # what changes a server is meant for this one
            self.scope["state"][SENT] = with_token(headers, seen.get(b"authorization"))

    def to_application(self, headers: Headers) -> None:
        """Pass the request to the ASGI application, as uvicorn would. Raises Refused."""
        if self.length > self.port.max_request_bytes:
            raise self._body_too_large()
        url, expected = self.url, self.expect_100_continue
        super().on_message_begin()  # builds the ASGI scope, and empties these
        self.url, self.expect_100_continue = url, expected
        self.headers.extend(headers)
        try:
            super().on_headers_complete()
        except (UnicodeDecodeError, httptools.HttpParserInvalidURLError):
            raise Refused(
                400, f"the target {heads.text(url)} is not a path: other characters are written %XX"
            ) from None
        finally:
            self.headers = []

    def on_chunk_header(self) -> None:
        self._chunks += 1
        if self._chunks > MAX_CHUNKS:
            raise Refused(413, f"the body came in more than {MAX_CHUNKS:,} chunks")

    def on_body(self, body: bytes) -> None:
        self.count_body(body)
        super().on_body(body)

    def count_body(self, body: bytes) -> None:
        """Count a piece of the body. Raises Refused."""
        self.body_bytes += len(body)
        if self.body_bytes > self.port.max_request_bytes:
            raise self._body_too_large()

    def on_message_complete(self) -> None:
        if self.phase == BODY:  # not when the head is parsed a second time
            self.phase = IDLE
            if self.counted_bytes:
                self.give_back()
            super().on_message_complete()

    def give_back(self) -> None:
        """Return the body's bytes to the port's budget: it is complete, or not wanted any more."""
        self.port.receiving.give_back(self.counted_bytes)
        self.counted_bytes = 0

    def _body_too_large(self) -> Refused:
        return Refused(413, f"the body is larger than {self.port.max_request_bytes:,} bytes (max_request_size)")

    # Answers

    def refuse(self, refused: Refused) -> None:
        """Answer the request that is being received with this, in its turn, and read no further requests."""
        if self.discarding_input:
            return
        self.discarding_input = True
        self.give_back()
        cycle = self.cycle
        if self.phase == BODY and cycle is not None:
            self.refuse_begun(cycle, refused)
            return
        refusal = self.cycle = self._refusal(refused)
        if cycle is None or cycle.response_complete:
            refusal.begin_turn()
        else:
            self.pipeline.appendleft((refusal, None))

    def refuse_begun(self, cycle: Any, refused: Refused) -> None:
        """The same, for a request that the application already has."""
        if self.pipeline and self.pipeline[0][0] is cycle:
            self.cycle = self._refusal(refused)
            self.pipeline[0] = (self.cycle, None)
        elif cycle.response_complete:
            self.hang_up()
        elif cycle.response_started:
            self.transport.close()
        else:
            cycle.disconnected = cycle.response_complete = True
            cycle.message_event.set()
            self.cycle = self._refusal(refused)
            self.cycle.begin_turn()

    def _refusal(self, refused: Refused) -> Refusal:
        return Refusal(self, refused, self.parser.get_method() if self.url else b"-")

    def write_refusal(self, refusal: Refusal) -> None:
        """Write a refusal whose turn it is."""
        refused = refusal.refused
        self.note(refusal.method, refusal.target or b"-", refused.status, 0.0)
        if self.transport.is_closing():
            return
        body = refused.body()
        headers = [
            *self.server_state.default_headers,
            *refused.headers,
            (b"content-type", b"application/json"),
            (b"content-length", b"%d" % len(body)),
            (b"connection", b"close"),
        ]
        head = b"".join(b"%b: %b\r\n" % header for header in headers)
        self.transport.write(
            b"".join([STATUS_LINE[refused.status], head, b"\r\n", b"" if refusal.method == b"HEAD" else body])
        )
        self.hang_up()

    def note(self, method: bytes, target: bytes, status: int, seconds: float) -> None:
        """Count an answer, and write it to the access log."""
        port = self.port
        port.statuses[status] += 1
        if port.access is not None:
            port.access((time.time(), self.peer, method, target, status, seconds, "", ""))

    def hang_up(self) -> None:
        """Close the sending side, but read on for a moment. Closing at once would reset the connection while the client
        still sends, and the client would lose the answer."""
        self.discarding_input = True
        if not self.transport.is_closing():
            self.flow.unparsed = False
            self.flow.resume_reading()
            if self.transport.can_write_eof():
                self.transport.write_eof()
            self.loop.call_later(_LINGER_SECONDS, self.transport.close)

    def end(self) -> None:
        """Close after the last answer, so that the client gets it even if it has sent more behind its request."""
        if self.flow.read_paused:
            self.hang_up()
        else:
            self.discarding_input = True
            self.transport.close()

    def on_response_complete(self) -> None:
        self.server_state.total_requests += 1
        if self.transport.is_closing():
            return
        if self.flow.write_paused:  # otherwise unread answers would pile up
            self._held = True
            self.flow.pause_reading()
        elif self.pipeline or self.flow.read_paused:
            self._next()

    def _next(self) -> None:
        """The connection's next request has its turn."""
        if self.pipeline:
            cycle, app = self.pipeline.pop()
            if app is None:
                self.loop.call_soon(cycle.begin_turn)  # a direct call would nest, and a thousand requests may wait
            else:
                self._start_asgi_task(cycle, app)
        if not self.pipeline:
            self._resume()

    # Time

    def _check_progress(self) -> None:
        """Check regularly that the client makes progress. One timer that outlives many requests costs less than a new
        one for each."""
        self._check_timer = self.loop.call_later(_CHECK_SECONDS, self._check_progress)
        patience = self.port.slow_client_seconds
        idle = self.cycle is None or self.cycle.response_complete
        if unread := self.transport.get_write_buffer_size():
            if self._owed_seconds(self.transport, self._mark - unread) > patience:
                _log.info("%s does not read its answer: hung up", self.peer)
                self.transport.abort()
            self._mark = unread
        elif self.discarding_input or self.flow.read_paused or not (idle or self.phase != IDLE):
            self._owed = None
        elif self.phase == HEAD:
            if self._owed_seconds(self.headers, 0) > patience:
                self.refuse(Refused(408, f"the head did not come within {patience:g} s"))
        elif self.phase == BODY:
            if self._owed_seconds(self.cycle, self.body_bytes - self._mark) > patience:
                slow = f"less than {MIN_BYTES_PER_SECOND} bytes a second for {patience:g} s"
                self.refuse(Refused(408, f"the body stopped after {self.body_bytes:,} bytes: {slow}"))
            self._mark = self.body_bytes
        elif self._owed_seconds(self.cycle or self.port, 0) > (self.port.idle_seconds if self.cycle else patience):
            self.transport.close()

    def _owed_seconds(self, what: object, progress: int) -> float:
        """Seconds for which the client has owed `what` without making progress."""
        now = self.loop.time()
        if what is not self._owed or progress >= MIN_BYTES_PER_SECOND * _CHECK_SECONDS:
            self._owed, self._since = what, now
        return now - self._since


def _no_room() -> Refused:
    why = "other bodies that are being received take all of receive_buffer_bytes; try again in a moment"
    return Refused(503, why, ((b"retry-after", b"1"),))
