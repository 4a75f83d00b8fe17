"""The adapter between grpcio and the services of `dialects.rpc`.

grpcio runs in a thread with an asyncio event loop of its own: under uvloop it is half as fast, and HTTP would wait for
it. A method runs in the engine's loop; only bytes cross between the two.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import threading
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine, Iterable, Sequence
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import unquote

# Before it is imported: grpcio would begin its threads anew in each child between fork and exec, and now and then hang
# there, and whoever waits for the child with it. Our children exec.
os.environ["GRPC_ENABLE_FORK_SUPPORT"] = "false"

import grpc
import grpc.aio
import msgspec

from pdserver.crossing import PostedLoop, across
from pdserver.dialects.rpc import (
    BidiStreaming,
    Call,
    Code,
    Method,
    RpcError,
    ServerStreaming,
    Service,
    Unary,
    code_of_http,
)
from pdserver.errors import ConfigError, PdError
from pdserver.security.guard import Guard
from pdserver.security.refused import Refused
from pdserver.security.tls import Certificate, Pems
from pdserver.types import Failure

_log = logging.getLogger("pdserver.grpc")
_STATUS = {status.value[0]: status for status in grpc.StatusCode}

_SOON_SECONDS = 1e-6
"""For a deadline that has just passed."""
_MAX_CALLS_OF_A_CONNECTION = 1024
_MAX_METADATA_BYTES = 16 * 1024
T = TypeVar("T")
Access = Callable[[str, bytes, bytes, str, float], None]
"""Takes an access log entry: client, "gRPC", method, code, seconds."""
if TYPE_CHECKING:
    _Context = grpc.aio.ServicerContext[bytes, bytes]


class Limits(msgspec.Struct, frozen=True):
    """What a port grants its clients; None: no limit."""

    max_message_bytes: int
    max_connection_age_ms: int | None = None
    max_connection_age_grace_ms: int | None = None

    def options(self) -> list[tuple[str, int]]:
        """As grpcio's channel arguments."""
        given = {
            "grpc.so_reuseport": 0,
            "grpc.max_receive_message_length": self.max_message_bytes,
            "grpc.max_concurrent_streams": _MAX_CALLS_OF_A_CONNECTION,
            "grpc.max_metadata_size": _MAX_METADATA_BYTES,
            "grpc.max_connection_age_ms": self.max_connection_age_ms,
            "grpc.max_connection_age_grace_ms": self.max_connection_age_grace_ms,
        }
        return [(name, value) for name, value in given.items() if value is not None]


