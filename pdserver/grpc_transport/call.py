"""One call: its messages in, its answer out, and the one status that it ends with, whatever happens."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections import deque
from collections.abc import AsyncGenerator, Coroutine
from typing import TYPE_CHECKING, Any

from pdserver.dialects.rpc import BidiStreaming, Call, Code, Message, RpcError, ServerStreaming, Unary, code_of_http
from pdserver.errors import PdError
from pdserver.grpc_transport.heads import ACCEPTED, HEAD, Head, http_answer, trailers
from pdserver.grpc_transport.messages import Reader, framed
from pdserver.http2.stream import Stream
from pdserver.security.access import Need
from pdserver.security.guard import Guard
from pdserver.security.refused import Refused
from pdserver.types import Failure

if TYPE_CHECKING:
    from pdserver.grpc_transport.connection import GrpcConnection

_log = logging.getLogger("pdserver.grpc")
_MAX_UNREAD_MESSAGES = 16
"""Of a stream: a client that sends more than its method reads has to wait."""
_MAX_UNSENT_BYTES = 64 * 1024 * 1024
"""Of answers on one connection: a client that leaves more of them unread is not served."""


class GrpcCall(Stream):
    """What HTTP/2 knows as a stream."""

    __slots__ = (
        "_call", "_deadline", "_head", "_messages", "_progress", "_reader", "_settled", "_started", "_waiter", "task",
    )  # fmt: skip

    connection: GrpcConnection

    def __init__(self, connection: GrpcConnection, number: int, head: Head) -> None:
        super().__init__(connection, number)
        self._head = head
        self._call = Call(head.metadata, timeout_seconds=head.timeout_seconds)
        self._reader = Reader(head.encoding, connection.port.limits.max_message_bytes)
        self._messages: deque[Message] = deque()
        self._started = time.monotonic()
        self._progress = self._started
        """When something of the request came last."""
        self._deadline: asyncio.TimerHandle | None = None
        self._settled = False
        self.task: asyncio.Task[None] | None = None
        self._waiter: asyncio.Future[None] | None = None

    # What the connection tells

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
        self._progress = time.monotonic()
        try:
            whole = self._reader.whole(data, begin, end)
            self._messages.extend(self._reader.feed(data, begin, end) if whole is None else (whole,))
        except RpcError as error:
            self._end(error.code, error.message)
            return
        if type(self._head.method) is BidiStreaming:
            self._wake()
        elif len(self._messages) > 1:
            self._end(Code.INTERNAL, "more than one message: expected one")
        if len(self._messages) < _MAX_UNREAD_MESSAGES:
            self.connection.grant(self, end - begin)
        else:
            self.owed += end - begin

    def end(self) -> None:
        if self._reader.amid:
            self._end(Code.INTERNAL, "the request ended within a message")
            return
        method = self._head.method
        if isinstance(method, BidiStreaming):
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
        """A request that has begun to come must go on."""
        begun = self._reader.amid or not isinstance(self._head.method, BidiStreaming)
        patience = self.connection.port.limits.slow_client_seconds
        if begun and not self.ended_there and time.monotonic() - self._progress > patience:
            self._end(Code.DEADLINE_EXCEEDED, f"nothing of the request came for {patience:g} s")

    # What the server tells

    def stop(self) -> None:
        """No more time is left."""
        self._end(Code.UNAVAILABLE, "the server stops")

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    stopping = _wake
    """No more messages are read."""

    # The way through

    def _check(self) -> None:
        """Raises RpcError."""
        head = self._head
        port = self.connection.port
        if head.refused is not None:
            raise RpcError(*head.refused)
        if port.guard is not None:
            need = port.guard.undeclared if head.method is None else head.method.need
            if need.guarded or port.guard.keyring is not None:
                self._ask(port.guard, need)
        if head.method is None:
            raise RpcError(Code.UNIMPLEMENTED, f"no method {head.path.decode(errors='replace')} here")
        if self.connection.unsent_bytes > _MAX_UNSENT_BYTES:
            raise RpcError(Code.RESOURCE_EXHAUSTED, "too much of earlier answers is not read yet")

    def _ask(self, guard: Guard, need: Need) -> None:
        """Which page it is, and for its token. Raises RpcError."""
        try:
            guard.check_page(need, self._head.metadata)
            guard.check_token(need, self._head.authorization, self.connection.host)
        except Refused as refused:
            raise RpcError(code_of_http(refused.status), refused.message) from None

    def _run(self, work: Coroutine[Any, Any, None]) -> None:
        self.task = self.connection.loop.create_task(work)

    async def _answer(self, method: Unary, message: Message) -> None:
        try:
            answer = await method.function(message, self._call)
        except Exception as error:  # noqa: BLE001
            self._failed(error)
        else:
            self.connection.send(self, HEAD, framed(answer), trailers(Code.OK, "", self._call.trailers))
            self._settle(Code.OK)

    async def _stream(self, method: ServerStreaming | BidiStreaming, given: Any) -> None:
        """Each piece when the last is on its way, so that what a slow client has not taken isn't made yet.

        `given`: a message, or many.
        """
        try:
            async with contextlib.aclosing(method.function(given, self._call)) as pieces:
                async for piece in pieces:
                    self.connection.send(self, self._head_once(), framed(piece))
                    await self.drained()
        except Exception as error:  # noqa: BLE001
            self._failed(error)
        else:
            self._end(Code.OK, "", self._call.trailers)

    def _failed(self, error: Exception) -> None:
        if isinstance(error, PdError):
            error = RpcError.of(Failure.of(error))
        if isinstance(error, RpcError):
            self._end(error.code, error.message)
        else:  # the last chance to say something of a fault of ours
            _log.error("%s failed", self._head.path.decode(errors="replace"), exc_info=error)
            self._end(Code.INTERNAL, Failure.internal(error).message)

    async def _incoming(self) -> AsyncGenerator[Message, None]:
        """What the client sends, until it has sent all, or the server is to stop."""
        while True:
            while not self._messages:
                if self.ended_there or self.connection.port.stopping.is_set():
                    return
                self._waiter = self.connection.loop.create_future()
                await self._waiter
            message = self._messages.popleft()
            self.connection.grant(self, 0)
            yield message

    # The end

    def _head_once(self) -> bytes:
        if self.head_sent:
            return b""
        self.head_sent = True
        return HEAD

    def _expire(self) -> None:
        self._end(Code.DEADLINE_EXCEEDED, f"no answer within the {self._head.timeout_seconds:g} s that the client gave")

    def _end(self, code: Code, message: str = "", metadata: list[tuple[str, str]] | None = None) -> None:
        """Tell the client, unless it knows."""
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
        """What is done once for each call."""
        if self._settled:
            return
        self._settled = True
        if self._deadline is not None:
            self._deadline.cancel()
        if self.task is not None and self.task is not asyncio.current_task():
            self.task.cancel()
        port = self.connection.port
        if port.access is not None:
            seconds = time.monotonic() - self._started
            port.access(self.connection.client, b"gRPC", self._head.path, code.name, seconds)
