"""A server of PRPC in a thread of this process, with the service of `grpc_testbed`."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from typing import Any

import msgspec
import uvloop

from pdserver.dialects.rpc import Service
from pdserver.grpc.port import Access
from pdserver.prpc.connection import PrpcConnection
from pdserver.prpc.port import PrpcPort, by_name
from pdserver.system.budget import Budget
from pdserver.system.connections import Connections
from tests.grpc_testbed import LIMITS, SERVICE

UNARY = "testbed.Test/Unary"


class Testbed:
    """`port` and `memory` are the server's; look at them only."""

    __test__ = False

    def __init__(self, memory: Budget, access: Access | None, service: Service, **limits: Any) -> None:
        self.memory = memory
        self.port = PrpcPort(
            services=by_name([service]),
            limits=msgspec.structs.replace(LIMITS, **limits),
            memory=memory,
            check=None,
            error_of=lambda _: None,
            access=access,
            connections=Connections(),
        )
        self.address = ""
        self._begun = threading.Event()
        self._end: Callable[[], object] = lambda: None
        self._loop: asyncio.AbstractEventLoop
        self._thread = threading.Thread(target=lambda: uvloop.run(self._run()))

    async def _run(self) -> None:
        self._loop, end = asyncio.get_running_loop(), asyncio.Event()
        self._end = end.set
        server = await self._loop.create_server(lambda: PrpcConnection(self.port), "127.0.0.1", 0)
        self.address = f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
        self._begun.set()
        await end.wait()
        server.close()
        for connection in list(self.port.connections):
            connection.transport.abort()
        await asyncio.sleep(0)

    def run(self, function: Callable[[], object]) -> None:
        """In the server's thread."""
        self._loop.call_soon_threadsafe(function)

    def shutdown(self) -> None:
        """As the listener does when the server stops."""
        for connection in list(self.port.connections):
            connection.shutdown()

    def __enter__(self) -> Testbed:
        self._thread.start()
        assert self._begun.wait(60)
        return self

    def __exit__(self, *_: object) -> None:
        self.run(self._end)
        self._thread.join(60)
        assert not self._thread.is_alive()


def running(
    memory: Budget | None = None, access: Access | None = None, service: Service = SERVICE, **limits: Any
) -> Testbed:
    return Testbed(memory or Budget(64 * 1024 * 1024), access, service, **limits)
