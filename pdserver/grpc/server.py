"""The gRPC ports, which serve the services of `dialects.rpc`."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
import time
from collections.abc import Callable, Iterable, Sequence

from pdserver.dialects.rpc import OtherServers, RpcError, Service
from pdserver.grpc.connection import GrpcConnection
from pdserver.grpc.http2.turns import Turns
from pdserver.grpc.port import Access, Caller, Check, Connections, GrpcPort, Memory, PortLimits


class GrpcServer:
    """A gRPC listener. It is made and used in the engine's event loop."""

    def __init__(
        self,
        access: Access | None,
        memory: Memory,
        error_of: Callable[[BaseException], RpcError | None] = lambda _: None,
        http_1_answer: bytes = b"",
        peers: OtherServers | None = None,
    ) -> None:
        """`peers` answer for what is not served here."""
        self.stopping = asyncio.Event()
        """Set when no more calls are accepted."""
        self._access = access
        self._memory = memory
        self._error_of = error_of
        self._http_1_answer = http_1_answer
        self.peers = peers
        self._servers: list[asyncio.Server] = []
        self._ports: list[GrpcPort] = []
        self._changed = asyncio.Event()
        self._hurried = False
        self._turns = Turns()

    async def serve(
        self,
        sockets: Sequence[socket.socket],
        services: Iterable[Service],
        limits: PortLimits,
        connections: Connections,
        check: Check | None = None,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        """Serve the clients of these sockets."""
        port = self.port(services, limits, connections, check)
        self._ports.append(port)
        for sock in sockets:
            server = await asyncio.get_running_loop().create_server(
                lambda: GrpcConnection(port),
                sock=sock,
                backlog=limits.backlog,
                ssl=tls,
                ssl_handshake_timeout=limits.handshake_seconds if tls else None,
            )
            self._servers.append(server)

    def port(
        self,
        services: Iterable[Service],
        limits: PortLimits,
        connections: Connections,
        check: Check | None = None,
    ) -> GrpcPort:
        """What connections of a port share, for a listener of another protocol, which ends them."""
        return GrpcPort(
            methods={
                f"/{service.name}/{name}".encode(): method
                for service in services
                for name, method in service.methods.items()
            },
            limits=limits,
            memory=self._memory,
            check=check,
            error_of=self._error_of,
            http_1_answer=self._http_1_answer,
            access=self._access,
            stopping=self.stopping,
            left=self._changed.set,
            turns=self._turns,
            peers=self.peers,
            connections=connections,
        )

    async def stop(self, grace_seconds: float) -> None:
        """Accept no more calls, let the running ones end within this time, and close. Idempotent."""
        self.stopping.set()
        for server in self._servers:
            server.close()
        for connection in self._connections():
            connection.stop()
        deadline = time.monotonic() + grace_seconds
        while self._connections() and not self._hurried and (left := deadline - time.monotonic()) > 0:
            self._changed.clear()
            with contextlib.suppress(asyncio.TimeoutError):
                await asyncio.wait_for(self._changed.wait(), left)
        ending = [task for connection in self._connections() for task in connection.end_now()]
        await asyncio.gather(*ending, return_exceptions=True)

    def hurry(self) -> None:
        """End the calls for which `stop` still waits."""
        self._hurried = True
        self._changed.set()

    def _connections(self) -> list[Caller]:
        return [connection for port in self._ports for connection in port.connections]
