"""The clients over gRPC: `GrpcClient` blocks, `AsyncGrpcClient` is for an event loop.

Where those over REST are given URLs, these are given addresses: "HOST:PORT", or "grpcs://HOST:PORT" for TLS.
"""

from __future__ import annotations

from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar

try:
    import grpc
    import grpc.aio
except ModuleNotFoundError as error:
    raise ImportError(f"pdserver.client needs {error.name}: pip install 'pdserver[client]'", name=error.name) from None

from pdserver.client import grpc_calls
from pdserver.client.calls import Answer, Call, Calls
from pdserver.client.errors import ClientError, of_code
from pdserver.client.verbs import AsyncVerbs, Verbs

T = TypeVar("T")
_Metadata = tuple[tuple[str, str], ...]
_TLS = "grpcs://"
_OPTIONS = [("grpc.max_send_message_length", -1), ("grpc.max_receive_message_length", -1)]


class GrpcClient(Verbs):
    """Keeps its connections; for several threads at once, too."""

    _calls: Calls = grpc_calls

    def __init__(
        self,
        address: str,
        *,
        management: str = "",
        token: str = "",
        management_token: str = "",
        verify: str = "",
        cert: tuple[str, str] | None = None,
        timeout_seconds: float = 60.0,
    ) -> None:
        """`verify`: a file with the certificates of who may vouch for the server; empty: those of the system.

        `timeout_seconds`: when the answer must be there; the server is told, and does not begin what is too late.
        """
        credentials = _credentials(verify, cert) if _TLS in address + management else None
        self._inference = _open(address, credentials)
        self._manager = _open(management, credentials) if management else None
        self._metadata = _authorization(token)
        self._manager_metadata = _authorization(management_token or token)
        self._timeout_seconds = timeout_seconds

    def __enter__(self) -> GrpcClient:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Idempotent."""
        self._inference.close()
        if self._manager is not None:
            self._manager.close()

    def _ask(self, call: Call[T], timeout_seconds: float | None = None) -> T:
        return self._exchange(self._inference, self._metadata, call, timeout_seconds)

    def _manage(self, call: Call[T]) -> T:
        return self._exchange(_given(self._manager), self._manager_metadata, call, None)

    def _exchange(self, channel: grpc.Channel, metadata: _Metadata, call: Call[T], timeout_seconds: float | None) -> T:
        method: grpc.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary(call.path)
        try:
            body = method(
                call.body,
                timeout=self._timeout_seconds if timeout_seconds is None else timeout_seconds,
                metadata=(*metadata, *call.headers.items()),
            )
        except grpc.RpcError as error:
            raise _failed(error) from None
        return call.parse(Answer(200, {}, body))


class AsyncGrpcClient(AsyncVerbs):
    """Keeps its connections; for any number of calls at once. To be made where the event loop runs."""

    _calls: Calls = grpc_calls

    def __init__(
        self,
        address: str,
        *,
        management: str = "",
        token: str = "",
        management_token: str = "",
        verify: str = "",
        cert: tuple[str, str] | None = None,
        timeout_seconds: float = 60.0,
    ) -> None:
        """As `GrpcClient`."""
        credentials = _credentials(verify, cert) if _TLS in address + management else None
        self._inference = _open_async(address, credentials)
        self._manager = _open_async(management, credentials) if management else None
        self._metadata = _authorization(token)
        self._manager_metadata = _authorization(management_token or token)
        self._timeout_seconds = timeout_seconds

    async def __aenter__(self) -> AsyncGrpcClient:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Idempotent."""
        await self._inference.close()
        if self._manager is not None:
            await self._manager.close()

    async def _ask(self, call: Call[T], timeout_seconds: float | None = None) -> T:
        return await self._exchange(self._inference, self._metadata, call, timeout_seconds)

    async def _manage(self, call: Call[T]) -> T:
        return await self._exchange(_given(self._manager), self._manager_metadata, call, None)

    async def _exchange(
        self, channel: grpc.aio.Channel, metadata: _Metadata, call: Call[T], timeout_seconds: float | None
    ) -> T:
        method: grpc.aio.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary(call.path)
        try:
            body = await method(
                call.body,
                timeout=self._timeout_seconds if timeout_seconds is None else timeout_seconds,
                metadata=(*metadata, *call.headers.items()),
            )
        except grpc.aio.AioRpcError as error:
            raise _failed(error) from None
        return call.parse(Answer(200, {}, body))


def _failed(error: Any) -> ClientError:
    """`error` is a grpc.RpcError with the methods of a grpc.Call, as channels raise it."""
    return of_code(error.code().name, error.details() or "")


def _given(channel: T | None) -> T:
    """Raises ValueError."""
    if channel is None:
        raise ValueError('to manage models, say where: management="HOST:7071"')
    return channel


def _open(address: str, credentials: grpc.ChannelCredentials | None) -> grpc.Channel:
    if address.startswith(_TLS) and credentials is not None:
        return grpc.secure_channel(address.removeprefix(_TLS), credentials, _OPTIONS)
    return grpc.insecure_channel(address, _OPTIONS)


def _open_async(address: str, credentials: grpc.ChannelCredentials | None) -> grpc.aio.Channel:
    if address.startswith(_TLS) and credentials is not None:
        return grpc.aio.secure_channel(address.removeprefix(_TLS), credentials, _OPTIONS)
    return grpc.aio.insecure_channel(address, _OPTIONS)


def _credentials(verify: str, cert: tuple[str, str] | None) -> grpc.ChannelCredentials:
    certificate, key = (Path(path).read_bytes() for path in cert) if cert else (None, None)
    return grpc.ssl_channel_credentials(Path(verify).read_bytes() if verify else None, key, certificate)


def _authorization(token: str) -> _Metadata:
    return (("authorization", f"Bearer {token}"),) if token else ()
