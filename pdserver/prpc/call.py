"""One call: a frame in, exactly one frame out, whatever happens."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import re
import time
from collections.abc import AsyncGenerator
from typing import Any

from pdserver.dialects.compression import compressed
from pdserver.dialects.rpc import (
    Answer,
    Code,
    Message,
    PassedCall,
    Prediction,
    PredictionCall,
    RpcCall,
    RpcError,
    Unary,
    missing_in,
)
from pdserver.grpc.messages import Packed, unpacked
from pdserver.prpc import frames
from pdserver.prpc.errors import Errno, errno_of
from pdserver.prpc.port import Caller, full_name

_log = logging.getLogger("pdserver.prpc")
_NONE = 0
_ENCODINGS = {2: "gzip", 3: "deflate"}
"""compress_type → the name that HTTP has for it. "deflate" is zlib's format."""
_NOT_HERE = {1: " (snappy)", 4: " (lz4)"}
_WORTH_BYTES = 512
"""brpc's servers compress no smaller answer, either."""
_LARGE_BYTES = 64 * 1024
"""A larger answer is compressed in a thread: zlib releases the interpreter's lock."""
_MAX_UNREAD_BYTES = 64 * 1024 * 1024
"""Limit for the answers on one connection. A client that leaves more of them unread is not served."""
_NAME = re.compile(r"[0-9a-z_.-]{1,128}")
"""What may be a header's name."""
_HOW = (
    "over PRPC, a token goes into RpcMeta.authentication_data, or into user_fields as authorization; clients that can't"
    " send one, such as paddle_serving_client's Client, have to use HTTP or gRPC, or an address that needs no token"
)


_Method = Unary | Prediction


