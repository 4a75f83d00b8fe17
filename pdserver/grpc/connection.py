"""A client's connection to a gRPC port."""

from __future__ import annotations

import asyncio
import random
from typing import Any

from pdserver.grpc import heads
from pdserver.grpc.call import GrpcCall
from pdserver.grpc.heads import CallHead
from pdserver.grpc.http2.connection import Connection
from pdserver.grpc.http2.control import Limits
from pdserver.grpc.http2.fields import Headers
from pdserver.grpc.http2.frames import ConnectionFault, ErrorCode
from pdserver.grpc.port import GrpcPort

_MAX_CALLS = 1024
_MAX_METADATA_BYTES = 16 * 1024
_AGE_SPREAD = 0.1
"""Random spread of a connection's age, so that connections that began together do not all end together."""
_METHODS_OF_HTTP_1 = (b"GET ", b"POST ", b"HEAD ", b"PUT ", b"DELETE ", b"OPTIONS ", b"PATCH ")


class GrpcConnection(Connection[CallHead]):
    """A connection whose streams are calls."""

    def __init__(self, port: GrpcPort) -> None:
        limits = port.limits
        seconds = limits.slow_client_seconds, limits.idle_seconds, limits.silent_seconds
        super().__init__(Limits(_MAX_CALLS, _MAX_METADATA_BYTES, *seconds), port.turns)
        self.port = port
        self.host = "-"
        self.client = "-"
        self._held_bytes = 0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        peer = transport.get_extra_info("peername")  # None: the client has left already
        if peer:
            self.host = peer[0]
            self.client = f"[{peer[0]}]:{peer[1]}" if ":" in peer[0] else f"{peer[0]}:{peer[1]}"
        self.port.connections.add(self)
        limits = self.port.limits
        tls = transport.get_extra_info("ssl_object")
        if tls is not None and tls.selected_alpn_protocol() != "h2":
            said = "over TLS, HTTP/2 has to be negotiated: expected ALPN with h2"
            self._refuse(ConnectionFault(ErrorCode.INADEQUATE_SECURITY, said))
        elif self.port.connections.exceed(limits.max_connections):
            self._refuse(ConnectionFault(ErrorCode.ENHANCE_YOUR_CALM, "too many connections (max_connections)"))
        elif not limits.has_room_for(transport):
            self._refuse(ConnectionFault(ErrorCode.ENHANCE_YOUR_CALM, "no file descriptors are left (ulimit -n)"))
        elif limits.max_age_ms is not None:
            seconds = limits.max_age_ms / 1e3 * random.uniform(1 - _AGE_SPREAD, 1 + _AGE_SPREAD)  # noqa: S311
            self.call_later(seconds, self._reach_max_age)

    def _refuse(self, fault: ConnectionFault) -> None:
        self.send_preface()
        self.fail(fault)

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self.port.connections.discard(self)
        self.port.left()

    def _reach_max_age(self) -> None:
        self.retire()
        if self.port.limits.max_age_grace_ms is not None:
            self.call_later(self.port.limits.max_age_grace_ms / 1e3, self.end_now)

    def read_head(self, headers: Headers) -> CallHead:
        return heads.read(headers, self.port.methods, _MAX_METADATA_BYTES)

    def open(self, number: int, head: CallHead) -> GrpcCall:
        return GrpcCall(self, number, head)

    def not_http2(self, data: bytes) -> None:
        if data.startswith(_METHODS_OF_HTTP_1):
            self.write(self.port.http_1_answer)

    def hold(self, more_bytes: int, own_bytes: int) -> bool:
        """Reserve more memory for a call that has `own_bytes` already; a negative number returns it. False if there is
        not enough."""
        if more_bytes < 0:
            self.port.memory.give_back(-more_bytes)
        else:
            alone = self._held_bytes == own_bytes
            if not alone and self._held_bytes + more_bytes > self.port.limits.max_held_bytes:
                return False
            if not self.port.memory.take(more_bytes, own_bytes):
                return False
        self._held_bytes += more_bytes
        return True

    def stop(self) -> None:
        """Accept no more calls, and close the connection when the running ones have ended."""
        self.retire()
        for call in self.calls():
            call.stopping()

    shutdown = stop
    """What a listener of several protocols calls it."""

    def end_now(self) -> list[asyncio.Task[Any]]:
        """End all calls now. Returns the cancelled tasks."""
        calls = self.calls()
        for call in calls:
            call.stop()
        self.transport.close()
        return [call.task for call in calls if call.task is not None]

    def calls(self) -> list[GrpcCall]:
        return [call for call in self.streams.values() if isinstance(call, GrpcCall)]
