"""What the ports of predictions speak besides HTTP/1.1: gRPC, and brpc's PRPC."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import msgspec

from pdserver.configuration.server import Config
from pdserver.dialects.dialect import Dialect
from pdserver.engine.catalogue import InferenceEngine
from pdserver.grpc.connection import GrpcConnection
from pdserver.grpc.http2.frames import PREFACE
from pdserver.grpc.port import Access
from pdserver.grpc.server import GrpcServer
from pdserver.http.other_protocols import OtherProtocols
from pdserver.prpc.connection import PrpcConnection
from pdserver.prpc.frames import MAGIC
from pdserver.prpc.port import PrpcPort, by_name
from pdserver.security.guards import Guards
from pdserver.server import grpc_ports
from pdserver.system.connections import Connections

PORTS = frozenset({"inference", "paddle_serving"})
"""The ports of which one is for all protocols."""


class OnePort:
    """Makes what speaks other protocols. Their calls need the same as on the gRPC port for predictions, and what HTTP
    restricts is restricted for them, too."""

    def __init__(
        self,
        config: Config,
        dialects: Mapping[str, Sequence[Dialect]],
        engine: InferenceEngine,
        guards: Guards,
        access: Access | None,
        grpc: GrpcServer | None,
    ) -> None:
        """Without `grpc`, gRPC is not spoken."""
        self._config = config
        self._dialects = dialects
        self._engine = engine
        self._guards = guards
        self._access = access
        self._grpc = grpc

    def protocols(self, port: str, connections: Connections) -> OtherProtocols:
        """The other protocols of a port, whose connections are all in `connections`."""
        if port not in PORTS:
            return {}
        config, guards = self._config, self._guards
        services = [service for each in self._dialects[port] for service in each.services]
        limits = grpc_ports.limits_of(config, guards)[0]
        check = grpc_ports.check_of(guards.beside_http())
        prpc = PrpcPort(
            services=by_name(services),
            limits=msgspec.structs.replace(limits, idle_seconds=config.idle_timeout_seconds),
            memory=guards.receiving,
            check=check,
            error_of=grpc_ports.error_of,
            access=self._access,
            peers=self._grpc.peers if self._grpc is not None else None,
            connections=connections,
        )
        found: dict[bytes, Any] = {MAGIC: partial(PrpcConnection, prpc)}
        if self._grpc is not None:
            catalogue = self._engine.catalogue
            standard = grpc_ports.standard(services, lambda: catalogue.health().healthy, self._grpc, "grpc_inference")
            shared = self._grpc.port([*services, *standard], limits, connections, check)
            found[PREFACE] = partial(GrpcConnection, shared)
        return found
