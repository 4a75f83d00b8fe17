"""The classes that a user's script derives from and starts.

Names and methods are those of web_service.py and pipeline/pipeline_server.py of paddle_serving_server 0.9.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NoReturn

from pdarchiver.manifest import check_name
from pdarchiver.usage import USAGE_STATUS
from pdserver.errors import ConfigError, PdError
from pdserver.handlers.pipeline import graph, script
from pdserver.handlers.pipeline.config import ServiceConfig, read
from pdserver.handlers.pipeline.op import Op, RequestOp, ResponseOp, arguments
from pdserver.pipeline_service import launch
from pdserver.pipeline_service.arguments import read_file
from pdserver.system.standard_streams import say


class PipelineServer:
    """One service: a name, Ops, a config.yml."""

    config: ServiceConfig
    request_op: RequestOp
    response_op: ResponseOp
    ops: list[Op]

    def __init__(self, name: str) -> None:
        with _refusals():
            try:
                self.name = check_name(name)
            except ValueError as error:
                raise ConfigError(f"the service's {error}") from None

    def set_response_op(self, response_op: ResponseOp) -> None:
        """`response_op` packs the answers, and names the last Op as its input."""
        self.response_op = response_op

    def prepare_server(self, yml_file: str | None = None, yml_dict: dict[str, Any] | None = None) -> None:
        """Read the configuration: a file, or its content. What is wrong with it or the Ops ends the script."""
        with _refusals():
            if (yml_file is None) == (yml_dict is None):
                raise ConfigError("expected one of yml_file and yml_dict")
            inputs = self.response_op.get_input_ops()
            if len(inputs) != 1:
                raise ConfigError(f"ResponseOp: {len(inputs)} input_ops: name the last Op alone")
            self.request_op, self.ops = graph.order(inputs[0])
            given = yml_dict if yml_file is None else read_file(yml_file)
            own = {op.name: arguments(op) for op in self.ops}
            self.config = read(given, own, yml_file or "yml_dict")

    def run_server(self) -> NoReturn:
        """Become the server: this process runs nothing of the script any more, the server's workers do."""
        script.hand_over(self)
        with _refusals():
            for warning in self.config.warnings:
                say(f"pdserver: warning: {warning}", error=True)
            command = launch.command(self)
        sys.stdout.flush()
        sys.stderr.flush()
        os.execv(sys.executable, command)  # noqa: S606


class WebService:
    """A service whose Ops `get_pipeline_response` gives."""

    def __init__(self, name: str = "default_service") -> None:
        self.name = name
        self._server = PipelineServer(name)

    def get_pipeline_response(self, read_op: RequestOp) -> Op | None:
        """The last of the service's Ops; the first ones have `read_op` among their `input_ops`."""
        return None

    def prepare_pipeline_config(self, yml_file: str | None = None, yml_dict: dict[str, Any] | None = None) -> None:
        """As `PipelineServer.prepare_server`."""
        with _refusals():
            last = self.get_pipeline_response(RequestOp())
            if not isinstance(last, Op):
                raise ConfigError(f"get_pipeline_response returned {type(last).__name__}: return the last Op")
            self._server.set_response_op(ResponseOp(last))
        self._server.prepare_server(yml_file, yml_dict)

    def run_service(self) -> NoReturn:
        """As `PipelineServer.run_server`."""
        self._server.run_server()

    def load_model_config(self, *_: object, **__: object) -> NoReturn:
        """Part of the web services before Pipeline, which had no Ops."""
        with _refusals():
            raise ConfigError(
                "load_model_config: web services without Ops are not run: serve the folder (pdserver serve --model"
                " FOLDER --name NAME --port PORT), and POST /NAME/prediction answers; or make Ops of preprocess and"
                " postprocess (docs/web-service.md)"
            )
        raise AssertionError


@contextmanager
def _refusals() -> Iterator[None]:
    """In a worker, let errors of the configuration through. Where the operator has started the script, say what is
    wrong and end it."""
    try:
        yield
    except PdError as error:
        if script.in_worker():
            raise
        for line in str(error).splitlines():
            say(f"pdserver: {line}", error=True)
        raise SystemExit(USAGE_STATUS if isinstance(error, ConfigError) else 1) from None