class PrpcCall(PredictionCall):
    """A call of one connection."""

    _held_bytes = 0
    """Bytes that the call has reserved of the memory for requests."""
    _deadline: asyncio.TimerHandle | None = None
    _settled = False

    def __init__(self, connection: Caller, meta: Any) -> None:
        """`meta`: the RpcMeta."""
        asked = meta.request
        timeout_seconds = max(0, asked.timeout_ms) / 1e3
        super().__init__(RpcCall(_metadata(meta), timeout_seconds=timeout_seconds, client=connection.client))
        self._connection = connection
        self._meta = meta
        names = asked.service_name, asked.method_name
        known = connection.port.known.get(names)
        self._method: _Method | None
        self._method, self._path = known or (None, f"/{names[0]}/{names[1]}".encode())

    # What the connection calls

    def begin(self, body: Message) -> None:
        """`body`: what follows the RpcMeta."""
        connection, seconds = self._connection, self.rpc.timeout_seconds
        check = connection.port.check
        try:
            method = self._method or self._found()
            if check is not None:
                check(method, self.rpc, connection.authorization, connection.host)
            message = self._message(body)
        except RpcError as error:
            self._refuse(error)
            return
        if seconds:
            self._deadline = connection.loop.call_later(seconds, self._expire)
        if isinstance(method, Prediction) and not isinstance(message, Packed):
            self.predict(method, message)
        else:
            self.task = connection.loop.create_task(self._run(method, message))

    def turn_away(self) -> None:
        """Don't begin: the server stops."""
        self._end_badly(Errno.ELOGOFF, "the server stops")

    def abandon(self) -> None:
        """The client has left."""
        self._settle(None)

    # The request

    def _found(self) -> _Method:
        """The method that is called for the first time. Raises RpcError."""
        meta, port = self._meta, self._connection.port
        if not meta.HasField("request"):
            said = "the frame has no RpcMeta.request: expected one, with a service_name and a method_name"
            raise RpcError(Code.INVALID_ARGUMENT, said)
        asked = meta.request
        methods = port.services.get(asked.service_name)
        if methods is None:
            raise RpcError(Code.NOT_FOUND, f"there is no service {asked.service_name[:100]!r}")
        method = methods.get(asked.method_name)
        if method is None:
            raise RpcError(Code.UNIMPLEMENTED, f"{asked.service_name} has no method {asked.method_name[:100]!r}")
        if not isinstance(method, _Method):
            raise RpcError(Code.UNIMPLEMENTED, f"{asked.method_name} is a stream, which only gRPC has here")
        port.known[asked.service_name, asked.method_name] = method, self._path
        return method

    def _message(self, body: Message) -> Message | Packed:
        """The frame's message, without the attachment. Raises RpcError."""
        meta = self._meta
        message, kind = body, meta.compress_type
        if meta.attachment_size:
            end = len(body) - meta.attachment_size
            if not 0 <= end <= len(body):
                said = f"attachment_size={meta.attachment_size}: {len(body):,} bytes follow the RpcMeta"
                raise RpcError(Code.INVALID_ARGUMENT, said)
            message = body[:end]
        if kind == _NONE:
            return message
        if kind not in _ENCODINGS:
            said = f"compress_type={kind}{_NOT_HERE.get(kind, '')}: send 0 (not compressed), 2 (gzip) or 3 (zlib)"
            raise RpcError(Code.INVALID_ARGUMENT, said)
        return Packed(message, _ENCODINGS[kind].encode())

    async def _unpacked(self, message: Packed) -> Message:
        """Raises RpcError."""
        try:
            return await unpacked(message, self._connection.port.limits.max_message_bytes, self._hold)
        except RpcError as error:
            if error.code is not Code.INTERNAL:
                raise
            said = f"compress_type={self._meta.compress_type}: {error.message}"
            raise RpcError(Code.INVALID_ARGUMENT, said) from None
        finally:
            if self._held_bytes:
                self._hold(-self._held_bytes)

    def _hold(self, more: int) -> None:
        """Reserve memory for what is unpacked; a negative number returns it. Raises RpcError if there is not enough."""
        if not self._connection.hold(more, self._held_bytes):
            said = "too much is being received or unpacked at the moment; try again, or send less at the same time"
            raise RpcError(Code.RESOURCE_EXHAUSTED, said)
        self._held_bytes += more

    def passed_on(self, error: BaseException, message: Message) -> bool:
        port, missing, metadata = self._connection.port, missing_in(error), self.rpc.metadata
        if missing is None or port.peers is None or not port.peers.takes(missing, metadata):
            return False
        asked, authorization = self._meta.request, self._connection.authorization
        token = [] if authorization is None else [(b"authorization", authorization)]
        path = f"/{full_name(port.services, asked.service_name)}/{asked.method_name}".encode()
        deadline = self.arrived + self.rpc.timeout_seconds if self.rpc.timeout_seconds else math.inf
        passed = PassedCall(missing, path, [*metadata, *token], deadline, self.rpc, message)
        self.task = self._connection.loop.create_task(self._pass(port.peers.answers(passed)))
        return True

    async def _pass(self, answers: AsyncGenerator[Answer, None]) -> None:
        """Give another server's answer to the client."""
        try:
            async with contextlib.aclosing(answers):
                given = [answer async for answer in answers]
            self.task = None
            self.answered(given[0])
        except Exception as error:  # noqa: BLE001
            self.failed(error)

    # The answer

    async def _run(self, method: _Method, message: Message | Packed) -> None:
        try:
            if isinstance(message, Packed):
                message = await self._unpacked(message)
            if isinstance(method, Prediction):
                self.task = None
                self.predict(method, message)
            else:
                self.answered(await method.function(message, self.rpc))
        except Exception as error:  # noqa: BLE001
            self.failed(error)

    def answered(self, answer: Answer) -> None:
        """Send the answer, compressed as the request was. Raises RpcError, and others for what is no answer."""
        kind = self._meta.compress_type
        if kind == _NONE:
            self._send(answer, _NONE)
            return
        encoding = _ENCODINGS[kind]
        pieces = [answer] if isinstance(answer, bytes) else answer
        size = sum(map(len, pieces))
        if size > _LARGE_BYTES:
            self.task = self._connection.loop.create_task(self._send_packed(pieces, encoding))
        elif size < _WORTH_BYTES:
            self._send(answer, _NONE)
        else:
            self._send(compressed(pieces, encoding), kind)

    async def _send_packed(self, pieces: list[bytes], encoding: str) -> None:
        try:
            packed = await asyncio.to_thread(compressed, pieces, encoding)
            self._send(packed, self._meta.compress_type)
        except Exception as error:  # noqa: BLE001
            self.failed(error)

    def _send(self, answer: Answer, compress_type: int) -> None:
        if self._connection.unread_bytes() > _MAX_UNREAD_BYTES:
            said = "the client has not read enough of its earlier answers yet"
            raise RpcError(Code.RESOURCE_EXHAUSTED, said)
        self._settle(Errno.OK, frames.answer(self._meta.correlation_id, answer, compress_type))

    def failed(self, error: BaseException) -> None:
        """Answer with this error."""
        said = error if isinstance(error, RpcError) else self._connection.port.error_of(error)
        if said is not None:
            self._refuse(said)
        else:  # an error of the server's own: nobody else will log it
            path, call = self._path.decode(errors="replace"), self.rpc
            _log.error("%s: request %s for %s failed", path, call.request_id, call.model, exc_info=error)
            text = f"internal error ({type(error).__name__}); the server's log has more"
            self._end_badly(Errno.EINTERNAL, text)

    def _expire(self) -> None:
        said = f"no answer within the {self.rpc.timeout_seconds:g} s that the client gave (timeout_ms)"
        self._end_badly(Errno.ERPCTIMEDOUT, said)

    def _refuse(self, error: RpcError) -> None:
        message = f"{error.message}: {_HOW}" if error.code is Code.UNAUTHENTICATED else error.message
        self._end_badly(errno_of(error.code), message)

    def _end_badly(self, errno: Errno, text: str) -> None:
        self._settle(errno, [frames.refusal(self._meta.correlation_id, errno, text)])

    def _settle(self, errno: Errno | None, pieces: list[bytes] | None = None) -> None:
        """Send the answer, and log the call, once. None: the client has left."""
        if self._settled:
            return
        self._settled = True
        connection, call = self._connection, self.rpc
        if pieces:
            connection.send(pieces)
        if self._deadline is not None:
            self._deadline.cancel()
        status = "OK"
        if errno is not Errno.OK:
            self.cancel()
            status = "ECANCELED" if errno is None else errno.name
        if connection.port.access is not None:
            seconds = time.monotonic() - self.arrived
            entry = (time.time(), call.client, b"PRPC", self._path, status, seconds, call.request_id, call.model)
            connection.port.access(entry)
        connection.ended(self)


def _metadata(meta: Any) -> list[tuple[bytes, bytes]]:
    """What the client says besides the message, as HTTP's headers. The token is not among it, so that no model sees
    it."""
    found = []
    if meta.request.log_id:
        found.append((b"log-id", b"%d" % meta.request.log_id))
    if meta.request.request_id:
        found.append((b"x-request-id", meta.request.request_id.encode()))
    for name, value in meta.user_fields.items():
        lower = name.lower()
        if lower != "authorization" and _NAME.fullmatch(lower):
            found.append((lower.encode(), value.encode()))
    return found
