"""The HTTP protocol of the inference port. It answers predictions itself, and passes all else to the ASGI application.

A prediction goes from the parser's callback straight to its model's queue, and its outcome back in one write. An ASGI
scope, a task and a router would cost more than all the rest: uvicorn with Starlette serves 16,000 requests a second
where this serves 40,000. To uvicorn, a `Prediction` looks like one more request-response cycle.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, cast

import msgspec
from uvicorn.config import Config
from uvicorn.server import ServerState

from pdserver.dialects.base import Body, Decode, Door, Headers, Response
from pdserver.dialects.request_id import request_id
from pdserver.dialects.rpc import is_forwarded
from pdserver.engine.queue import Call
from pdserver.errors import Kind, Missing, PdError, Unavailable
from pdserver.http.answer_heads import LENGTH, AnswerHeads
from pdserver.http.connection import BODY, CONTINUE, GONE, IDLE, UNKNOWN, Connection, HttpPort, NoEvent, Refusal
from pdserver.http.known_heads import KnownHead, KnownHeads
from pdserver.http.other_protocols import OtherConnection, OtherProtocols, chosen, is_undecided
from pdserver.http.passing import on_the_wire, sent_headers, told_missing, with_token
from pdserver.memory_file import THRESHOLD_BYTES, MemoryFile
from pdserver.peers.http import Asked, HttpPeers, PeerAnswer
from pdserver.security.access import PREDICTION, Need
from pdserver.security.refused import Refused
from pdserver.types import Failure, Outcome, Reply, Request

_log = logging.getLogger("pdserver.http")

_COPY_BYTES = 64 * 1024
"""A larger body is written by itself rather than copied behind its head."""
_RETRY = ((b"retry-after", b"1"),)
_MAX_UNREAD_BYTES = 64 * 1024 * 1024
"""If a client leaves more of a streamed answer unread, the server hangs up."""


class Front(HttpPort, kw_only=True):
    """What all connections of the inference port share."""

    doors: Mapping[bytes, Door]
    """First segment of the path → door."""
    other_doors: tuple[Door, ...]
    """For all other segments: the first one that matches has the request."""
    submit: Callable[[Call], None]
    heads: KnownHeads
    others: OtherProtocols
    """What else is spoken here."""
    answer_heads: AnswerHeads = msgspec.field(default_factory=AnswerHeads)


_NOT_DECODED = Request("", None, "", [])
_NOTHING = Response(0, b"", b"")


class Prediction(Call):
    """One prediction on one connection. It has the attributes of uvicorn's cycle, under uvicorn's names."""

    entrypoint = "REST"
    request = _NOT_DECODED
    kept: Sequence[MemoryFile] = ()
    body: list[bytes]
    """The pieces of the body that have come, unless it is large. One that came whole with its head has none."""
    message_event = NoEvent()
    body_bytes = 0
    chunked = False
    """Whether a streamed answer can use chunks, which HTTP/1.0 does not have."""
    decode: Decode | None = None
    """What has decoded the body, once it is here."""
    file: MemoryFile | None = None
    """Holds the body once it is large."""
    reading: asyncio.Task[Request] | None = None
    """The task that decodes a large body."""
    received = False
    """Whether the whole body is here."""
    refused: Refused | None = None
    turn = False
    """Whether all earlier requests of the connection are answered."""
    response_complete = False
    response_started = False
    """Whether the head of a streamed answer is written."""
    writing: asyncio.Task[None] | None = None
    """The task that writes the latest piece of a streamed answer, if that takes long."""
    sent: bytes | tuple[Headers, bytes | None] = b""
    """If it may be passed on: the whole request, or its headers and its token."""
    passing: asyncio.Task[None] | None = None
    """The task that has another node answer."""

    def __init__(
        self, protocol: PredictionProtocol, door: Door, method: bytes, headers: Headers, request_id: str
    ) -> None:
        self.arrived = time.monotonic()
        self.protocol = protocol
        self.door = door
        self.method = method
        self.target = protocol.url
        self.headers = headers
        self.id = request_id
        self.keep_alive = protocol.keep_alive

    def __repr__(self) -> str:
        states = [name for name in ("received", "turn", "cancelled", "response_complete") if getattr(self, name)]
        return f"<Prediction {self.id} {self.method!r} {self.target!r}: {', '.join(states) or 'begun'}>"

    @property
    def disconnected(self) -> bool:
        return self.cancelled

    @disconnected.setter
    def disconnected(self, value: bool) -> None:
        assert value, "who has left does not come back"  # noqa: S101
        self.cancel()
        for task in (self.reading, self.passing):
            if task is not None:
                task.cancel()

    @property
    def held_bytes(self) -> int:
        return self.body_bytes

    def begin_turn(self) -> None:
        self.turn = True
        self.begin_when_ready()

    def begin_when_ready(self) -> None:
        """Submit the request once its whole body is here and it is its turn."""
        if not (self.received and self.turn) or self.response_complete:
            return
        if self.refused is not None:
            self.protocol.answer_refused(self, self.refused)
            return
        pieces, self.body = self.body, []
        try:
            if self.file is not None:
                self.file.seal()
            decode = self.door.prepare(self.target, self.headers)
        except Exception as error:  # noqa: BLE001 - whatever it is, the client waits for an answer
            self._fail(error)
        else:
            self.begin(decode, Body(pieces[0] if len(pieces) == 1 else b"".join(pieces), self.file))

    def begin(self, decode: Decode, body: Body) -> None:
        """Decode the request, and submit it."""
        self.decode = decode
        try:
            request = decode(self.headers, body, self.id)
            if isinstance(request, Request):
                self.submit(request, body)
            else:
                self.reading = request
                request.add_done_callback(partial(self._read, body))
        except Exception as error:  # noqa: BLE001 - the same
            self._fail(error, body)

    def submit(self, request: Request, body: Body) -> None:
        """Queue the request. Raises PdError."""
        self.request = request
        self.kept = body.kept
        self.file = None  # `kept` has it, if it is still needed
        self.protocol.front.submit(self)

    def _read(self, body: Body, reading: asyncio.Task[Request]) -> None:
        """Submit a request whose decoding task has ended."""
        self.reading = None
        error = None if reading.cancelled() else reading.exception()
        if self.cancelled:
            return
        if error is not None:  # not raised here: its traceback would keep this frame, and with it the body's files
            self._fail(error, body)
            return
        self.body_bytes = sum(os.fstat(file.fd).st_size for file in body.kept)
        try:
            self.submit(reading.result(), body)
        except Exception as refused:  # noqa: BLE001 - the same
            self._fail(refused, body)

    def _fail(self, error: BaseException, body: Body | None = None) -> None:
        """The request could not be queued."""
        if isinstance(error, PdError):
            try:
                if error.missing is None or body is None:
                    self.settle(Failure.of(error))
                else:
                    self._lack(error, error.missing, body)
                return
            except Exception as unwritable:  # noqa: BLE001
                error = unwritable
        _log.error("%s could not be read or queued", self._described(), exc_info=error)
        self.settle(Failure.internal(error))

    def _lack(self, error: PdError, missing: Missing, body: Body) -> None:
        """What the request asks for is not served here."""
        peers = self.protocol.front.peers
        if peers is not None and peers.takes(missing, self.headers):
            sent = self.sent
            headers = sent_headers(sent) if isinstance(sent, bytes) else with_token(*sent)
            asked = Asked(missing, self.method, self.target, headers, body, self.arrived, self.id)
            self.passing = asyncio.ensure_future(self._pass(peers, asked))
        elif is_forwarded(self.headers):
            self.write(told_missing(self.door.encode(self.request, Failure.of(error))), self.protocol.answer)
        else:
            self.settle(Failure.of(error))

    async def _pass(self, peers: HttpPeers, asked: Asked) -> None:
        model = asked.missing.model
        try:
            answer = await peers.ask(asked)
        except PdError as error:
            self.settle(Failure.of(error))
            return
        del asked  # a slow client need not hold the body of its request
        with contextlib.closing(answer):
            try:
                await self.protocol.pass_answer(self, answer, model)
            except PdError as error:
                if self.response_started:
                    self.protocol.break_off(self, _NOTHING)
                else:
                    self.settle(Failure.of(error))

    def receive(self, data: bytes) -> None:
        """Take a piece of the body. Raises Refused when there is no room for it."""
        self.body_bytes += len(data)
        try:
            if self.file is not None:
                self.file.append(data)
                return
            self.body.append(data)
            if self.body_bytes >= THRESHOLD_BYTES:
                pieces, self.body = self.body, []
                self.file = MemoryFile(pieces)
        except Unavailable as error:
            raise Refused(503, str(error), _RETRY) from None

    def refuse(self, refused: Refused) -> None:
        """Refuse the request, whatever part of it has come."""
        self.refused = refused
        self.received = True
        self.keep_alive = False
        self.body = []
        self.file = None
        self.begin_when_ready()

    def chunk(self, piece: Reply) -> None:
        self.write(self.door.encode_chunk(self.request, piece), self.protocol.answer_chunk)

    def settle(self, outcome: Outcome) -> None:
        self.file = None
        self.kept = ()
        if not self.streaming:
            response = self.door.encode(self.request, outcome)
            if type(response) is Response:
                self.protocol.answer(self, response)
            else:
                self.write(response, self.protocol.answer)
        elif isinstance(outcome, Reply):
            self.write(self.door.encode_chunk(self.request, outcome), self.protocol.answer_last_chunk)
        else:
            self.write(_NOTHING, self.protocol.break_off)

    def write(self, response: Response | asyncio.Task[Response], write: Callable[[Prediction, Response], None]) -> None:
        """Write the answer, or a piece of it after the pieces before it."""
        if isinstance(response, Response) and self.writing is None:
            write(self, response)
        else:
            self.writing = asyncio.ensure_future(self._write_in_turn(self.writing, response, write))

    async def _write_in_turn(
        self,
        earlier: asyncio.Task[None] | None,
        response: Response | asyncio.Task[Response],
        write: Callable[[Prediction, Response], None],
    ) -> None:
        """Never raises."""
        if earlier is not None:
            await earlier
        try:
            write(self, response if isinstance(response, Response) else await response)
        except Exception as error:  # noqa: BLE001 - whatever it is, the client waits for an answer
            _log.error("%s: the answer could not be written", self._described(), exc_info=error)
            self.protocol.break_off(self, _NOTHING)

    def _described(self) -> str:
        model = "" if self.request is None else f" for {self.request.model}"
        return f"{self.protocol.peer}: request {self.id}{model}"


class PredictionProtocol(Connection):
    """A connection to the inference port, with a fast path for predictions."""

    def __init__(
        self,
        front: Front,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        super().__init__(front, config, server_state, app_state, _loop)
        self.front = front
        self._first = b""
        """The connection's first data, as long as they are too short to tell its protocol."""
        self._piece = b""
        """The received data, if they began with a request."""
        self._authorization: bytes | None = None
        """The header with the token that was checked, if `_piece` has one."""

    def data_received(self, data: bytes) -> None:
        if self.phase == IDLE:
            if (self.cycle is None or self.cycle.response_complete) and not self.discarding_input:
                known = self.front.heads.find(data)
                if known is not None:
                    self._predict(*known, data)
                    return
                if self.cycle is None and self.front.others:
                    data = self._http_of(data)
                    if not data:
                        return
            self._piece = data
        elif self.phase == UNKNOWN:
            self._piece = data = self._http_of(data)
            if not data:
                return
        super().data_received(data)
        self._piece, self._authorization = b"", None

    def _http_of(self, data: bytes) -> bytes:
        """What of the connection's first data is to be parsed: nothing, if they are another protocol's or too short."""
        data, self._first = self._first + data, b""
        self.phase = IDLE
        make = chosen(self.front.others, data)
        if make is not None:
            self._hand_over(make(), data)
            return b""
        if is_undecided(self.front.others, data):
            self._first, self.phase = data, UNKNOWN
            return b""
        return data

    def _hand_over(self, other: OtherConnection, data: bytes) -> None:
        """`other` goes on with the connection, and `data` are its first data."""
        self.phase = GONE
        if self._check_timer is not None:
            self._check_timer.cancel()
        self.connections.discard(self)
        self.transport.set_protocol(cast(asyncio.BaseProtocol, other))
        other.connection_made(self.transport)
        other.data_received(data)
        if self.leaving:
            other.shutdown()

    def eof_received(self) -> bool:  # type: ignore[override]
        if self._first:
            first, self._first = self._first, b""
            self.phase = IDLE
            super().data_received(first)
        return super().eof_received()

    def _predict(self, head: KnownHead, headers: Headers, id: str, body: bytes, data: bytes) -> None:
        """Begin a prediction that came whole, as `data`, without parsing it."""
        self.url = head.target
        self.cycle = prediction = Prediction(self, head.door, head.method, headers, id)
        prediction.turn = prediction.received = prediction.chunked = True
        prediction.keep_alive = not self.leaving
        prediction.body_bytes = head.length
        if self.front.peers is not None:
            prediction.sent = data
        prediction.begin(head.decode, Body(body))

    # What the parser calls

    def _door(self, method: bytes) -> Door | None:
        """The door for the request, if it is a prediction."""
        front = self.front
        door = front.doors.get(self.url.partition(b"?")[0].split(b"/", 2)[1])
        if door is not None:
            return door if door.matches(method, self.url) else None
        return next((other for other in front.other_doors if other.matches(method, self.url)), None)

    def need(self, method: bytes) -> Need:
        return super().need(method) if self._door(method) is None else PREDICTION

    def dispatch(self, method: bytes, headers: Headers, seen: dict[bytes, bytes]) -> None:
        front = self.front
        door = self._door(method)
        if door is None:
            super().dispatch(method, headers, seen)
            return
        received = headers
        if front.guard.asks:
            front.guard.check_token(PREDICTION, headers, seen.get(b"authorization"), self._client)
            headers = front.guard.shown(headers)
            self._authorization = None if front.guard.keyring is None else seen.get(b"authorization")
        earlier = self.cycle
        prediction = Prediction(self, door, method, headers, request_id(self.request_id))
        prediction.body = []
        prediction.chunked = self.version == "1.1"
        if front.peers is not None:
            prediction.sent = received, seen.get(b"authorization")
        self.cycle = prediction
        if earlier is None or earlier.response_complete:
            prediction.turn = True
            if self.expect_100_continue and self.length <= front.max_request_bytes:
                self.transport.write(CONTINUE)
        else:
            self.flow.pause_reading()
            self.pipeline.appendleft((prediction, None))

    def on_body(self, body: bytes) -> None:
        cycle = self.cycle
        if type(cycle) is not Prediction:
            super().on_body(body)
        else:
            self.count_body(body)
            cycle.receive(body)

    def on_message_complete(self) -> None:
        cycle = self.cycle
        if type(cycle) is not Prediction or self.phase != BODY:
            super().on_message_complete()
            return
        self.phase = IDLE
        if self.counted_bytes:
            self.give_back()
        cycle.received = True
        cycle.begin_when_ready()
        if self._piece and cycle.decode is not None and self._can_be_known(cycle):
            self._learn(cycle, cycle.decode)

    def _learn(self, prediction: Prediction, decode: Decode) -> None:
        front = self.front
        until = front.guard.allowed_until(PREDICTION, self._authorization)
        if until:
            head = KnownHead(
                prediction.door, decode, prediction.method, prediction.target, prediction.headers,
                prediction.body_bytes, until,
            )  # fmt: skip
            front.heads.learn(self._piece, head, self._authorization)

    def refuse_begun(self, cycle: Any, refused: Refused) -> None:
        if type(cycle) is Prediction:
            cycle.refuse(refused)
        else:
            super().refuse_begun(cycle, refused)

    def _can_be_known(self, prediction: Prediction) -> bool:
        """Whether every later request with this head will mean the same."""
        return (
            prediction.turn
            and prediction.keep_alive
            and prediction.chunked
            and not self.expect_100_continue
            and prediction.body_bytes < THRESHOLD_BYTES
            and not any(name == b"transfer-encoding" for name, _ in prediction.headers)
        )

    # Answers

    def answer(self, prediction: Prediction, response: Response) -> None:
        """Write the answer. The connection's next request then has its turn."""
        if prediction.response_complete:
            return
        prediction.response_complete = True
        self._note(prediction, response.status)
        if not self.transport.is_closing():
            self._write(prediction, response)
        self.on_response_complete()

    def answer_refused(self, prediction: Prediction, refused: Refused) -> None:
        """Write why the request is refused. If it is too large, the dialect words the error."""
        if refused.status == 413:
            failure = Failure(Kind.TOO_LARGE, refused.message)
            prediction.write(prediction.door.encode(prediction.request, failure), self.answer)
        else:
            prediction.response_complete = True
            self.write_refusal(Refusal(self, refused, prediction.method))

    def _note(self, prediction: Prediction, status: int) -> None:
        front = self.front
        front.statuses[status] += 1
        if front.access is not None:
            seconds, model = time.monotonic() - prediction.arrived, prediction.request.model
            method, target = prediction.method, prediction.target
            front.access((time.time(), self.peer, method, target, status, seconds, prediction.id, model))

    def answer_chunk(self, prediction: Prediction, response: Response) -> None:
        """Write a piece of a streamed answer. The first one is preceded by the head."""
        if self.transport.is_closing():
            return
        if not prediction.response_started:
            prediction.response_started = True
            prediction.keep_alive = prediction.keep_alive and prediction.chunked
            length = b"transfer-encoding: chunked\r\n" if prediction.chunked else b""
            self.transport.write(self._head(prediction, response, length) % prediction.id.encode())
        if not prediction.chunked:
            self.transport.write(response.body)
        elif response.body:
            self.transport.write(b"%x\r\n%b\r\n" % (len(response.body), response.body))
        if self.transport.get_write_buffer_size() > _MAX_UNREAD_BYTES:
            self.transport.abort()

    def answer_last_chunk(self, prediction: Prediction, response: Response) -> None:
        """Write the last piece of a streamed answer."""
        self.answer_chunk(prediction, response)
        prediction.response_complete = True
        self._note(prediction, 200)
        if not self.transport.is_closing():
            if prediction.chunked:
                self.transport.write(b"0\r\n\r\n")
            if not prediction.keep_alive:
                self.end()
        self.on_response_complete()

    async def pass_answer(self, prediction: Prediction, answer: PeerAnswer, model: str) -> None:
        """Write another node's answer, as fast as the client reads it. Raises PdError."""
        prediction.keep_alive = prediction.keep_alive and (prediction.chunked or answer.length is not None)
        common, kept = self.server_state.default_headers, prediction.keep_alive
        async for data in on_the_wire(answer, common, prediction.id, kept=kept, chunked=prediction.chunked):
            await self.flow.drain()
            if self.transport.is_closing():
                return
            prediction.response_started = True
            self.transport.write(data)
        if not prediction.request.model:
            prediction.request = msgspec.structs.replace(prediction.request, model=model)
        prediction.response_complete = True
        self._note(prediction, answer.head.status)
        if not self.transport.is_closing():
            self._finish(prediction)
        self.on_response_complete()

    def break_off(self, prediction: Prediction, _: Response) -> None:
        """Close without a last chunk, so that no client takes the answer for complete."""
        prediction.response_complete = True
        self._note(prediction, 500)
        self.transport.close()

    def _head(self, prediction: Prediction, response: Response, length: bytes) -> bytes:
        """A template of the lines before the body (`AnswerHeads.of`)."""
        kept, common = prediction.keep_alive, self.server_state.default_headers
        return self.front.answer_heads.of(common, response, length, kept, not prediction.chunked)

    def _write(self, prediction: Prediction, response: Response) -> None:
        body, more = response.body, response.more
        length = len(body) if not more else len(body) + sum(map(len, more))
        head = self._head(prediction, response, LENGTH) % (prediction.id.encode(), length)
        if length > _COPY_BYTES:
            self.transport.writelines([head, body, *more])
        elif more:
            self.transport.write(b"".join([head, body, *more]))
        else:
            self.transport.write(head + body)
        self._finish(prediction)

    def _finish(self, prediction: Prediction) -> None:
        """The answer is written."""
        if self.discarding_input and not self.pipeline:  # a waiting cycle would be the next request's refusal
            self.hang_up()
        elif not prediction.keep_alive:
            self.end()
