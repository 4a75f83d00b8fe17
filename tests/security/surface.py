"""All that the ports answer, taken from the code that answers it."""

from __future__ import annotations

from typing import Any

from starlette.routing import Route

from pdserver.dialects.oip import routes as oip_routes
from pdserver.dialects.oip.grpc import GrpcService
from pdserver.dialects.standard import health, reflection
from pdserver.dialects.torchserve import routes as torchserve_routes
from pdserver.dialects.torchserve.grpc import Inference
from pdserver.management import metrics, tokens
from pdserver.management.grpc import Management as GrpcManagement
from pdserver.management.rest import Management


class _Anything:
    """For what is only kept until a request comes."""

    def __getattr__(self, name: str) -> Any:
        return _Anything()


def http_routes() -> list[tuple[str, Route]]:
    """(port, route)"""
    anything: Any = _Anything()
    ports: dict[str, list[Any]] = {
        "inference": [
            *torchserve_routes.routes(anything, details=False),
            *oip_routes.application(anything).routes,
        ],
        "management": [*Management(anything, enable_model_api=True).routes(), *tokens.routes(anything)],
        "metrics": metrics.routes(anything),
    }
    return [(port, route) for port, found in ports.items() for route in found]


def rpc_methods() -> list[tuple[str, str]]:
    """(port, full name)"""
    anything: Any = _Anything()
    ports = {
        "grpc_inference": [Inference(anything, details=False).service(), GrpcService(anything).service()],
        "grpc_management": [GrpcManagement(anything, enable_model_api=True).service()],
    }
    found = []
    for port, services in ports.items():
        standard = [health.Health(anything, [], anything).service(), *reflection.Reflection([]).services()]
        for service in (*services, *standard):
            found += [(port, f"/{service.name}/{method}") for method in service.methods]
    return found
