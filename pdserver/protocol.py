"""The HTTP protocol of the inference port: predictions are answered right here, all else by the ASGI application.

A prediction goes from the parser's callback to its model's queue, and its outcome back in one write: an ASGI scope, a
task and a router would cost more than all the rest of the way (uvicorn with Starlette serves 16,000 requests a second
where this serves 40,000). uvicorn's own machinery for pipelined requests, flow control and shutdown stays in charge:
to it, a `Prediction` is one more request-response cycle.
"""

from __future__ import annotations

import asyncio
import itertools
import re
import secrets
import time
from collections import deque
from collections.abc import Callable, Mapping
from typing import Any

import msgspec
from uvicorn.config import Config
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol
from uvicorn.server import ServerState

from pdserver.dialects.base import Body, Door, Headers, Response
from pdserver.engine.queue import Call
from pdserver.errors import PdError, TooLarge
from pdserver.known_heads import Head, KnownHeads
from pdserver.memory_file import THRESHOLD_BYTES, MemoryFile
from pdserver.types import Failure, Outcome, Reply, Request

_REQUEST_ID = re.compile(rb"[\x21-\x7e]{1,128}")
_LINGER_SECONDS = 2.0
_COPY_BYTES = 64 * 1024
"""A body larger than this is written by itself rather than copied behind its head."""


class Front(msgspec.Struct):
    """What all connections of the inference port share."""

    doors: Mapping[bytes, Door]
    """First segment of the path → door."""
    other_door: Door
    submit: Callable[[Call], None]
    max_request_bytes: int
    statuses: dict[int, int]
    """Answers given, by status."""
    access: Callable[[str, bytes, bytes, int, float], None] | None
    """Takes an access log entry: client, method, target, status, seconds."""
    heads: KnownHeads = msgspec.field(default_factory=KnownHeads)
    id_prefix: str = msgspec.field(default_factory=lambda: secrets.token_hex(10))
    numbers: itertools.count[int] = msgspec.field(default_factory=itertools.count)

    def new_id(self) -> str:
        """Unique without asking the system for randomness each time."""
        return f"{self.id_prefix}{next(self.numbers):012x}"


_NOT_DECODED = Request("", None, "", [])


class _NoEvent:
    """uvicorn wakes a cycle's ASGI task by its event; a prediction has no task."""

    def set(self) -> None:
        pass


class Prediction(Call):
    """One prediction on one connection; what uvicorn wants of a cycle is here under uvicorn's names."""

    __slots__ = (
        "begun", "body", "body_bytes", "chunked", "door", "file", "headers", "id", "keep_alive", "kept", "method",
        "protocol", "received", "response_complete", "target", "too_large", "turn",
    )  # fmt: skip

    message_event = _NoEvent()

    def __init__(self, protocol: PredictionProtocol, door: Door, method: bytes, request_id: str) -> None:
        super().__init__(_NOT_DECODED, time.monotonic())
        self.protocol = protocol
        self.door = door
        self.method = method
        self.target = protocol.url
        self.headers = protocol.headers
        self.id = request_id
        self.body: list[bytes] = []
        self.body_bytes = 0
        self.begun = False
        """Whether the head of a streamed answer is written."""
        self.chunked = False
        """Whether a streamed answer can go out in chunks: since HTTP/1.1."""
        self.file: MemoryFile | None = None
        """Holds the body once it is large."""
        self.keep_alive = True
        self.kept: list[MemoryFile] | None = None
        """What the door made of the body, for as long as workers may want it."""
        self.received = False
        """Whether the whole body is here."""
        self.too_large = False
        self.turn = False
        """Whether all earlier requests of the connection are answered."""
        self.response_complete = False

    @property
    def disconnected(self) -> bool:
        return self.cancelled

    @disconnected.setter
    def disconnected(self, value: bool) -> None:
        self.cancelled = value

    @property
    def held_bytes(self) -> int:
        return self.body_bytes

    def begin_when_ready(self) -> None:
        """To the queue, once the whole body is here and it is this request's turn."""
        if not (self.received and self.turn) or self.response_complete:
            return
        front = self.protocol.front
        pieces, self.body = self.body, []
        body = Body(pieces[0] if len(pieces) == 1 else b"".join(pieces), self.file.seal() if self.file else -1)
        try:
            if self.too_large:
                raise TooLarge(f"the body is larger than {front.max_request_bytes:,} bytes (max_request_size)")
            self.request = self.door.decode(self.target, self.headers, body, self.id)
            self.kept = body.kept
            front.submit(self)
        except PdError as error:
            self.settle(Failure.of(error))

    def receive(self, data: bytes) -> None:
        """Take a piece of the body."""
        self.body_bytes += len(data)
        if self.file is not None:
            self.file.append(data)
            return
        self.body.append(data)
        if self.body_bytes >= THRESHOLD_BYTES:
            pieces, self.body = self.body, []
            self.file = MemoryFile(pieces)

    def chunk(self, piece: Reply) -> None:
        self.protocol.answer_chunk(self, self.door.encode_chunk(self.request, piece))

    def settle(self, outcome: Outcome) -> None:
        self.file = self.kept = None
        if not self.streaming:
            self.protocol.answer(self, self.door.encode(self.request, outcome))
        elif isinstance(outcome, Reply):
            self.protocol.answer_chunk(self, self.door.encode_chunk(self.request, outcome))
            self.protocol.end_chunks(self)
        else:
            self.protocol.break_off(self)


