"""All that the ports answer, and what each call needs, taken from the code that answers it."""

from __future__ import annotations

import functools
from typing import Any

from starlette.routing import BaseRoute

from pdserver.dialects.oip import routes as oip_routes
from pdserver.dialects.oip.grpc import GrpcService
from pdserver.dialects.paddle import pages as paddle_routes
from pdserver.dialects.paddle.pipeline_service import PipelineService
from pdserver.dialects.paddle.service import GeneralService
from pdserver.dialects.standard import health, reflection
from pdserver.dialects.tensorflow import routes as tensorflow_routes
from pdserver.dialects.tensorflow.grpc import GrpcServices
from pdserver.dialects.torchserve import routes as torchserve_routes
from pdserver.dialects.torchserve.grpc import Inference
from pdserver.management import metrics, tokens
from pdserver.management.grpc import Management as GrpcManagement
from pdserver.management.rest import Management
from pdserver.management.workflows import WorkflowManagement
from pdserver.security.access import ANY, PORTS, Need, undeclared
from pdserver.security.routes import Route, Rules


class _Anything:
    """For what is only kept until a request comes."""

    def __getattr__(self, name: str) -> Any:
        return _Anything()


def ports() -> dict[str, list[BaseRoute]]:
    """The routes of each HTTP port, as the server has them."""
    anything: Any = _Anything()
    return {
        "inference": [
            *torchserve_routes.routes(anything, details=False),
            *oip_routes.routes(anything),
            *tensorflow_routes.routes(anything),
            *paddle_routes.routes(anything),
        ],
        "oip": list(oip_routes.routes(anything)),
        "tensorflow": list(tensorflow_routes.routes(anything)),
        "management": [
            *Management(anything, enable_model_api=True).routes(),
            *WorkflowManagement(anything, enable_model_api=True).routes(),
            *tokens.routes(anything),
        ],
        "metrics": metrics.routes(anything, ANY),
    }


def http_routes() -> list[tuple[str, Route]]:
    """(port, route)"""
    found = []
    for port, routes in ports().items():
        for route in [each for outer in routes for each in (getattr(outer, "routes", None) or [outer])]:
            assert isinstance(route, Route), f"{port}: {route} does not say what it needs"
            found.append((port, route))
    return found


@functools.cache
def rules(port: str) -> Rules:
    """With tokens asked for on the metrics port as well."""
    return Rules(ports()[port], undeclared(port))


def rpc_methods() -> list[tuple[str, str, Need]]:
    """(port, full name, what it needs)"""
    anything: Any = _Anything()
    oip = GrpcService(anything).service()
    services = {
        "grpc_inference": [
            Inference(anything, anything, sequence_header="", details=False).service(),
            oip,
            GeneralService(anything, anything, anything).service(),
            PipelineService(anything, anything, anything).service(),
            *GrpcServices(anything, anything, anything, as_content=False, limit_bytes=1).services(),
        ],
        "oip_grpc": [oip],
        "grpc_management": [GrpcManagement(anything, enable_model_api=True).service()],
    }
    found = []
    for port, own in services.items():
        standard = [
            health.Health(anything, [], anything).service(PORTS[port]),
            *reflection.Reflection([]).services(PORTS[port]),
        ]
        for service in (*own, *standard):
            found += [(port, f"/{service.name}/{name}", method.need) for name, method in service.methods.items()]
    return found
