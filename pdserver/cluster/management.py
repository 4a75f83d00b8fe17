"""The cluster's own ports: management, metrics and where the nodes' metrics are, with one server's guards."""

from __future__ import annotations

import asyncio
import functools
import logging
import socket
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path

import msgspec
import orjson
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute

from pdserver.cluster import discovery, metrics, sockets
from pdserver.cluster.controller import Controller
from pdserver.cluster.node_http import NodeHttp
from pdserver.cluster.repository import ClusterRepository, NoFiles
from pdserver.cluster.verbs import ClusterVerbs
from pdserver.configuration.server import Config
from pdserver.configuration.values import Address
from pdserver.dialects.oip import errors as oip
from pdserver.dialects.oip.grpc import NAME as OIP
from pdserver.dialects.oip.grpc import RepositoryMethods
from pdserver.dialects.oip.needs import METADATA
from pdserver.dialects.oip.repository import Control
from pdserver.dialects.oip.routes import RepositoryRoutes
from pdserver.dialects.rpc import Service
from pdserver.dialects.torchserve.errors import WORDS
from pdserver.errors import Unavailable, Unsupported
from pdserver.grpc.server import GrpcServer
from pdserver.http.asgi import Below, Observed, Preflight, application, json_response
from pdserver.http.connection import Connection, HttpPort
from pdserver.http.listener import HttpListener
from pdserver.management.grpc import Management as GrpcManagement
from pdserver.management.rest import Management
from pdserver.management.tokens import routes as token_routes
from pdserver.security.access import MANAGEMENT
from pdserver.security.guards import Guards
from pdserver.security.routes import Route
from pdserver.server import grpc_ports

_log = logging.getLogger("pdserver.cluster")
_GRPC = "grpc_management_address"
_MAX_PARAMETER_BYTES = 1024 * 1024
_WORKFLOWS = ("/workflows", "/workflows/{name}")
_METHODS = ["GET", "POST", "DELETE"]
_TELL_SECONDS = 1.0


class _Triton(msgspec.Struct, frozen=True):
    """A `Controlled`."""

    control: Control
    codec: NoFiles = NoFiles()
    limit_bytes: int = _MAX_PARAMETER_BYTES


class ManagementPort:
    """Answers for a controller. `folder` is its own; the file for Prometheus is there."""

    def __init__(
        self,
        controller: Controller,
        config: Config,
        folder: Path,
        nodes: NodeHttp,
        names: Callable[[], list[str]],
        *,
        machine: str = "",
        address: Address | None = None,
    ) -> None:
        """`names` lists the archives of the model store. `address` is where both protocols listen, with the port 0, if
        not where the configuration says: behind entrances, which listen there. `machine` is this one's address, for
        ports that are open at all of them. Raises ConfigError if that would not be safe."""
        self._controller = controller
        self._config = config
        self._nodes = nodes
        self._machine = machine
        self._address = address or config.management_address
        self._grpc_address = config.addresses.get(_GRPC)
        if address and self._grpc_address:
            self._grpc_address = address
        self._guards = Guards(config, folder)
        self._verbs = ClusterVerbs(controller, nodes)
        self._triton = _Triton(Control(ClusterRepository(controller, names), config.model_control_mode))
        self._file = discovery.TargetsFile(folder / discovery.FILE)
        self._socket: socket.socket | None = None
        self._listener: HttpListener | None = None
        self._grpc: GrpcServer | None = None
        self._tasks: list[asyncio.Task[None]] = []
        self.where = self.grpc = ""
        """HOST:PORT of each protocol, once it is open, with the real port where 0 was asked for. Of gRPC, "" where
        `enable_grpc` is false."""

    async def open(self) -> None:
        """Raises ConfigError when a port can't be opened."""
        self._socket = sockets.listening("management_address", self._address)
        self._socket.setblocking(False)
        self._listener = self._made(self._socket)
        self._listener.serve()
        self.where = sockets.where(self._socket, self._machine)
        if self._grpc_address is not None:
            await self._serve_grpc(self._grpc_address)
        self._tasks = [asyncio.create_task(each) for each in (self._guards.watch(), self._tell_prometheus())]

    @property
    def url(self) -> str:
        return f"{'https' if self._address.tls else 'http'}://{self.where}"

    @property
    def grpc_url(self) -> str:
        """As entrances are told."""
        tls = self._grpc_address is not None and self._grpc_address.tls
        return f"grpcs://{self.grpc}" if tls else self.grpc

    async def close(self, grace_seconds: float = 1.0) -> None:
        """Answer what was accepted, within this time. Idempotent."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if self._listener is not None:
            await self._listener.stop(grace_seconds)
        if self._grpc is not None:
            await self._grpc.stop(grace_seconds)
        if self._socket is not None:
            self._socket.close()
        await self._nodes.close()

    async def _no_workflows(self, _: Request) -> Response:
        raise Unsupported("a cluster has no workflows: register their models, and a pipeline that asks these")

    def _made(self, sock: socket.socket) -> HttpListener:
        config, guards = self._config, self._guards
        need = guards.metrics(config.metrics_address)
        figures = metrics.ClusterMetrics(self._controller.view, self._nodes)
        routes = [
            *Management(self._verbs, enable_model_api=config.enable_model_api, cluster=True).routes(),
            *(Route(path, self._no_workflows, MANAGEMENT, _METHODS) for path in _WORKFLOWS),
            *(token_routes(guards.keyring) if guards.keyring is not None else []),
            *self._lists(),
            Below("/v2/repository", application(RepositoryRoutes(self._triton).routes(), oip.WORDS)),
            *metrics.routes(figures, need),
            *discovery.routes(self._controller, need),
        ]
        statuses: dict[int, int] = defaultdict(int)
        app = Observed(application(routes, WORDS), statuses, None)
        connections = guards.connections("management")
        port = HttpPort(
            guard=guards.of("management", routes, restricted_as="inference"),
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

    def _lists(self) -> list[BaseRoute]:
        """What KServe's clients ask a server, and any one node could only tell of itself. Entrances lead it here."""

        async def names(_: Request) -> Response:
            found = {model.wanted.ref.name for model in self._controller.view().models}
            return json_response(200, orjson.dumps({"models": sorted(found)}))

        return [Route(path, names, METADATA) for path in ("/v1/models", "/v2/models")]

    async def _serve_grpc(self, address: Address) -> None:
        config, guards = self._config, self._guards
        sock = sockets.listening(_GRPC, address)
        self.grpc = sockets.where(sock, self._machine)
        self._grpc = grpc_ports.make(None, guards)
        service = GrpcManagement(self._verbs, enable_model_api=config.enable_model_api).service()
        services = [
            service,
            *grpc_ports.standard(
                [service], lambda: not self._controller.view().recovering, self._grpc, "grpc_management"
            ),
            Service(OIP, RepositoryMethods(self._triton).methods()),  # an entrance leads its calls here
        ]
        limits = grpc_ports.limits_of(config, guards)[1]
        check = grpc_ports.check_of(guards.of("grpc_management", restricted_as="grpc_inference"))
        tls = guards.certificate.http2_context if guards.certificate and address.tls else None
        await self._grpc.serve([sock], services, limits, guards.connections("grpc_management"), check, tls)

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
