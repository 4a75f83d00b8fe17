"""One call: its messages in, its answer out, and exactly one status at its end, whatever happens."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import time
from collections import deque
from collections.abc import AsyncGenerator, Coroutine
from typing import Any

from pdserver.dialects.rpc import (
    ANSWERED,
    LACKS_MODEL,
    Answer,
    BidiStreaming,
    Code,
    Message,
    Metadata,
    PassedCall,
    Prediction,
    PredictionCall,
    RpcCall,
    RpcError,
    ServerStreaming,
    Unary,
    is_forwarded,
    missing_in,
)
from pdserver.grpc import heads
from pdserver.grpc.heads import ACCEPTED, CallHead, http_answer, trailers
from pdserver.grpc.http2.control import MIN_BYTES_PER_SECOND
from pdserver.grpc.http2.frames import ErrorCode, StreamFault
from pdserver.grpc.http2.stream import Stream
from pdserver.grpc.messages import Packed, Reader, framed, unpacked, whole
from pdserver.grpc.port import Caller

_log = logging.getLogger("pdserver.grpc")
_MAX_UNREAD_MESSAGES = 16
"""Limit for a stream. A client that sends more than its method reads has to wait."""
_MAX_UNREAD_BYTES = 64 * 1024 * 1024
"""Limit for the answers on one connection. A client that leaves more of them unread is not served."""
_HOLD_BYTES = 64 * 1024
"""Memory for requests is counted in steps of this size."""
_PIECES_IN_A_ROW = 64
"""Pieces of one answer that are sent before others have their turn."""


_NONE: deque[Message | Packed] = deque(maxlen=0)
_NAMES = tuple(code.name for code in Code)


class GrpcCall(Stream, PredictionCall):
    """A call. To HTTP/2 it is a stream, and if it is a prediction, to the engine it is a call of its own."""

    # Defaults of the class, since most calls change few of them.
    _messages: deque[Message | Packed] = _NONE
    """Those that have come, and that the method has not taken."""
    _received_bytes = _seen_bytes = 0
    """Bytes of the request: now, and at the connection's last check."""
    _held_bytes = 0
    """Bytes that the call has reserved of the memory for requests."""
    _room = 0
    """How many of them are not used yet."""
    _deadline: asyncio.TimerHandle | None = None
    _head_sent = _settled = False
    _reader: Reader | None = None
    """Assembles messages that do not come whole."""
    _waiter: asyncio.Future[None] | None = None
    _first: Message | None = None
    """The first message of a stream, as long as another server may have to answer it."""

    def __init__(self, connection: Caller, number: int, head: CallHead) -> None:
        self.number = number
        self.connection = connection
        self.rpc = RpcCall(head.metadata, timeout_seconds=head.timeout_seconds, client=connection.client)
        self.arrived = self._progress = time.monotonic()
        """When the call began, and when the client last made progress in sending it."""
        self._head = head

    # What the connection calls

    def begin(self) -> None:
        head = self._head
        if head.http_status != 200:
            self._answer_http(head.http_status)
        elif head.refused is not None:
            self._end(*head.refused)
        elif self._may_run() and isinstance(head.method, BidiStreaming):
            self._run(self._stream(head.method, self._incoming()))

    def take_whole(self, data: bytes, begin: int, end: int) -> None:
        head, limits = self._head, self.connection.port.limits
        prediction, length = head.prediction, head.length
        usual = prediction is not None and (length is None or length == end - begin)
        message = whole(data, begin, end, limits.max_message_bytes) if usual else None
        if prediction is None or message is None:
            super().take_whole(data, begin, end)
        elif self._may_run():
            self.predict(prediction, message)

    def receive(self, data: bytes, begin: int, end: int) -> None:
        self._received_bytes += end - begin
        if self._settled:
            return
        if self._messages is _NONE:
            self._messages = deque()
        try:
            amid = self._reader is not None and self._reader.amid
            message = None if amid else whole(data, begin, end, self.connection.port.limits.max_message_bytes)
            if message is None:
                self._room -= end - begin
                if self._room < 0:
                    self._hold(_HOLD_BYTES)
                    self._room += _HOLD_BYTES
                self._messages.extend(self._assembled(data, begin, end))
            else:
                self._messages.append(message)
            streams = type(self._head.method) is BidiStreaming
            if not streams and len(self._messages) > 1:
                raise RpcError(Code.INTERNAL, "more than one message: expected one")
        except RpcError as error:
            self._end(error.code, error.message)
            if self.task is not None:
                self.connection.spend_reset()  # the server had begun to answer
            return
        if streams:
            self._wake()
        if len(self._messages) < _MAX_UNREAD_MESSAGES:
            self.connection.grant(self, end - begin)
        else:
            self.owed += end - begin

    def _assembled(self, data: bytes, begin: int, end: int) -> list[Message | Packed]:
        """The messages that data[begin:end] completes. Raises RpcError."""
        if self._reader is None:
            self._reader = Reader(self._head.encoding, self.connection.port.limits.max_message_bytes)
        return self._reader.feed(data, begin, end)

    def end(self) -> None:
        head, method = self._head, self._head.method
        if head.length is not None and head.length != self._received_bytes:
            raise StreamFault(ErrorCode.PROTOCOL_ERROR, "the body is not as long as its content-length says")
        if self._settled:
            return
        if self._reader is not None and self._reader.amid:
            self._end(Code.INTERNAL, "the request ended within a message")
        elif isinstance(method, BidiStreaming):
            self._wake()
        elif not self._messages:
            self._end(Code.INTERNAL, "no message: expected one")
        elif isinstance(method, Prediction):
            self._predict(method, self._messages.popleft())
        elif isinstance(method, Unary):
            self._run(self._answer(method, self._messages.popleft()))
        elif isinstance(method, ServerStreaming):
            self._run(self._stream(method, self._messages.popleft()))

    def abandoned(self) -> None:
        self._settle(Code.CANCELLED)

    def check(self) -> None:
        """End the call if its request has begun to come and makes no progress."""
        amid = self._reader is not None and self._reader.amid
        begun = amid or not isinstance(self._head.method, BidiStreaming)
        if self.ended_there or not begun:
            return
        now = time.monotonic()
        if self._received_bytes - self._seen_bytes >= MIN_BYTES_PER_SECOND or self.credit <= 0:
            self._progress = now  # without credit, the client waits for us
        self._seen_bytes = self._received_bytes
        patience = self.connection.limits.slow_client_seconds
        if now - self._progress > patience:
            self._end(Code.DEADLINE_EXCEEDED, f"nothing of the request came for {patience:g} s")

    # What the server calls

    def stop(self) -> None:
        """End the call now."""
        self._end(Code.UNAVAILABLE, "the server stops")

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    stopping = _wake
    """Read no more messages."""

    # A call's way

    def _may_run(self) -> bool:
        """Check whether the call may run, and end it if not. Its time begins to count."""
        head, connection = self._head, self.connection
        check = connection.port.check
        try:
            if check is not None and head.method is not None:
                check(head.method, self.rpc, head.authorization, connection.host)
            if connection.waiting_bytes > _MAX_UNREAD_BYTES:
                raise _unread()
        except RpcError as error:
            self._end(error.code, error.message)
            return False
        if head.timeout_seconds:
            self._deadline = connection.loop.call_later(head.timeout_seconds, self._expire)
        return True

    def _run(self, work: Coroutine[Any, Any, None]) -> None:
        self.task = self.connection.loop.create_task(work)

    def _predict(self, prediction: Prediction, message: Message | Packed) -> None:
        if isinstance(message, Packed):
            self._run(self._predict_packed(prediction, message))
        else:
            if self._held_bytes:
                self._let_go()
            self.predict(prediction, message)

    async def _predict_packed(self, prediction: Prediction, message: Packed) -> None:
        try:
            given = await self._whole(message)
        except Exception as error:  # noqa: BLE001
            self.failed(error)
        else:
            self.task = None
            self.predict(prediction, given)

    async def _answer(self, method: Unary, message: Message | Packed) -> None:
        given: Message | None = None
        try:
            if isinstance(message, Packed) or self._held_bytes:
                message = await self._whole(message)
            given = message
            self.answered(await method.function(given, self.rpc))
        except Exception as error:  # noqa: BLE001
            if given is None or not self.passed_on(error, given):
                self.failed(error)

    def answered(self, answer: Answer) -> None:
        """Send the only answer. Raises RpcError, and others for what is no answer."""
        connection, rpc = self.connection, self.rpc
        if connection.waiting_bytes > _MAX_UNREAD_BYTES:
            raise _unread()
        head = heads.head(rpc.initial) if rpc.initial else heads.HEAD
        data, last = framed(answer), trailers(Code.OK, "", rpc.trailers)
        self._head_sent = True
        connection.send(self, head, data, last)
        self._settle(Code.OK)

    async def _stream(self, method: ServerStreaming | BidiStreaming, given: Any) -> None:
        """Send each piece after the one before it, so that a slow client's pieces are made only when it takes them.

        `given`: a message, or many.
        """
        try:
            if isinstance(method, ServerStreaming):
                given = self._first = await self._whole(given)
            await self._send_pieces(method.function(given, self.rpc))
        except Exception as error:  # noqa: BLE001
            rest = self._incoming() if isinstance(method, BidiStreaming) else None
            if self._first is None or not self.passed_on(error, self._first, rest):
                self.failed(error)

    async def _send_pieces(self, answers: AsyncGenerator[Answer, None]) -> None:
        count = 0
        async with contextlib.aclosing(answers) as pieces:
            async for piece in pieces:
                self.connection.send(self, self._head_once(), framed(piece))
                await self.drained()
                count += 1
                if count % _PIECES_IN_A_ROW == 0:
                    await asyncio.sleep(0)
        self._end(Code.OK, "", self.rpc.trailers)

    def passed_on(
        self, error: BaseException, message: Message, rest: AsyncGenerator[Message, None] | None = None
    ) -> bool:
        peers, head, missing = self.connection.port.peers, self._head, missing_in(error)
        guarded = head.method is None or head.method.need.guarded  # what changes a server is meant for this one
        if missing is None or peers is None or self._head_sent or guarded or not peers.takes(missing, head.metadata):
            return False
        token = [] if head.authorization is None else [(b"authorization", head.authorization)]
        deadline = self.arrived + head.timeout_seconds if head.timeout_seconds else math.inf
        self._first = None
        call = PassedCall(missing, head.path, [*head.metadata, *token], deadline, self.rpc, message, rest)
        self._run(self._pass(peers.answers(call)))
        return True

    async def _pass(self, answers: AsyncGenerator[Answer, None]) -> None:
        """Give another server's answers to the client."""
        try:
            await self._send_pieces(answers)
        except Exception as error:  # noqa: BLE001
            self.failed(error)

    def failed(self, error: BaseException) -> None:
        """End the call with the status for this error."""
        said = error if isinstance(error, RpcError) else self.connection.port.error_of(error)
        if said is not None:
            lacks = [(LACKS_MODEL.decode(), "1")] if said.missing and is_forwarded(self._head.metadata) else []
            self._end(said.code, said.message, [*said.trailers, *lacks])
        else:  # an error of the server's own: nobody else will log it
            path, call = self._head.path.decode(errors="replace"), self.rpc
            _log.error("%s: request %s for %s failed", path, call.request_id, call.model, exc_info=error)
            self._end(Code.INTERNAL, f"internal error ({type(error).__name__}); the server's log has more")

    async def _incoming(self) -> AsyncGenerator[Message, None]:
        """The client's messages, until it has sent all of them or the server stops."""
        while True:
            while not self._messages:
                if self.ended_there or self.connection.port.stopping.is_set():
                    return
                self._waiter = self.connection.loop.create_future()
                await self._waiter
            message = self._messages.popleft()
            self.connection.grant(self, 0)
            given = await self._whole(message)
            if self._first is None and self.connection.port.peers is not None and not self._head_sent:
                self._first = given
            yield given

    # Memory

    async def _whole(self, message: Message | Packed) -> Message:
        """The message for the method, unpacked. It no longer counts as memory for requests. Raises RpcError."""
        if isinstance(message, Packed):
            message = await unpacked(message, self.connection.port.limits.max_message_bytes, self._hold)
        if self._held_bytes:
            self._let_go()
        return message

    def _let_go(self) -> None:
        """Return the memory for what has left the call."""
        got = 0 if self._reader is None else self._reader.got
        self._hold(got + sum(map(len, self._messages)) - self._held_bytes)
        self._room = 0

    def _hold(self, more: int) -> None:
        """Reserve memory for the request; a negative number returns it. Raises RpcError if there is not enough."""
        if not self.connection.hold(more, self._held_bytes):
            said = "too much is being received or unpacked at the moment; try again, or send less at the same time"
            raise RpcError(Code.RESOURCE_EXHAUSTED, said)
        self._held_bytes += more

    # The end

    def _head_once(self) -> bytes:
        if self._head_sent:
            return b""
        self._head_sent = True
        return heads.head(self.rpc.initial)

    def _expire(self) -> None:
        self._end(Code.DEADLINE_EXCEEDED, f"no answer within the {self._head.timeout_seconds:g} s that the client gave")

    def _end(self, code: Code, message: str = "", metadata: Metadata | None = None) -> None:
        """Send the status, unless the call has ended."""
        if not self._settled:
            head = self._head_once()
            if code is Code.UNIMPLEMENTED and head:
                head += ACCEPTED
            if code is not Code.OK and is_forwarded(self._head.metadata):
                metadata = [*(metadata or ()), (ANSWERED.decode(), "1")]
            self.connection.send(self, head, (), trailers(code, message, metadata or ()))
            self._settle(code)

    def _answer_http(self, status: int) -> None:
        said = "this port speaks gRPC: expected POST, with the content type application/grpc"
        self.connection.send(self, b"", (), http_answer(status, said))
        self._settle(Code.INVALID_ARGUMENT)

    def _settle(self, code: Code) -> None:
        """Count and log the call, once."""
        if self._settled:
            return
        self._settled = True
        if self._messages:
            self._messages.clear()
        if self._held_bytes:
            self._hold(-self._held_bytes)
        if self._deadline is not None:
            self._deadline.cancel()
        if code is not Code.OK:
            self.cancel()
        access, call = self.connection.port.access, self.rpc
        if access is not None:
            seconds = time.monotonic() - self.arrived
            path = self._head.path
            access((time.time(), call.client, b"gRPC", path, _NAMES[code], seconds, call.request_id, call.model))


def _unread() -> RpcError:
    return RpcError(Code.RESOURCE_EXHAUSTED, "the client has not read enough of its earlier answers yet")
