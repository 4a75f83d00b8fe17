"""The HTTP protocol of the inference port. It answers predictions itself, and passes all else to the ASGI application.

A prediction goes from the parser's callback straight to its model's queue, and its outcome back in one write. An ASGI
scope, a task and a router would cost more than all the rest: uvicorn with Starlette serves 16,000 requests a second
where this serves 40,000. To uvicorn, a `Prediction` looks like one more request-response cycle.
"""

from __future__ import annotations

import asyncio
from typing import Any, cast

from uvicorn.config import Config
from uvicorn.server import ServerState

from pdserver.dialects.base import Body, Decode, Door, Headers
from pdserver.dialects.request_id import request_id
from pdserver.http.connection import BODY, CONTINUE, GONE, IDLE, UNKNOWN, Connection
from pdserver.http.front import Front
from pdserver.http.known_heads import KnownHead
from pdserver.http.other_protocols import OtherConnection, chosen, is_undecided
from pdserver.http.prediction import Prediction
from pdserver.memory_file import THRESHOLD_BYTES
from pdserver.security.access import PREDICTION, Need
from pdserver.security.refused import Refused


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
        self.cycle = prediction = Prediction(self, self.front, head.door, head.method, headers, id)
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
        prediction = Prediction(self, front, door, method, headers, request_id(self.request_id))
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
