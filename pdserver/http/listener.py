"""An HTTP port: serve, stop in order, hurry. It is uvicorn's server, adapted to share its process with others."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
from collections.abc import Iterator, Sequence
from typing import Any, cast

import uvicorn
from starlette.types import ASGIApp

from pdserver.security.listening import BACKLOG
from pdserver.security.tls import HANDSHAKE_SECONDS
from pdserver.system.connections import Connections


class HttpListener:
    """`protocol` makes the connections. They pass to `app` what they don't answer themselves. Every answer has
    `headers`. Without `tls`, the port speaks plain HTTP. Open connections are in `connections`; a protocol may put
    others there in their place, which have a method `shutdown`, too."""

    def __init__(
        self,
        app: ASGIApp,
        protocol: Any,
        headers: Sequence[tuple[str, str]],
        tls: ssl.SSLContext | None,
        sockets: list[socket.socket],
        connections: Connections,
    ) -> None:
        self._sockets = sockets
        self._server = _Server(
            uvicorn.Config(
                cast(Any, app),
                http=protocol,
                ws="none",
                lifespan="off",
                log_config=None,
                access_log=False,
                proxy_headers=False,
                server_header=False,
                headers=list(headers),
                ssl_context_factory=(lambda *_: tls) if tls else None,
                backlog=BACKLOG,
            )
        )
        self._server.server_state.connections = connections
        self._serving: asyncio.Task[None] | None = None

    def serve(self) -> None:
        """Accept clients from now on."""
        self._serving = asyncio.create_task(self._server.serve(sockets=self._sockets))

    async def stop(self, grace_seconds: float) -> None:
        """Accept no more clients, and answer the accepted requests within this time."""
        self._server.config.timeout_graceful_shutdown = max(1, int(grace_seconds))
        self._server.should_exit = True
        if self._serving is not None:
            await self._serving

    def hurry(self) -> None:
        """Close all connections now."""
        self._server.force_exit = True


class _Server(uvicorn.Server):
    """A uvicorn server that leaves signals to its owner, which runs several of them."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Like uvicorn's, but with a shorter limit for the TLS handshake, for which uvicorn allows a minute."""
        config = self.config
        await self.lifespan.startup()
        loop = asyncio.get_running_loop()
        self.servers = [
            await loop.create_server(
                self._protocol,
                sock=sock,
                ssl=config.ssl,
                backlog=config.backlog,
                ssl_handshake_timeout=self._patience_seconds(),
            )
            for sock in sockets or []
        ]
        self.started = True

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Like uvicorn's, but it serves the connections that still wait in the backlog. uvicorn would drop them."""
        doors = [sock.dup() for sock in sockets or []]
        letting_in = asyncio.create_task(self._let_in(doors))  # it begins when uvicorn has closed its own sockets
        await super().shutdown(sockets)
        await letting_in

    async def _let_in(self, doors: list[socket.socket]) -> None:
        """Accept the connections in the backlog before the sockets are closed for good. Each gets one request."""
        clients: list[socket.socket] = []
        for door in doors:
            with door, contextlib.suppress(OSError):
                while True:
                    clients.append(door.accept()[0])
        loop = asyncio.get_running_loop()
        for client in clients:
            client.setblocking(False)
            with contextlib.suppress(OSError):
                _, connection = await loop.connect_accepted_socket(
                    self._protocol, client, ssl=self.config.ssl, ssl_handshake_timeout=self._patience_seconds()
                )
                connection.shutdown()

    def _protocol(self) -> Any:
        config = self.config
        return cast(Any, config.http_protocol_class)(config=config, server_state=self.server_state, app_state={})

    def _patience_seconds(self) -> float | None:
        return HANDSHAKE_SECONDS if self.config.ssl is not None else None
