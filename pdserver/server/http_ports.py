"""Which routes and doors are on which HTTP port."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from typing import Any

import msgspec
from starlette.applications import Starlette
from starlette.routing import BaseRoute
from starlette.types import ASGIApp

from pdserver.configuration.server import Config
from pdserver.dialects.oip import routes as oip_routes
from pdserver.dialects.oip.http import Below
from pdserver.dialects.oip.protocol import OpenInference
from pdserver.dialects.oip.rest import OipDoor, infer_target
from pdserver.dialects.torchserve import rest as torchserve
from pdserver.dialects.torchserve import routes as torchserve_routes
from pdserver.dialects.torchserve.errors import WORDS
from pdserver.engine.engine import Engine
from pdserver.http.asgi import Observed, Preflight, application
from pdserver.http.connection import Connection, Port
from pdserver.http.known_heads import KnownHeads
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
"""What a body may have on the ports where none is a model's input."""


def listeners(
    config: Config,
    protocol: OpenInference,
    verbs: Verbs,
    metrics: Metrics,
    access: AccessLog | None,
    guards: Guards,
    ports: Ports,
) -> Iterator[HttpListener]:
    """One for each port that is open."""
    engine = protocol.engine
    oip = oip_routes.application(protocol)
    routes = _routes(config, engine, oip, verbs, metrics, guards)
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
    port_guards = {name: guards.of(name, routes[name]) for name in routes}
    oip_door = OipDoor(protocol, torchserve.open_inference_door(protocol.codec, infer_target))
    front = Front(
        **shared,
        guard=port_guards["inference"],
        max_request_bytes=config.max_request_bytes,
        doors={**torchserve.doors(protocol.codec, engine.only_model), b"v2": oip_door},
        other_door=torchserve.other_door(protocol.codec),
        submit=engine.submit,
    )
    fronts = {
        "inference": front,
        "oip": msgspec.structs.replace(
            front, guard=port_guards["oip"], doors={b"v2": oip_door}, other_door=oip_door, heads=KnownHeads()
        ),
    }
    for name in [name for name in routes if name in ports.sockets]:
        http: Any
        if name in fronts:
            http = functools.partial(PredictionProtocol, fronts[name])
        else:
            port = Port(**shared, guard=port_guards[name], max_request_bytes=_MAX_PARAMETER_BYTES)
            http = functools.partial(Connection, port)
        inner = oip if name == "oip" else application(routes[name], WORDS)
        app: ASGIApp = Observed(inner, metrics.http_responses, access)
        certificate = guards.certificate if config.addresses[f"{name}_address"].tls else None
        yield HttpListener(
            Preflight(app) if guards.cors.origin else app,
            http,
            guards.cors.response_headers(),
            certificate.context if certificate else None,
            ports.sockets[name],
        )


def _routes(
    config: Config, engine: Engine, oip: Starlette, verbs: Verbs, metrics: Metrics, guards: Guards
) -> dict[str, list[BaseRoute]]:
    """What is served without a door, by port."""
    details = guards.keyring is None
    keys = token_routes(guards.keyring) if guards.keyring is not None else []
    added = endpoint_routes(engine)
    management = Management(verbs, enable_model_api=config.enable_model_api)
    return {
        "inference": [*torchserve_routes.routes(engine, details=details), Below("/v2", oip), *added["inference"]],
        "oip": list(oip.routes),
        "management": [*management.routes(), *keys, *added["management"]],
        "metrics": [*metrics_routes.routes(metrics, guards.metrics), *added["metrics"]],
    }
