"""One call: its messages in, its answer out, and exactly one status at its end, whatever happens."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections import deque
from collections.abc import AsyncGenerator, Coroutine
from typing import Any

from pdserver.dialects.rpc import BidiStreaming, Code, Message, Metadata, RpcCall, RpcError, ServerStreaming, Unary
from pdserver.grpc import heads
from pdserver.grpc.heads import ACCEPTED, CallHead, http_answer, trailers
from pdserver.grpc.http2.control import MIN_BYTES_PER_SECOND
from pdserver.grpc.http2.frames import ErrorCode, StreamFault
from pdserver.grpc.http2.stream import Stream
from pdserver.grpc.messages import Packed, Reader, framed, unpacked
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


class GrpcCall(Stream):
    """A call. To HTTP/2 it is a stream."""

    __slots__ = (
        "_call", "_deadline", "_head", "_head_sent", "_held_bytes", "_messages", "_progress", "_reader",
        "_received_bytes", "_room", "_seen_bytes", "_settled", "_started", "_waiter", "connection", "task",
    )  # fmt: skip

    def __init__(self, connection: Caller, number: int, head: CallHead) -> None:
        super().__init__(number)
        self.connection = connection
        self._head = head
        self._call = RpcCall(head.metadata, timeout_seconds=head.timeout_seconds, client=connection.client)
        self._reader = Reader(head.encoding, connection.port.limits.max_message_bytes)
        self._messages: deque[Message | Packed] = deque()
        self._started = self._progress = time.monotonic()
        """When the call began, and when the client last made progress in sending it."""
        self._received_bytes = self._seen_bytes = 0
        """Bytes of the request: now, and at the connection's last check."""
        self._held_bytes = 0
        """Bytes that the call has reserved of the memory for requests."""
        self._room = 0
        """How many of them are not used yet."""
        self._deadline: asyncio.TimerHandle | None = None
        self._head_sent = self._settled = False
        self.task: asyncio.Task[None] | None = None
        self._waiter: asyncio.Future[None] | None = None

    # What the connection calls

    def begin(self) -> None:
        head = self._head
        if head.http_status != 200:
            self._answer_http(head.http_status)
            return
        try:
            self._check()
        except RpcError as error:
            self._end(error.code, error.message)
            return
        if head.timeout_seconds:
            self._deadline = self.connection.loop.call_later(head.timeout_seconds, self._expire)
        if isinstance(head.method, BidiStreaming):
            self._run(self._stream(head.method, self._incoming()))

    def receive(self, data: bytes, begin: int, end: int) -> None:
        self._received_bytes += end - begin
        if self._settled:
            return
        try:
            whole = self._reader.whole(data, begin, end)
            if whole is None:
                self._room -= end - begin
                if self._room < 0:
                    self._hold(_HOLD_BYTES)
                    self._room += _HOLD_BYTES
                self._messages.extend(self._reader.feed(data, begin, end))
            else:
                self._messages.append(whole)
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

    def end(self) -> None:
        head, method = self._head, self._head.method
        if head.length is not None and head.length != self._received_bytes:
            raise StreamFault(ErrorCode.PROTOCOL_ERROR, "the body is not as long as its content-length says")
        if self._settled:
            return
        if self._reader.amid:
            self._end(Code.INTERNAL, "the request ended within a message")
        elif isinstance(method, BidiStreaming):
            self._wake()
        elif not self._messages:
            self._end(Code.INTERNAL, "no message: expected one")
        elif isinstance(method, Unary):
            self._run(self._answer(method, self._messages.popleft()))
        elif isinstance(method, ServerStreaming):
            self._run(self._stream(method, self._messages.popleft()))

    def abandoned(self) -> None:
        self._settle(Code.CANCELLED)

    def check(self) -> None:
        """End the call if its request has begun to come and makes no progress."""
        begun = self._reader.amid or not isinstance(self._head.method, BidiStreaming)
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

    def _check(self) -> None:
        """Check whether the call may run. Raises RpcError."""
        head, port = self._head, self.connection.port
        if head.refused is not None:
            raise RpcError(*head.refused)
        if port.check is not None and head.method is not None:
            port.check(head.method, self._call, head.authorization, self.connection.host)
        if self.connection.waiting_bytes > _MAX_UNREAD_BYTES:
            raise _unread()

    def _run(self, work: Coroutine[Any, Any, None]) -> None:
        self.task = self.connection.loop.create_task(work)

    async def _answer(self, method: Unary, message: Message | Packed) -> None:
        try:
            if isinstance(message, Packed) or self._held_bytes:
                message = await self._whole(message)
            answer = await method.function(message, self._call)
            if self.connection.waiting_bytes > _MAX_UNREAD_BYTES:
                raise _unread()
            head = heads.head(self._call.initial)
            self._head_sent = True
            self.connection.send(self, head, framed(answer), trailers(Code.OK, "", self._call.trailers))
        except Exception as error:  # noqa: BLE001
            self._failed(error)
        else:
            self._settle(Code.OK)

    async def _stream(self, method: ServerStreaming | BidiStreaming, given: Any) -> None:
        """Send each piece after the one before it, so that a slow client's pieces are made only when it takes them.

        `given`: a message, or many.
        """
        count = 0
        try:
            if isinstance(method, ServerStreaming):
                given = await self._whole(given)
            async with contextlib.aclosing(method.function(given, self._call)) as pieces:
                async for piece in pieces:
                    self.connection.send(self, self._head_once(), framed(piece))
                    await self.drained()
                    count += 1
                    if count % _PIECES_IN_A_ROW == 0:
                        await asyncio.sleep(0)
        except Exception as error:  # noqa: BLE001
            self._failed(error)
        else:
            self._end(Code.OK, "", self._call.trailers)

    def _failed(self, error: Exception) -> None:
        said = error if isinstance(error, RpcError) else self.connection.port.error_of(error)
        if said is not None:
            self._end(said.code, said.message)
        else:  # an error of the server's own: nobody else will log it
            path, call = self._head.path.decode(errors="replace"), self._call
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
            yield await self._whole(message)

    # Memory

    async def _whole(self, message: Message | Packed) -> Message:
        """The message for the method, unpacked. It no longer counts as memory for requests. Raises RpcError."""
        if isinstance(message, Packed):
            message = await unpacked(message, self.connection.port.limits.max_message_bytes, self._hold)
        if self._held_bytes:
            self._hold(self._reader.got + sum(map(len, self._messages)) - self._held_bytes)
            self._room = 0
        return message

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
        return heads.head(self._call.initial)

    def _expire(self) -> None:
        self._end(Code.DEADLINE_EXCEEDED, f"no answer within the {self._head.timeout_seconds:g} s that the client gave")

    def _end(self, code: Code, message: str = "", metadata: Metadata | None = None) -> None:
        """Send the status, unless the call has ended."""
        if not self._settled:
            head = self._head_once()
            if code is Code.UNIMPLEMENTED and head:
                head += ACCEPTED
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
        self._messages.clear()
        if self._held_bytes:
            self._hold(-self._held_bytes)
        if self._deadline is not None:
            self._deadline.cancel()
        if self.task is not None and self.task is not asyncio.current_task():
            self.task.cancel()
        port = self.connection.port
        if port.access is not None:
            seconds = time.monotonic() - self._started
            call = self._call
            path, client = self._head.path, call.client
            port.access((time.time(), client, b"gRPC", path, code.name, seconds, call.request_id, call.model))


def _unread() -> RpcError:
    return RpcError(Code.RESOURCE_EXHAUSTED, "the client has not read enough of its earlier answers yet")
