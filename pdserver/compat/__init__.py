"""Scripts of Paddle Serving without any change: `python -m pdserver.compat web_service.py`, or `import pdserver.compat`
before their own imports.

From then on, `paddle_serving_server` and `paddle_serving_app` are what this server has of them, even if they are
installed. Importing this does not import Paddle.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable
from types import ModuleType
from typing import Any

from pdserver import local_predict, pipeline_service
from pdserver.formats.values import nearest
from pdserver.handlers import reader
from pdserver.handlers.pipeline.failures import CustomExceptionCode

_EXTRA: dict[str, Any] = {
    "ChannelDataEcode": CustomExceptionCode,  # as it was called before 0.6
    "Request": pipeline_service.PipelineRequest,
    "Response": pipeline_service.PipelineResponse,
}
"""What only lower modules of Paddle Serving have."""
_CLIENT = "PipelineClient"
"""Is imported when it is asked for: it needs grpc."""
_MODULES: dict[str, tuple[ModuleType, tuple[str, ...]]] = {
    "paddle_serving_server": (
        pipeline_service,
        (
            *("web_service", "util", "pipeline", "pipeline.operator", "pipeline.pipeline_server", "pipeline.channel"),
            *("pipeline.error_catch", "pipeline.proto", "pipeline.proto.pipeline_service_pb2"),
        ),
    ),
    "paddle_serving_app": (
        reader,
        ("reader", "reader.image_reader", "reader.imdb_reader", "reader.chinese_bert_reader"),
    ),
}
"""The packages: where their names are here, and the modules that scripts import from."""
_MODULES["paddle_serving_server_gpu"] = _MODULES["paddle_serving_server"]


def _found_in(source: ModuleType, module: str) -> Callable[[str], Any]:
    """`__getattr__` of a module that has the names of `source`."""

    def find(name: str) -> Any:
        if name in _EXTRA and source is pipeline_service:
            return _EXTRA[name]
        if name in source.__all__:
            return getattr(source, name)
        if name == _CLIENT and source is pipeline_service:
            return importlib.import_module(f"{__name__}.client").PipelineClient
        raise AttributeError(f"{module} has no {name} here{nearest(name, source.__all__)} (docs/web-service.md)")

    return find


def _install() -> None:
    for package, (source, below) in _MODULES.items():
        for name in (package, *(f"{package}.{module}" for module in below)):
            module = ModuleType(name, f"What pdserver has of Paddle Serving's {name}.")
            # A module with a path is a package, so that modules below it can be imported.
            vars(module).update(__path__=[], __all__=list(source.__all__), __getattr__=_found_in(source, name))
            _put(name, module)
    _put("paddle_serving_app.local_predict", local_predict)


def _put(name: str, module: ModuleType) -> None:
    sys.modules[name] = module
    above, _, last = name.rpartition(".")
    if above:
        setattr(sys.modules[above], last, module)


_install()
