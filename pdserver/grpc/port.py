"""A port on which gRPC is spoken: what it grants its clients, and what all their connections share."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import msgspec

from pdserver.dialects.rpc import Call, Method, RpcError
from pdserver.grpc.http2.control import Limits
from pdserver.grpc.http2.stream import Stream
from pdserver.grpc.http2.turns import Turns

Access = Callable[[str, bytes, bytes, int | str, float, str, str], None]
"""Takes an access log entry: client, "gRPC", method, code, seconds, request id, model."""

Check = Callable[[Method, Call, bytes | None, str], None]
"""Takes a method, the call, its token, and the client's host; notes in the call the scope of the token, if it needed
one, and leaves it the metadata that the method may see. Raises RpcError unless the call is allowed."""


class Memory(Protocol):
    """For requests that are being received, on all connections."""

    def take(self, more_bytes: int, own_bytes: int) -> bool: ...

    def give_back(self, own_bytes: int) -> None: ...


class PortLimits(msgspec.Struct, frozen=True, kw_only=True):
    """What a port grants its clients; None: no limit."""

    max_message_bytes: int
    max_connections: int
    backlog: int
    """Connections that wait to be taken in."""
    handshake_seconds: float
    """For that of TLS."""
    max_held_bytes: int
    """Of `memory`, for one connection."""
    slow_client_seconds: float
    idle_seconds: float
    silent_seconds: float
    max_age_ms: int | None = None
    """Of a connection."""
    max_age_grace_ms: int | None = None
    """For the calls that there are when it has that age."""
    has_room_for: Callable[[asyncio.BaseTransport], bool] = lambda client: True
    """Whether the process has what one more client takes."""


class GrpcPort(msgspec.Struct, kw_only=True):
    """What all connections of one port share."""

    methods: Mapping[bytes, Method]
    """/package.Service/Method → what answers it."""
    limits: PortLimits
    memory: Memory
    check: Check | None
    """None: all calls are allowed."""
    error_of: Callable[[Exception], RpcError | None]
    """What a method's exception says to the client; None: it is a fault of ours."""
    http_1_answer: bytes
    """To clients that speak HTTP/1."""
    access: Access | None
    stopping: asyncio.Event
    """Set when no more calls are taken in."""
    left: Callable[[], None]
    """Called when a connection has ended."""
    turns: Turns
    connections: set[Caller] = msgspec.field(default_factory=set)


class Caller(Protocol):
    """A client's connection, as its calls and its port know it."""

    port: GrpcPort
    loop: asyncio.AbstractEventLoop
    limits: Limits
    host: str
    client: str
    waiting_bytes: int
    """Of answers that the client has not taken yet."""

    def send(self, stream: Stream, head: bytes, data: Sequence[bytes], trailers: bytes = b"") -> None: ...

    def grant(self, stream: Stream, count: int) -> None: ...

    def spend_reset(self) -> None: ...

    def hold(self, more_bytes: int, own_bytes: int) -> bool: ...

    def stop(self) -> None: ...

    def end_now(self) -> list[asyncio.Task[Any]]: ...
