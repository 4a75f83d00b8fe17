"""A client's connection to a port on which gRPC is spoken."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Mapping
from typing import Any

import msgspec

from pdserver.config_values import Address
from pdserver.dialects.rpc import Method
from pdserver.grpc_transport import heads
from pdserver.grpc_transport.call import GrpcCall
from pdserver.grpc_transport.heads import Head
from pdserver.http2.blocks import Headers
from pdserver.http2.connection import Connection
from pdserver.http2.frames import ConnectionFault, ErrorCode
from pdserver.security.guard import Guard
from pdserver.security.refused import Refused

_MAX_CALLS = 1024
_MAX_METADATA_BYTES = 16 * 1024
_AGE_SPREAD = 0.1
"""Connections that began together do not all end together."""
_METHODS_OF_HTTP_1 = (b"GET ", b"POST ", b"HEAD ", b"PUT ", b"DELETE ", b"OPTIONS ", b"PATCH ")
Access = Callable[[str, bytes, bytes, str, float], None]
"""Takes an access log entry: client, "gRPC", method, code, seconds."""


class PortLimits(msgspec.Struct, frozen=True, kw_only=True):
    """What a port grants its clients; None: no limit."""

    max_message_bytes: int
    max_connections: int
    slow_client_seconds: float
    max_age_ms: int | None = None
    """Of a connection."""
    max_age_grace_ms: int | None = None
    """For the calls that there are when it has that age."""


class GrpcPort(msgspec.Struct, kw_only=True):
    """What all connections of one port share."""

    methods: Mapping[bytes, Method]
    """/package.Service/Method → what answers it."""
    limits: PortLimits
    guard: Guard | None
    access: Access | None
    stopping: asyncio.Event
    """Set when no more calls are taken in."""
    left: Callable[[], None]
    """Called when a connection has ended."""
    connections: set[GrpcConnection] = msgspec.field(default_factory=set)


class GrpcConnection(Connection[Head]):
    """Its streams are calls."""

    def __init__(self, port: GrpcPort) -> None:
        super().__init__(_MAX_CALLS, _MAX_METADATA_BYTES, port.limits.slow_client_seconds)
        self.port = port
        self.host = "-"
        self.client = "-"

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        peer = transport.get_extra_info("peername")  # None: it has gone already
        if peer:
            self.host = peer[0]
            self.client = Address(*peer[:2]).host_and_port
        self.port.connections.add(self)
        limits = self.port.limits
        if len(self.port.connections) > limits.max_connections:
            self.greet_back()
            self.fail(ConnectionFault(ErrorCode.ENHANCE_YOUR_CALM, "too many connections (max_connections)"))
        elif limits.max_age_ms is not None:
            seconds = limits.max_age_ms / 1e3 * random.uniform(1 - _AGE_SPREAD, 1 + _AGE_SPREAD)  # noqa: S311
            self.call_later(seconds, self._grow_old)

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self.port.connections.discard(self)
        self.port.left()

    def _grow_old(self) -> None:
        self.retire()
        if self.port.limits.max_age_grace_ms is not None:
            self.call_later(self.port.limits.max_age_grace_ms / 1e3, self.end_now)

    def read_head(self, headers: Headers) -> Head:
        return heads.read(headers, self.port.methods, _MAX_METADATA_BYTES)

    def open(self, number: int, head: Head) -> GrpcCall:
        return GrpcCall(self, number, head)

    def greeted_otherwise(self, data: bytes) -> None:
        if data.startswith(_METHODS_OF_HTTP_1):
            message = "this port speaks gRPC; REST is spoken at inference_address and management_address"
            body = Refused(400, message).body()
            head = b"HTTP/1.1 400 Bad Request\r\ncontent-type: application/json\r\nconnection: close\r\n"
            self.transport.write(head + b"content-length: %d\r\n\r\n%b" % (len(body), body))

    def stop(self) -> None:
        """Take no more calls, and end when those that there are have."""
        self.retire()
        for call in self.calls():
            call.stopping()

    def end_now(self) -> list[asyncio.Task[Any]]:
        """No more time is left; gives what is being cancelled."""
        calls = self.calls()
        for call in calls:
            call.stop()
        self.transport.close()
        return [call.task for call in calls if call.task is not None]

    def calls(self) -> list[GrpcCall]:
        return [call for call in self.streams.values() if isinstance(call, GrpcCall)]