class GrpcServer:
    """Ports with services. Made, and used, in the engine's loop."""

    def __init__(self, access: Access | None) -> None:
        self.stopping = asyncio.Event()
        """Set when no more calls are taken in."""
        self._access = access
        self._home = asyncio.get_running_loop()
        self._away = PostedLoop()
        self._ports: list[grpc.aio.Server] = []
        self._ending: asyncio.Task[None] | None = None
        self._thread = threading.Thread(target=self._run, name="grpc", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        asyncio.set_event_loop(self._away)
        self._away.run_forever()
        self._away.close()

    async def serve(
        self,
        places: Sequence[str],
        services: Iterable[Service],
        limits: Limits,
        guard: Guard | None = None,
        certificate: Certificate | None = None,
    ) -> int:
        """Open a port at each of these host:port and answer calls there; gives the last one's number.

        With a certificate, TLS is spoken. Raises ConfigError when a port can't be opened.
        """
        handlers = [
            grpc.method_handlers_generic_handler(
                service.name,
                {
                    name: self._handler(f"/{service.name}/{name}", method, guard)
                    for name, method in service.methods.items()
                },
            )
            for service in services
        ]

        async def start() -> int:
            server = grpc.aio.server(options=limits.options())
            server.add_generic_rpc_handlers(handlers)
            opened = 0
            for place in places:
                if certificate is None:
                    opened = server.add_insecure_port(place)
                else:
                    opened = server.add_secure_port(place, _credentials(certificate))
            await server.start()
            self._ports.append(server)
            return opened

        try:
            return await across(self._away, start())
        except RuntimeError as error:
            raise ConfigError(f"gRPC port {', '.join(places)} can't be opened: {error}") from None

    async def stop(self, grace_seconds: float) -> None:
        """Take no more calls, give those that there are the time, and end. Idempotent."""
        if self._thread.is_alive():
            self.stopping.set()
            self._ending = asyncio.ensure_future(self._stop(grace_seconds))
            await asyncio.wait([self._ending])  # not `await self._ending`: `hurry` cancels it
            await self._stop(None)
            self._away.call_soon_threadsafe(self._away.stop)
            await asyncio.to_thread(self._thread.join)

    def hurry(self) -> None:
        """End what `stop` still waits for."""
        if self._ending is not None:
            self._ending.cancel()

    async def _stop(self, grace_seconds: float | None) -> None:
        await asyncio.gather(*(across(self._away, port.stop(grace_seconds)) for port in self._ports))

    # In grpcio's loop

    def _handler(self, path: str, method: Method, guard: Guard | None) -> grpc.RpcMethodHandler[bytes, bytes]:
        async def unary(request: bytes, context: _Context) -> bytes:
            call = _call(context)
            assert isinstance(method, Unary)  # noqa: S101
            return await self._cross(path, guard, call, context, method.function(request, call))

        async def streaming(request: Any, context: _Context) -> None:
            call = _call(context)
            if isinstance(method, BidiStreaming):
                pieces = method.function(self._messages(context.read), call)
            else:
                assert isinstance(method, ServerStreaming)  # noqa: S101
                pieces = method.function(request, call)
            await self._cross(path, guard, call, context, self._send(pieces, context.write))

        if isinstance(method, Unary):
            return grpc.unary_unary_rpc_method_handler(unary)
        if isinstance(method, ServerStreaming):
            return grpc.unary_stream_rpc_method_handler(streaming)
        return grpc.stream_stream_rpc_method_handler(streaming)

    async def _cross(
        self, path: str, guard: Guard | None, call: Call, context: _Context, answering: Coroutine[Any, Any, T]
    ) -> T:
        """The answer, got in the engine's loop. Ends the call when there is none."""
        try:
            answer = await across(self._home, self._observed(path, guard, call, context.peer(), answering))
        except RpcError as error:
            await context.abort(_STATUS[error.code], error.message)
            raise  # for the type checker: `abort` has raised
        context.set_trailing_metadata(tuple(call.trailers))
        return answer

    # In the engine's loop

    async def _observed(
        self, path: str, guard: Guard | None, call: Call, peer: str, answering: Coroutine[Any, Any, T]
    ) -> T:
        """The answer, with a line in the access log. Raises nothing but RpcError."""
        started = time.monotonic()
        code = Code.CANCELLED
        client = unquote(peer.partition(":")[2])
        try:
            if guard is not None and guard.keyring is not None:
                _check_token(guard, path, call, client)
            answer = await answering
            code = Code.OK
            return answer
        except RpcError as error:
            code = error.code
            raise
        except PdError as error:
            failed = RpcError.of(Failure.of(error))
            code = failed.code
            raise failed from None
        except Exception:  # noqa: BLE001  (the last chance to say something of a fault of ours)
            _log.exception("%s failed", path)
            code = Code.INTERNAL
            raise RpcError(code, "internal error; the server's log has more") from None
        finally:
            answering.close()  # it has not begun when the call is refused
            if self._access is not None:
                self._access(client, b"gRPC", path.encode(), code.name, time.monotonic() - started)

    async def _send(self, pieces: AsyncGenerator[bytes, None], write: Callable[[bytes], Awaitable[None]]) -> None:
        """Each piece when the last is on its way, so that what a slow client has not taken isn't made yet."""
        async with contextlib.aclosing(pieces):
            async for piece in pieces:
                await across(self._away, _unless_gone(write(piece)))

    async def _messages(self, read: Callable[[], Awaitable[Any]]) -> AsyncGenerator[bytes, None]:
        """What the client sends, until it has sent all, or the server is to stop."""
        stopping = asyncio.ensure_future(self.stopping.wait())
        try:
            while True:
                reading = asyncio.ensure_future(across(self._away, _unless_gone(read())))
                try:
                    await asyncio.wait([reading, stopping], return_when=asyncio.FIRST_COMPLETED)
                    if not reading.done() or reading.result() is grpc.aio.EOF:
                        return
                finally:
                    reading.cancel()
                yield reading.result()
        finally:
            stopping.cancel()


def _call(context: _Context) -> Call:
    metadata = context.invocation_metadata() or ()
    left_seconds = context.time_remaining()
    return Call(
        [(name.encode(), value if isinstance(value, bytes) else value.encode()) for name, value in metadata],
        timeout_seconds=0.0 if left_seconds is None else max(left_seconds, _SOON_SECONDS),
    )


def _check_token(guard: Guard, path: str, call: Call, client: str) -> None:
    """Raises RpcError. The token is taken out: it is no model's business."""
    given = [value for name, value in call.metadata if name == b"authorization"]
    call.metadata = [pair for pair in call.metadata if pair[0] != b"authorization"]
    try:
        guard.check_token(path.encode(), given[0] if len(given) == 1 else None, client.rpartition(":")[0])
    except Refused as refused:
        raise RpcError(code_of_http(refused.status), refused.message) from None


def _credentials(certificate: Certificate) -> grpc.ServerCredentials:
    """Of the certificate as it is when a client connects."""

    def configuration(pems: Pems) -> Any:
        return grpc.ssl_server_certificate_configuration([(pems.key, pems.chain)], root_certificates=pems.client_ca)

    used = certificate.pems

    def renewed() -> Any:
        nonlocal used
        if used is certificate.pems:
            return None
        used = certificate.pems
        return configuration(used)

    return grpc.dynamic_ssl_server_credentials(
        configuration(used), renewed, require_client_authentication=used.client_ca is not None
    )


async def _unless_gone(answering: Awaitable[T]) -> T:
    """Cancelled when the client is gone; the news that the call is cancelled comes by another way, and later."""
    try:
        return await answering
    except grpc.aio.BaseError:
        raise asyncio.CancelledError from None
