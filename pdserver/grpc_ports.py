"""Which services are on which gRPC port."""

from __future__ import annotations

import socket
from collections.abc import Mapping, Sequence

import msgspec

from pdserver.config import Config
from pdserver.config_values import Address
from pdserver.dialects.oip.grpc import GrpcService
from pdserver.dialects.oip.protocol import OpenInference
from pdserver.dialects.rpc import Service
from pdserver.dialects.standard import health, reflection
from pdserver.dialects.torchserve.grpc import Inference
from pdserver.grpc_transport.connection import PortLimits
from pdserver.grpc_transport.server import GrpcServer
from pdserver.guards import Guards
from pdserver.management.grpc import Management
from pdserver.management.verbs import Verbs
from pdserver.security.access import PORTS


def setting(name: str, address: Address) -> str:
    """How the configuration says where a port is."""
    if name == "oip_grpc":
        return f"{name}_address={address}"
    return f"{name}_address={address.host}, {name}_port={address.port}"


async def serve(
    server: GrpcServer,
    config: Config,
    protocol: OpenInference,
    verbs: Verbs,
    guards: Guards,
    sockets: Mapping[str, Sequence[socket.socket]],
) -> None:
    """Open the ports for which there are sockets."""
    engine = protocol.engine
    inference = PortLimits(
        max_message_bytes=config.max_request_bytes,
        max_connections=guards.max_connections,
        slow_client_seconds=config.slow_client_timeout_seconds,
        max_age_ms=config.grpc_inference_max_connection_age_ms,
        max_age_grace_ms=config.grpc_inference_max_connection_age_grace_ms,
    )
    management = msgspec.structs.replace(
        inference,
        max_age_ms=config.grpc_management_max_connection_age_ms,
        max_age_grace_ms=config.grpc_management_max_connection_age_grace_ms,
    )
    open_inference = GrpcService(protocol).service()
    torchserve = Inference(engine, details=guards.keyring is None).service()
    ports: dict[str, tuple[list[Service], PortLimits]] = {
        "grpc_inference": ([torchserve, open_inference], inference),
        "grpc_management": ([Management(verbs, enable_model_api=config.enable_model_api).service()], management),
        "oip_grpc": ([open_inference], inference),
    }
    for name, (services, limits) in ports.items():
        if name not in sockets:
            continue
        names = [service.name for service in services]
        well = health.Health(lambda: engine.health().healthy, names, server.stopping).service(PORTS[name])
        reflections = reflection.Reflection([*names, health.NAME]).services(PORTS[name])
        certificate = guards.certificate if config.addresses[f"{name}_address"].tls else None
        await server.serve(sockets[name], [*services, well, *reflections], limits, guards.of(name), certificate)
