"""Which services are on which gRPC port."""

from __future__ import annotations

import socket
from collections.abc import Mapping

from pdserver.config import Config
from pdserver.config_values import Address
from pdserver.dialects.standard import health, reflection
from pdserver.dialects.torchserve.grpc import Inference
from pdserver.engine.engine import Engine
from pdserver.grpc_server import GrpcServer, Limits
from pdserver.management.grpc import Management
from pdserver.management.verbs import Verbs


def addresses(config: Config) -> dict[str, Address]:
    """Where the ports are to be, by the words with which their keys begin."""
    if not config.enable_grpc:
        return {}
    return {
        "grpc_inference": Address(config.grpc_inference_host, config.grpc_inference_port),
        "grpc_management": Address(config.grpc_management_host, config.grpc_management_port),
    }


async def serve(
    server: GrpcServer, config: Config, engine: Engine, verbs: Verbs, sockets: Mapping[str, socket.socket]
) -> None:
    """Open the ports for which there are sockets. Raises ConfigError."""
    inference = Limits(
        config.max_request_bytes,
        config.grpc_inference_max_connection_age_ms,
        config.grpc_inference_max_connection_age_grace_ms,
    )
    management = Limits(
        config.max_request_bytes,
        config.grpc_management_max_connection_age_ms,
        config.grpc_management_max_connection_age_grace_ms,
    )
    for name, service, limits in (
        ("grpc_inference", Inference(engine).service(), inference),
        ("grpc_management", Management(verbs, enable_model_api=config.enable_model_api).service(), management),
    ):
        health_service = health.Health(lambda: engine.health().healthy, [service.name], server.stopping).service()
        reflections = reflection.Reflection([service.name, health.NAME]).services()
        host, number = sockets[name].getsockname()[:2]
        sockets[name].close()  # held for grpcio until now: it opens its ports itself
        await server.serve(host, number, [service, health_service, *reflections], limits)
