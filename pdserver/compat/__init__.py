"""Scripts of Paddle Serving without any change: `python -m pdserver.compat web_service.py`, or `import pdserver.compat`
before their own imports.

From then on, `paddle_serving_server` and `paddle_serving_app` are what this server has of them, even if they are
installed. Importing this does not import Paddle.
"""

from __future__ import annotations

import importlib
from typing import Any

from pdserver import pipeline_service
from pdserver.handlers.pipeline.failures import CustomExceptionCode
from pdserver.pipeline_service.modules import put, put_app

_EXTRA: dict[str, Any] = {
    "ChannelDataEcode": CustomExceptionCode,  # as it was called before 0.6
    "Request": pipeline_service.PipelineRequest,
    "Response": pipeline_service.PipelineResponse,
}
"""What only lower modules of Paddle Serving have."""
_CLIENT = "PipelineClient"
"""Is imported when it is asked for: it needs grpc."""
_SERVERS = ("paddle_serving_server", "paddle_serving_server_gpu")
_BELOW = (
    *("web_service", "util", "pipeline", "pipeline.operator", "pipeline.pipeline_server", "pipeline.channel"),
    *("pipeline.error_catch", "pipeline.proto", "pipeline.proto.pipeline_service_pb2"),
)
"""The modules that scripts import from."""


def _more(name: str) -> Any:
    if name == _CLIENT:
        return importlib.import_module(f"{__name__}.client").PipelineClient
    return _EXTRA.get(name)


def _install() -> None:
    for package in _SERVERS:
        for name in (package, *(f"{package}.{below}" for below in _BELOW)):
            put(name, pipeline_service.__all__, lambda wanted: getattr(pipeline_service, wanted), _more)
    put_app()


_install()
