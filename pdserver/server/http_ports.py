"""Which routes and doors are on which HTTP port."""

from __future__ import annotations

import functools
import socket
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import chain
from typing import Any

from starlette.routing import BaseRoute
from starlette.types import ASGIApp

from pdserver.configuration.server import Config
from pdserver.dialects.dialect import Dialect
from pdserver.engine.engine import Engine
from pdserver.engine.queue import Call
from pdserver.front_ends.answering import SeenFirst, WhenSeen
from pdserver.grpc.http2.frames import PREFACE
from pdserver.http.asgi import Below, Observed, Preflight, application
from pdserver.http.connection import Connection, HttpPort
from pdserver.http.front import Front
from pdserver.http.known_heads import KnownHeads
from pdserver.http.listener import HttpListener
from pdserver.http.other_protocols import OtherProtocols
from pdserver.http.predictions import PredictionProtocol
from pdserver.logs.access import Access
from pdserver.management import metrics as metrics_routes
from pdserver.management import use_key
from pdserver.management.rest import Management
from pdserver.management.tokens import routes as token_routes
from pdserver.management.verbs import Verbs
from pdserver.management.workflows import WorkflowManagement
from pdserver.metrics.registry import Metrics
from pdserver.metrics.shared import Statuses
from pdserver.peers.http import HttpPeers
from pdserver.plugins import endpoint_routes
from pdserver.security.guard import Guard
from pdserver.security.guards import Guards
from pdserver.security.routes import Rule
from pdserver.server.one_port import OnePort
from pdserver.workflows.workflows import Workflows

_MAX_PARAMETER_BYTES = 1024 * 1024
"""Limit for a body on ports without predictions."""


class HttpPorts:
    """All HTTP ports of a server."""

    def __init__(
        self,
        config: Config,
        dialects: Mapping[str, Sequence[Dialect]],
        submit: Callable[[Call], None],
        statuses: Statuses,
        access: Access | None,
        guards: Guards,
        one_port: OnePort,
        peers: HttpPeers | None = None,
        seen: WhenSeen | None = None,
    ) -> None:
        """`dialects` are those of each port, by its name. `statuses` count the answers. `peers` answer for what is not
        served here. Answers wait for `seen`."""
        self._config = config
        self._dialects = dialects
        self._submit = submit
        self._statuses = statuses
        self._access = access
        self._guards = guards
        self._one_port = one_port
        self._peers = peers
        self._seen = seen

    def app(self, name: str, routes: Sequence[BaseRoute]) -> ASGIApp:
        """What answers on a port all that is no prediction."""
        words = self._dialects.get(name, self._dialects["inference"])[0].words
        app = application(routes, words, self._peers if name in self._dialects else None)
        return app if self._seen is None else SeenFirst(app, self._seen)

    def listener(
        self, name: str, routes: Sequence[BaseRoute], rules: Iterable[BaseRoute | Rule], sockets: list[socket.socket]
    ) -> HttpListener:
        """Of a port. `rules` say what calls need that are no predictions: the routes themselves, or others' rules."""
        guards = self._guards
        app: ASGIApp = Observed(self.app(name, routes), self._statuses, self._access)
        certificate = guards.certificate if self._config.addresses[f"{name}_address"].tls else None
        connections = guards.connections(name)
        others = self._one_port.protocols(name, connections)
        return HttpListener(
            Preflight(app) if guards.cors.origin else app,
            self._protocol(name, guards.of(name, rules), others),
            guards.cors.response_headers(),
            certificate.context_for(with_http2=PREFACE in others) if certificate else None,
            sockets,
            connections,
        )

    def _protocol(self, name: str, guard: Guard, others: OtherProtocols) -> Any:
        """What answers each connection to a port. Only ports with dialects take predictions."""
        config, guards = self._config, self._guards
        shared: dict[str, Any] = {
            "max_connections": guards.max_connections,
            "slow_client_seconds": config.slow_client_timeout_seconds,
            "idle_seconds": config.idle_timeout_seconds,
            "receiving": guards.receiving,
            "statuses": self._statuses,
            "access": self._access,
            "guard": guard,
        }
        if name not in self._dialects:
            return functools.partial(Connection, HttpPort(**shared, max_request_bytes=_MAX_PARAMETER_BYTES))
        dialects = self._dialects[name]
        front = Front(
            **shared,
            max_request_bytes=config.max_request_bytes,
            doors={segment: door for each in dialects for segment, door in each.doors.items()},
            other_doors=tuple(door for each in dialects for door in each.other_doors),
            submit=self._submit,
            heads=KnownHeads(guard.keyring),
            others=others,
            peers=self._peers,
        )
        return functools.partial(PredictionProtocol, front)


def routes_of(dialect: Dialect, peers: HttpPeers | None) -> list[BaseRoute]:
    """A dialect's routes. If it has a path of its own, the dialect words all errors below that path."""
    if not dialect.path:
        return list(dialect.routes)
    return [Below(dialect.path, application(dialect.routes, dialect.words, peers))]


def routes_of_ports(
    config: Config,
    dialects: Mapping[str, Sequence[Dialect]],
    engine: Engine,
    verbs: Verbs,
    workflows: Workflows,
    metrics: Metrics,
    guards: Guards,
    peers: HttpPeers | None,
) -> dict[str, list[BaseRoute]]:
    """The routes of each port, without predictions."""
    keys = token_routes(guards.keyring) if guards.keyring is not None else []
    added = endpoint_routes(engine)
    management = Management(verbs, enable_model_api=config.enable_model_api)
    of_workflows = WorkflowManagement(workflows, enable_model_api=config.enable_model_api)
    brought = use_key.routes(engine) if config.use_encryption_model else []
    own = {port: list(chain(*(routes_of(each, peers) for each in those))) for port, those in dialects.items()}
    return {
        "inference": [*own["inference"], *added["inference"], *brought],
        "oip": list(chain(*(each.routes for each in dialects["oip"]))),
        "paddle_serving": [*own["paddle_serving"], *brought],
        "tensorflow": [*own["tensorflow"], *_tensorflow_metrics(config, metrics, guards)],
        "management": [*management.routes(), *of_workflows.routes(), *keys, *added["management"]],
        "metrics": [*metrics_routes.routes(metrics, guards.metrics(config.metrics_address)), *added["metrics"]],
    }


def _tensorflow_metrics(config: Config, metrics: Metrics, guards: Guards) -> list[BaseRoute]:
    address, path = config.tensorflow_address, config.tensorflow_metrics_path
    if address is None or not path:
        return []
    return metrics_routes.routes(metrics, guards.metrics(address), path)
