"""The one table that says which scope a call needs, for REST and gRPC alike.

What is not in it needs its port's own scope, so that a route nobody thought of is never open.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from urllib.parse import unquote_to_bytes

from pdserver.security.tokens import Scope

Allowed = frozenset[Scope]
"""The scopes of which a token must have one; empty: nobody is asked."""

OPEN: Allowed = frozenset()
ADMIN: Allowed = frozenset({Scope.ADMIN})
MANAGEMENT: Allowed = frozenset({Scope.MANAGEMENT, Scope.ADMIN})
INFERENCE: Allowed = frozenset({Scope.INFERENCE, Scope.ADMIN})
ANY: Allowed = frozenset(Scope)

_HEALTH = "/grpc.health.v1.Health"
_OIP = "/inference.GRPCInferenceService"
_OPEN_HTTP: Mapping[bytes, Allowed] = dict.fromkeys((b"/ping", b"/v2/health/live", b"/v2/health/ready"), OPEN)
_OIP_CALLS: Mapping[bytes, Allowed] = {
    f"{_OIP}/{method}".encode(): allowed
    for allowed, methods in {
        OPEN: ("ServerLive", "ServerReady"),
        MANAGEMENT: (
            *("RepositoryIndex", "RepositoryModelLoad", "RepositoryModelUnload"),
            *("TraceSetting", "LogSettings"),
        ),
    }.items()
    for method in methods
}
_OPEN_GRPC: Mapping[bytes, Allowed] = {f"{_HEALTH}/{method}".encode(): OPEN for method in ("Check", "Watch")}
_OPERATORS = re.compile(r"/v2/+(repository|logging|trace|models/.*/trace)/")
"""Paths of the Open Inference Protocol that change what is served, or how it is logged."""
_PORTS: Mapping[str, Allowed] = {
    "inference": INFERENCE,
    "oip": INFERENCE,
    "management": MANAGEMENT,
    "metrics": ANY,
    "grpc_inference": INFERENCE,
    "oip_grpc": INFERENCE,
    "grpc_management": MANAGEMENT,
}
_EXCEPTIONS: Mapping[str, Mapping[bytes, Allowed]] = {
    "inference": _OPEN_HTTP,
    "oip": _OPEN_HTTP,
    "management": {b"/token": ADMIN},
    "metrics": {},
    "grpc_inference": {
        **_OPEN_GRPC,
        **_OIP_CALLS,
        b"/org.pytorch.serve.grpc.inference.InferenceAPIsService/Ping": OPEN,
    },
    "oip_grpc": {**_OPEN_GRPC, **_OIP_CALLS},
    "grpc_management": _OPEN_GRPC,
}


class Rules:
    """Of one port."""

    def __init__(self, port: str, *, metrics_open: bool) -> None:
        self._port = OPEN if port == "metrics" and metrics_open else _PORTS[port]
        self._exceptions = _EXCEPTIONS[port]

    def allowed(self, path: bytes) -> Allowed:
        """For a path as it was sent, without its query, or for a gRPC method's full name.

        Only what is spelled exactly like an exception is open: another spelling of the same route is not. What needs
        more than the port does is recognised in every spelling that the router takes for it.
        """
        exception = self._exceptions.get(path)
        if exception is not None:
            return exception
        if self._port == INFERENCE and _OPERATORS.match(unquote_to_bytes(path).decode("utf-8", "replace") + "/"):
            return MANAGEMENT
        return ADMIN if self._exceptions.get(unquote_to_bytes(path)) == ADMIN else self._port
