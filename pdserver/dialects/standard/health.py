"""grpc.health.v1.Health: whether the server, or one of its services, serves.

Source: https://github.com/grpc/grpc/blob/master/doc/health-checking.md
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Callable, Iterable

from pdserver.dialects.protos import decode, message_class
from pdserver.dialects.rpc import Code, RpcCall, RpcError, ServerStreaming, Service, Unary
from pdserver.formats.values import shown
from pdserver.security.access import OPEN, Need

NAME = "grpc.health.v1.Health"
_Request = message_class("grpc.health.v1.HealthCheckRequest")
_Response = message_class("grpc.health.v1.HealthCheckResponse")
_ListResponse = message_class("grpc.health.v1.HealthListResponse")
_WATCH_SECONDS = 0.5
"""How often Watch looks. Health follows from the states of all workers, and no single event tells of a change."""


class Health:
    """All services are well when the server is, and not after `stopping` was set."""

    def __init__(self, healthy: Callable[[], bool], services: Iterable[str], stopping: asyncio.Event) -> None:
        self._healthy = healthy
        self._services = ("", *services)
        self._stopping = stopping

    def service(self, need: Need) -> Service:
        """`need`: of whoever asks which services there are; whether one is well, anybody may."""
        return Service(
            NAME,
            {
                "Check": Unary(self.check, OPEN.of("health")),
                "List": Unary(self.list, need.of("health")),
                "Watch": ServerStreaming(self.watch, OPEN.of("health")),
            },
        )

    def _status(self, service: str) -> int:
        status = "SERVICE_UNKNOWN"
        if service in self._services:
            status = "SERVING" if self._healthy() and not self._stopping.is_set() else "NOT_SERVING"
        return int(_Response.ServingStatus.Value(status))

    async def check(self, data: bytes | memoryview, _: RpcCall) -> bytes:
        service = decode(_Request, data).service
        if service not in self._services:
            known = ", ".join(self._services[1:])
            raise RpcError(Code.NOT_FOUND, f"no service {shown(service)} here; there are {known}")
        return bytes(_Response(status=self._status(service)).SerializeToString())

    async def list(self, _data: bytes | memoryview, _: RpcCall) -> bytes:
        statuses = {service: _Response(status=self._status(service)) for service in self._services}
        return bytes(_ListResponse(statuses=statuses).SerializeToString())

    async def watch(self, data: bytes | memoryview, _: RpcCall) -> AsyncGenerator[bytes, None]:
        service = decode(_Request, data).service
        told = None
        while True:
            status = self._status(service)
            if status != told:
                told = status
                yield _Response(status=status).SerializeToString()
                continue  # it may have changed while that was on its way
            if self._stopping.is_set():
                return
            with contextlib.suppress(asyncio.TimeoutError):
                await asyncio.wait_for(self._stopping.wait(), _WATCH_SECONDS)
