"""A gRPC port: its clients' limits, and what all their connections share."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Protocol

import msgspec

from pdserver.dialects.rpc import Method, OtherServers, RpcCall, RpcError
from pdserver.grpc.http2.control import Limits
from pdserver.grpc.http2.stream import Stream
from pdserver.grpc.http2.turns import Turns

Access = Callable[[tuple[float, str, bytes, bytes, int | str, float, str, str]], None]
"""Writes an access log entry: when (seconds since 1970), client, "gRPC", method, code, seconds, request id, model."""

Check = Callable[[Method, RpcCall, bytes | None, str], None]
"""Checks a call: takes the method, the call, its token, and the client's host. It notes the scope of a token that was
needed in the call, and leaves in it only the metadata that the method may see. Raises RpcError if the call is not
allowed."""


class Memory(Protocol):
    """The memory for requests that are being received, on all connections."""

    def take(self, more_bytes: int, own_bytes: int) -> bool: ...

    def give_back(self, own_bytes: int) -> None: ...


class Connections(Protocol):
    """The connections of a port."""

    def add(self, connection: Any) -> None: ...

    def discard(self, connection: Any) -> None: ...

    def __iter__(self) -> Iterator[Any]: ...

    def exceed(self, most: int) -> bool:
        """Whether there are more than so many, in this process and others that serve the port."""


class PortLimits(msgspec.Struct, frozen=True, kw_only=True):
    """A port's limits for its clients. None means no limit."""

    max_message_bytes: int
    max_connections: int
    backlog: int
    """Connections that may wait to be accepted."""
    handshake_seconds: float
    """Time for the TLS handshake."""
    max_held_bytes: int
    """The part of `memory` that one connection may use."""
    slow_client_seconds: float
    idle_seconds: float
    silent_seconds: float
    max_age_ms: int | None = None
    """The greatest age of a connection."""
    max_age_grace_ms: int | None = None
    """Time for the calls that still run at that age."""
    has_room_for: Callable[[asyncio.BaseTransport], bool] = lambda client: True
    """Whether the process has the resources for one more client."""


class GrpcPort(msgspec.Struct, kw_only=True):
    """What all connections of one port share."""

    methods: Mapping[bytes, Method]
    """/package.Service/Method → the method."""
    limits: PortLimits
    memory: Memory
    check: Check | None
    """None if all calls are allowed."""
    error_of: Callable[[BaseException], RpcError | None]
    """Translates a method's exception for the client. None if it is an error of the server's own."""
    http_1_answer: bytes
    """The answer to clients that speak HTTP/1."""
    access: Access | None
    stopping: asyncio.Event
    """Set when no more calls are accepted."""
    left: Callable[[], None]
    """Called when a connection has ended."""
    turns: Turns
    peers: OtherServers | None = None
    """Who answers for what is not served here."""
    connections: Connections


class Caller(Protocol):
    """A client's connection, as its calls and its port see it."""

    port: GrpcPort
    loop: asyncio.AbstractEventLoop
    limits: Limits
    host: str
    client: str
    waiting_bytes: int
    """Bytes of answers that the client has not read yet."""

    def send(self, stream: Stream, head: bytes, data: Sequence[bytes], trailers: bytes = b"") -> None: ...

    def grant(self, stream: Stream, count: int) -> None: ...

    def spend_reset(self) -> None: ...

    def hold(self, more_bytes: int, own_bytes: int) -> bool: ...

    def stop(self) -> None: ...

    def end_now(self) -> list[asyncio.Task[Any]]: ...
