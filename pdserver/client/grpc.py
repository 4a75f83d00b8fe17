"""The clients over gRPC: `GrpcClient` blocks, `AsyncGrpcClient` is for an event loop.

Addresses are "HOST:PORT", or "grpcs://HOST:PORT" for TLS.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

try:
    import grpc
    import grpc.aio
except ModuleNotFoundError as error:
    raise ImportError(f"pdserver.client needs {error.name}: pip install 'pdserver[client]'", name=error.name) from None

from pdserver.client import grpc_calls
from pdserver.client.calls import Answer, Calls, Port
from pdserver.client.errors import of_code
from pdserver.client.faces import Attempt, Awaited, Blocking
from pdserver.client.verbs import Verbs

_TLS = "grpcs://"
_OPTIONS = [("grpc.max_send_message_length", -1), ("grpc.max_receive_message_length", -1)]


class _Grpc(Verbs):
    _calls: Calls = grpc_calls
    _example = "HOST:7071"
    _library: ModuleType

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
        """`management` is the management port's address, which only managing models needs.

        `token` goes to both ports, unless `management_token` goes to the management port.
        `verify` is a file with the certificates of the authorities to trust; empty: those that grpc trusts.
        `cert` holds the files of the client's own certificate and its key.
        `timeout_seconds` is how long an answer may take, unless a call sets its own. The server is told, and begins
        nothing that is too late.
        """
        super().__init__(Port(address, token), Port(management, management_token or token), timeout_seconds)
        credentials = _credentials(verify, cert) if _TLS in address + management else None
        self._channels = {place: self._open(place, credentials) for place in (address, management) if place}

    def _open(self, address: str, credentials: grpc.ChannelCredentials | None) -> Any:
        if address.startswith(_TLS):
            return self._library.secure_channel(address.removeprefix(_TLS), credentials, _OPTIONS)
        return self._library.insecure_channel(address, _OPTIONS)

    def _start(self, attempt: Attempt) -> Any:
        """The answer's bytes, or an awaitable of them."""
        port, call = attempt.port, attempt.call
        method = self._channels[port.address].unary_unary(call.path)
        metadata = (*port.headers().items(), *call.headers.items())
        return method(call.body, timeout=attempt.timeout_seconds, metadata=metadata)


class GrpcClient(_Grpc, Blocking):
    """Keeps its connections. Several threads may use it at once."""

    _library = grpc

    def close(self) -> None:
        for channel in self._channels.values():
            channel.close()

    def _send(self, attempt: Attempt) -> Answer:
        with _failures():
            return Answer(200, {}, self._start(attempt))


class AsyncGrpcClient(_Grpc, Awaited):
    """Keeps its connections. Any number of calls may run at once. Make it where the event loop runs."""

    _library = grpc.aio

    async def close(self) -> None:
        for channel in self._channels.values():
            await channel.close()

    async def _send(self, attempt: Attempt) -> Answer:
        with _failures():
            return Answer(200, {}, await self._start(attempt))


@contextmanager
def _failures() -> Iterator[None]:
    """Raises the client's own errors for those of grpc."""
    try:
        yield
    except grpc.RpcError as error:
        call: Any = error  # channels raise errors that are grpc.Calls, too
        raise of_code(call.code().name, call.details() or "") from None


def _credentials(verify: str, cert: tuple[str, str] | None) -> grpc.ChannelCredentials:
    certificate, key = (Path(path).read_bytes() for path in cert) if cert else (None, None)
    return grpc.ssl_channel_credentials(Path(verify).read_bytes() if verify else None, key, certificate)
