"""The cluster's own port: management, metrics and where the nodes' metrics are, with one server's guards."""

from __future__ import annotations

import asyncio
import functools
import logging
import socket
from collections import defaultdict
from pathlib import Path

from pdserver.cluster import discovery, metrics, sockets
from pdserver.cluster.node_http import NodeHttp
from pdserver.cluster.verbs import ClusterVerbs, Decides
from pdserver.configuration.server import Config
from pdserver.configuration.values import Address
from pdserver.dialects.torchserve.errors import WORDS
from pdserver.errors import Unavailable
from pdserver.http.asgi import Observed, Preflight, application
from pdserver.http.connection import Connection, HttpPort
from pdserver.http.listener import HttpListener
from pdserver.management.rest import Management
from pdserver.management.tokens import routes as token_routes
from pdserver.security.guards import Guards

_log = logging.getLogger("pdserver.cluster")
_MAX_PARAMETER_BYTES = 1024 * 1024
_TELL_SECONDS = 1.0


class ManagementPort:
    """Answers for a controller. `folder` is its own; the file for Prometheus is there."""

    def __init__(
        self, controller: Decides, config: Config, folder: Path, nodes: NodeHttp, *, address: Address | None = None
    ) -> None:
        """`address` is where to listen, if not at the configuration's `management_address`: behind an entrance, which
        has that. Raises ConfigError if that would not be safe."""
        self._controller = controller
        self._config = config
        self._nodes = nodes
        self._address = address or config.management_address
        self._guards = Guards(config, folder)
        self._file = discovery.TargetsFile(folder / discovery.FILE)
        self._socket: socket.socket | None = None
        self._listener: HttpListener | None = None
        self._tasks: list[asyncio.Task[None]] = []
        self.url = ""
        """Once it is open."""

    async def open(self) -> str:
        """Returns HOST:PORT, with the real port where 0 was asked for. Raises ConfigError when it can't be opened."""
        self._socket = sockets.listening("management_address", self._address)
        self._socket.setblocking(False)
        self._listener = self._made(self._socket)
        self._listener.serve()
        self._tasks = [asyncio.create_task(each) for each in (self._guards.watch(), self._tell_prometheus())]
        address = sockets.where(self._socket)
        self.url = f"{'https' if self._address.tls else 'http'}://{address}"
        return address

    async def close(self, grace_seconds: float = 1.0) -> None:
        """Answer what was accepted, within this time. Idempotent."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if self._listener is not None:
            await self._listener.stop(grace_seconds)
        if self._socket is not None:
            self._socket.close()
        await self._nodes.close()

    def _made(self, sock: socket.socket) -> HttpListener:
        config, guards = self._config, self._guards
        need = guards.metrics(config.metrics_address)
        figures = metrics.ClusterMetrics(self._controller.view, self._nodes)
        routes = [
            *Management(
                ClusterVerbs(self._controller, self._nodes), enable_model_api=config.enable_model_api, cluster=True
            ).routes(),
            *(token_routes(guards.keyring) if guards.keyring is not None else []),
            *metrics.routes(figures, need),
            *discovery.routes(self._controller, need),
        ]
        statuses: dict[int, int] = defaultdict(int)
        app = Observed(application(routes, WORDS), statuses, None)
        connections = guards.connections("management")
        port = HttpPort(
            guard=guards.of("management", routes),
            max_request_bytes=_MAX_PARAMETER_BYTES,
            max_connections=guards.max_connections,
            slow_client_seconds=config.slow_client_timeout_seconds,
            idle_seconds=config.idle_timeout_seconds,
            receiving=guards.receiving,
            statuses=statuses,
            access=None,
        )
        return HttpListener(
            Preflight(app) if guards.cors.origin else app,
            functools.partial(Connection, port),
            guards.cors.response_headers(),
            guards.certificate.context_for(with_http2=False) if guards.certificate and self._address.tls else None,
            [sock],
            connections,
        )

    async def _tell_prometheus(self) -> None:
        """Keep the file as the nodes are."""
        problem = ""
        while True:
            try:
                await asyncio.to_thread(self._file.write, self._controller.view())
                problem = ""
            except Unavailable as error:
                if str(error) != problem:
                    problem = str(error)
                    _log.error("%s", problem)
            await asyncio.sleep(_TELL_SECONDS)
