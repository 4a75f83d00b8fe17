"""Which routes and doors are on which HTTP port."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping, Sequence
from itertools import chain
from typing import Any

from starlette.routing import BaseRoute
from starlette.types import ASGIApp

from pdserver.configuration.server import Config
from pdserver.dialects.dialect import Dialect
from pdserver.engine.engine import Engine
from pdserver.http.asgi import Below, Observed, Preflight, application
from pdserver.http.connection import Connection, HttpPort
from pdserver.http.listener import HttpListener
from pdserver.http.predictions import Front, PredictionProtocol
from pdserver.logs.access import AccessLog
from pdserver.management import metrics as metrics_routes
from pdserver.management.rest import Management
from pdserver.management.tokens import routes as token_routes
from pdserver.management.verbs import Verbs
from pdserver.metrics.registry import Metrics
from pdserver.plugins import endpoint_routes
from pdserver.security.guards import Guards
from pdserver.server.ports import Ports

_MAX_PARAMETER_BYTES = 1024 * 1024
"""Limit for a body on ports without predictions."""


def listeners(
    config: Config,
    dialects: Mapping[str, Sequence[Dialect]],
    engine: Engine,
    verbs: Verbs,
    metrics: Metrics,
    access: AccessLog | None,
    guards: Guards,
    ports: Ports,
) -> Iterator[HttpListener]:
    """One listener for each open port."""
    routes = _routes(config, dialects, engine, verbs, metrics, guards)
    for name, other in ports.joined.items():
        routes[other] += routes.pop(name)
    shared: dict[str, Any] = {
        "max_connections": guards.max_connections,
        "slow_client_seconds": config.slow_client_timeout_seconds,
        "idle_seconds": config.idle_timeout_seconds,
        "receiving": guards.receiving,
        "statuses": metrics.http_responses,
        "access": access,
    }
    for name in [name for name in routes if name in ports.sockets]:
        guard = guards.of(name, routes[name])
        http: Any
        if name in dialects:
            front = Front(
                **shared,
                guard=guard,
                max_request_bytes=config.max_request_bytes,
                doors={segment: door for each in dialects[name] for segment, door in each.doors.items()},
                other_door=next((each.other_door for each in dialects[name] if each.other_door), None),
                submit=engine.submit,
            )
            http = functools.partial(PredictionProtocol, front)
        else:
            port = HttpPort(**shared, guard=guard, max_request_bytes=_MAX_PARAMETER_BYTES)
            http = functools.partial(Connection, port)
        words = dialects.get(name, dialects["inference"])[0].words
        app: ASGIApp = Observed(application(routes[name], words), metrics.http_responses, access)
        certificate = guards.certificate if config.addresses[f"{name}_address"].tls else None
        yield HttpListener(
            Preflight(app) if guards.cors.origin else app,
            http,
            guards.cors.response_headers(),
            certificate.context if certificate else None,
            ports.sockets[name],
        )


def _routes(
    config: Config,
    dialects: Mapping[str, Sequence[Dialect]],
    engine: Engine,
    verbs: Verbs,
    metrics: Metrics,
    guards: Guards,
) -> dict[str, list[BaseRoute]]:
    """The routes of each port, without predictions."""
    keys = token_routes(guards.keyring) if guards.keyring is not None else []
    added = endpoint_routes(engine)
    management = Management(verbs, enable_model_api=config.enable_model_api)
    return {
        "inference": [*chain(*map(routes_of, dialects["inference"])), *added["inference"]],
        "oip": list(chain(*(each.routes for each in dialects["oip"]))),
        "management": [*management.routes(), *keys, *added["management"]],
        "metrics": [*metrics_routes.routes(metrics, guards.metrics), *added["metrics"]],
    }


def routes_of(dialect: Dialect) -> list[BaseRoute]:
    """A dialect's routes. If it has a path of its own, the dialect words all errors below that path."""
    if not dialect.path:
        return list(dialect.routes)
    return [Below(dialect.path, application(dialect.routes, dialect.words))]