class PredictionProtocol(HttpToolsProtocol):
    """uvicorn's protocol, with a shorter way for predictions."""

    cycle: Any  # a RequestResponseCycle of uvicorn's, a Prediction, or None
    pipeline: deque[Any]

    def __init__(
        self,
        front: Front,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        super().__init__(config, server_state, app_state, _loop)
        self.front = front
        self._peer = "-"
        self._between = True
        """Whether what comes next is a new request."""
        self._piece = b""
        """What was received, when it began with a request."""
        self._begun = False
        """Whether a request's head is being received."""
        self._active = 0.0
        """When the last answer was given."""
        self._idle_timer: asyncio.TimerHandle | None = None
        self._date_headers: Headers = []
        self._common_head = b""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        if self.client:
            self._peer = f"{self.client[0]}:{self.client[1]}"

    def connection_lost(self, exc: Exception | None) -> None:
        for cycle, _ in self.pipeline:
            if type(cycle) is Prediction:
                cycle.cancelled = True
        if self._idle_timer is not None:
            self._idle_timer.cancel()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self._between:
            if self.cycle is None or self.cycle.response_complete:
                known = self.front.heads.find(data)
                if known is not None:
                    self._predict(*known)
                    return
            self._piece = data
        super().data_received(data)
        self._piece = b""

    def _predict(self, head: Head, body: bytes) -> None:
        """Begin a prediction that came whole, without having it parsed."""
        self.url, self.headers = head.target, head.headers
        self.cycle = prediction = Prediction(self, head.door, head.method, self.front.new_id())
        prediction.turn = prediction.received = prediction.chunked = True
        prediction.receive(body)
        prediction.begin_when_ready()

    # What the parser calls

    def on_message_begin(self) -> None:
        self._begun = True
        self._between = False
        self.url = b""
        self.headers = []
        self.expect_100_continue = False

    def on_headers_complete(self) -> None:
        self._begun = False
        url = self.url
        end = url.find(b"/", 1)
        front = self.front
        door = front.doors.get(url[1:end] if end > 0 else url[1:].partition(b"?")[0], front.other_door)
        method = self.parser.get_method()
        if door.matches(method, url):
            self._begin_prediction(door, method)
        else:
            headers = self.headers
            super().on_message_begin()  # builds the ASGI scope, and empties these two
            self.url = url
            self.headers.extend(headers)
            super().on_headers_complete()

    def _begin_prediction(self, door: Door, method: bytes) -> None:
        front = self.front
        earlier = self.cycle
        length = 0
        request_id = b""
        for name, value in self.headers:
            if name == b"content-length":
                length = int(value)
            elif name == b"x-request-id":
                request_id = value
        known = request_id and _REQUEST_ID.fullmatch(request_id)
        prediction = Prediction(self, door, method, request_id.decode() if known else front.new_id())
        self.cycle = prediction
        parser = self.parser
        prediction.chunked = parser.get_http_version() == "1.1"
        if not parser.should_keep_alive():
            prediction.keep_alive = False
        if earlier is None or earlier.response_complete:
            prediction.turn = True
            if self.expect_100_continue and length <= front.max_request_bytes:
                self.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        else:
            self.flow.pause_reading()
            self.pipeline.appendleft((prediction, self.app))
        if length > front.max_request_bytes:
            self._refuse_body(prediction)

    def on_body(self, body: bytes) -> None:
        cycle = self.cycle
        if type(cycle) is not Prediction:
            super().on_body(body)
        elif not cycle.response_complete:
            cycle.receive(body)
            if cycle.body_bytes > self.front.max_request_bytes:
                self._refuse_body(cycle)

    def on_message_complete(self) -> None:
        self._between = True
        cycle = self.cycle
        if type(cycle) is not Prediction:
            super().on_message_complete()
        elif cycle.too_large:
            if cycle.response_complete:
                self.transport.close()
        else:
            cycle.received = True
            if self._piece and self._can_be_known(cycle):
                self.front.heads.learn(
                    self._piece, Head(cycle.door, cycle.method, cycle.target, cycle.headers, cycle.body_bytes)
                )
            cycle.begin_when_ready()

    def _can_be_known(self, prediction: Prediction) -> bool:
        """Whether there is nothing about the request that the next one with this head would not have."""
        return (
            prediction.turn
            and prediction.keep_alive
            and prediction.chunked
            and not self.expect_100_continue
            and not any(name in (b"x-request-id", b"transfer-encoding") for name, _ in prediction.headers)
        )

    def _refuse_body(self, prediction: Prediction) -> None:
        """Answer 413 now, but read on for a little: closing at once would reset the connection, answer and all."""
        prediction.received = prediction.too_large = True
        prediction.keep_alive = False
        prediction.body = []
        prediction.file = None
        prediction.begin_when_ready()

    # Answers

    def answer(self, prediction: Prediction, response: Response) -> None:
        """Write the answer; the next request of the connection has its turn."""
        if prediction.response_complete:
            return
        prediction.response_complete = True
        self._note(prediction, response.status)
        if not self.transport.is_closing():
            self._write(prediction, response)
        self.on_response_complete()

    def _note(self, prediction: Prediction, status: int) -> None:
        front = self.front
        front.statuses[status] += 1
        if front.access is not None:
            seconds = time.monotonic() - prediction.arrived
            front.access(self._peer, prediction.method, prediction.target, status, seconds)

    def answer_chunk(self, prediction: Prediction, response: Response) -> None:
        """Write a piece of a streamed answer; the first one brings the head along."""
        if self.transport.is_closing():
            return
        if not prediction.begun:
            prediction.begun = True
            prediction.keep_alive = prediction.keep_alive and prediction.chunked
            length = b"transfer-encoding: chunked\r\n" if prediction.chunked else b""
            self.transport.write(b"".join(self._head(prediction, response, length)))
        if not prediction.chunked:
            self.transport.write(response.body)
        elif response.body:
            self.transport.write(b"%x\r\n%b\r\n" % (len(response.body), response.body))

    def end_chunks(self, prediction: Prediction) -> None:
        """The answer is complete."""
        prediction.response_complete = True
        self._note(prediction, 200)
        if not self.transport.is_closing():
            if prediction.chunked:
                self.transport.write(b"0\r\n\r\n")
            if not prediction.keep_alive:
                self.transport.close()
        self.on_response_complete()

    def break_off(self, prediction: Prediction) -> None:
        """The answer can't be completed: without its last chunk, no client takes it for complete."""
        prediction.response_complete = True
        self._note(prediction, 500)
        self.transport.close()

    def _head(self, prediction: Prediction, response: Response, length: bytes) -> list[bytes]:
        """All before the body; `length` is the header that says where the body ends."""
        defaults = self.server_state.default_headers
        if self._date_headers is not defaults:
            self._date_headers = defaults
            lines = [b"%b: %b\r\n" % header for header in [*defaults, (b"cache-control", b"no-store")]]
            self._common_head = b"".join(lines)
        head = [
            STATUS_LINE[response.status] if not response.reason else _status_line(response),
            self._common_head,
            b"x-request-id: ",
            prediction.id.encode(),
            b"\r\ncontent-type: ",
            response.content_type,
            b"\r\n",
            length,
        ]
        if response.headers:
            head.extend(b"%b: %b\r\n" % header for header in response.headers)
        head.append(b"\r\n" if prediction.keep_alive else b"connection: close\r\n\r\n")
        return head

    def _write(self, prediction: Prediction, response: Response) -> None:
        body, more = response.body, response.more
        length = len(body) if not more else len(body) + sum(map(len, more))
        head = self._head(prediction, response, b"content-length: %d\r\n" % length)
        if length <= _COPY_BYTES:
            self.transport.write(b"".join([*head, body, *more]))
        else:
            self.transport.writelines([b"".join(head), body, *more])
        if prediction.keep_alive:
            return
        if prediction.too_large:
            self.loop.call_later(_LINGER_SECONDS, self.transport.close)
        else:
            self.transport.close()

    def on_response_complete(self) -> None:
        self.server_state.total_requests += 1
        self._active = time.monotonic()
        if self.transport.is_closing():
            return
        self.flow.resume_reading()
        if self.pipeline:
            cycle, app = self.pipeline.pop()
            if type(cycle) is Prediction:
                cycle.turn = True
                self.loop.call_soon(
                    cycle.begin_when_ready
                )  # not at once: a thousand may wait, each in the last one's stack
            else:
                self._start_asgi_task(cycle, app)
        elif self._idle_timer is None:
            self._idle_timer = self.loop.call_later(self.timeout_keep_alive, self._close_if_idle)

    def _close_if_idle(self) -> None:
        """The keep-alive timer. One that outlives many requests costs less than one armed anew after each."""
        self._idle_timer = None
        busy = self._begun or (self.cycle is not None and not self.cycle.response_complete)
        remaining = self.timeout_keep_alive - (0.0 if busy else time.monotonic() - self._active)
        if remaining > 0:
            self._idle_timer = self.loop.call_later(remaining, self._close_if_idle)
        else:
            self.timeout_keep_alive_handler()


def _status_line(response: Response) -> bytes:
    return b"HTTP/1.1 %d %b\r\n" % (response.status, response.reason)
