"""Which services are on which gRPC port."""

from __future__ import annotations

import socket
from collections.abc import Callable, Mapping, Sequence

import msgspec

from pdserver.configuration.server import Config
from pdserver.configuration.values import Address
from pdserver.dialects.dialect import Dialect
from pdserver.dialects.rpc import Method, OtherServers, RpcCall, RpcError, Service, code_of_http
from pdserver.dialects.standard import health, reflection
from pdserver.engine.catalogue import InferenceEngine
from pdserver.errors import PdError
from pdserver.grpc.port import Access, Check, PortLimits
from pdserver.grpc.server import GrpcServer
from pdserver.security.access import PORTS
from pdserver.security.guard import Guard
from pdserver.security.guards import Guards
from pdserver.security.listening import BACKLOG
from pdserver.security.refused import Refused
from pdserver.security.tls import HANDSHAKE_SECONDS
from pdserver.system import descriptors
from pdserver.types import Failure

_INFERENCE = ("grpc_inference", "oip_grpc", "tensorflow_grpc")
"""The ports for predictions."""
_SILENT_TIMES = 3
"""As long as `slow_client_timeout`: then a client is asked whether it is there."""


def setting(name: str, address: Address) -> str:
    """How the configuration says where a port is."""
    if name in ("oip_grpc", "tensorflow_grpc"):
        return f"{name}_address={address}"
    return f"{name}_address={address.host}, {name}_port={address.port}"


def make(access: Access | None, guards: Guards, peers: OtherServers | None = None) -> GrpcServer:
    """`peers` answer for what is not served here."""
    said = "this port speaks gRPC; REST is spoken at inference_address and management_address"
    body = Refused(400, said).body()
    head = b"HTTP/1.1 400 Bad Request\r\ncontent-type: application/json\r\nconnection: close\r\n"
    answer = head + b"content-length: %d\r\n\r\n%b" % (len(body), body)
    return GrpcServer(access, guards.receiving, error_of, answer, peers)


def error_of(error: BaseException) -> RpcError | None:
    return RpcError.of(Failure.of(error)) if isinstance(error, PdError) else None


def check_of(guard: Guard) -> Check:
    def checked(method: Method, call: RpcCall, authorization: bytes | None, client: str) -> None:
        if not (method.need.guarded or guard.asks):
            return
        try:
            guard.check_page(method.need, call.metadata)
            call.token = guard.check_token(method.need, call.metadata, authorization, client)
        except Refused as refused:
            raise RpcError(code_of_http(refused.status), refused.message) from None
        call.metadata = guard.shown(call.metadata)

    return checked


async def serve(
    server: GrpcServer,
    config: Config,
    dialects: Mapping[str, Sequence[Dialect]],
    engine: InferenceEngine,
    management: Sequence[Service],
    guards: Guards,
    sockets: Mapping[str, Sequence[socket.socket]],
) -> None:
    """Open the ports for which there are sockets. `management` are the services of the port for it."""
    limits, limits_of_management = limits_of(config, guards)
    ports = {name: [service for each in dialects[name] for service in each.services] for name in _INFERENCE}
    ports["grpc_management"] = list(management)
    for name in [name for name in ports if name in sockets]:
        services = ports[name]
        certificate = guards.certificate if config.addresses[f"{name}_address"].tls else None
        tls = certificate.http2_context if certificate else None
        services += standard(services, lambda: engine.catalogue.health().healthy, server, name)
        own = limits_of_management if name == "grpc_management" else limits
        check = check_of(guards.of(name))
        await server.serve(sockets[name], services, own, guards.connections(name), check, tls)


def standard(services: Sequence[Service], healthy: Callable[[], bool], server: GrpcServer, port: str) -> list[Service]:
    """Health and reflection of these services."""
    names = [service.name for service in services]
    well = health.Health(healthy, names, server.stopping).service(PORTS[port])
    return [well, *reflection.Reflection([*names, health.NAME]).services(PORTS[port])]


def limits_of(config: Config, guards: Guards) -> tuple[PortLimits, PortLimits]:
    """The limits of the ports for inference and for management."""
    inference = PortLimits(
        max_message_bytes=config.max_request_bytes,
        max_connections=guards.max_connections,
        backlog=BACKLOG,
        handshake_seconds=HANDSHAKE_SECONDS,
        max_held_bytes=guards.receiving.capacity_bytes // 2,
        slow_client_seconds=config.slow_client_timeout_seconds,
        idle_seconds=config.grpc_idle_timeout_seconds,
        silent_seconds=_SILENT_TIMES * config.slow_client_timeout_seconds,
        has_room_for=descriptors.are_left_for,
        max_age_ms=config.grpc_inference_max_connection_age_ms,
        max_age_grace_ms=config.grpc_inference_max_connection_age_grace_ms,
    )
    management = msgspec.structs.replace(
        inference,
        max_age_ms=config.grpc_management_max_connection_age_ms,
        max_age_grace_ms=config.grpc_management_max_connection_age_grace_ms,
    )
    return inference, management
