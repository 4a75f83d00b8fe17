"""The handler of a web service: runs its Ops, in an order in which each comes after those that it takes from."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from pdarchiver import encryption
from pdserver.errors import ConfigError, InvalidRequest
from pdserver.handlers.context import Context
from pdserver.handlers.pipeline import old_numpy, script, settings
from pdserver.handlers.pipeline.config import OpConfig
from pdserver.handlers.pipeline.failures import CustomExceptionCode, raise_product_error
from pdserver.handlers.pipeline.flow import Flow, Task
from pdserver.handlers.pipeline.local_predictor import LocalPredictor
from pdserver.handlers.pipeline.op import ChannelData, Op, PipelineRequest, PipelineResponse
from pdserver.handlers.pipeline.run import Stage
from pdserver.handlers.runtime import sections
from pdserver.handlers.runtime.answers import PredictionException
from pdserver.handlers.runtime.parts import opened

ERROR_HEADER = "x-pipeline-err-no"
"""On an answer that is a failure: its number. Pipeline's dialect reads it there, and writes the next one."""
_LOG_ID_HEADER = "x-pipeline-logid"


class PipelineHandler:
    """The operator's script says what the service is. It runs once more in each worker, up to `run_service`."""

    def initialize(self, context: Context) -> None:
        """Raises ArchiveUnusable, ConfigError, LoadFailed, and what the operator's own code raises."""
        old_numpy.write_scalars_as_before()
        service = script.run(sections.read(script.Script, script.SECTION, context.model_yaml_config))
        self._request_op, self._response_op = service.request_op, service.response_op
        self._ids = itertools.count()
        self._ops = service.ops
        self._request_op.init_op()
        self._response_op.init_op()
        stages: list[Stage] = []
        for op in service.ops:
            config = service.config.ops[op.name]
            _load(op, config, context.system_properties["gpu_id"])
            op.init_op()
            stages.append(Stage(op, config.keys.batch_size))
        self._flow = Flow(stages)

    def handle(self, data: list[dict[str, Any]], context: Context) -> list[Any]:
        """One answer for each request: texts by name. A failure has its text, an HTTP status and ERROR_HEADER."""
        if context.verb == "explain":
            return [PredictionException("a web service explains nothing", 501)] * len(data)
        if context.verb == "describe":
            return [self._described()] * len(data)
        tasks = [Task(next(self._ids), 0) for _ in data]
        given = [
            self._given(task, row, context.get_request_header(idx, _LOG_ID_HEADER))
            for idx, (task, row) in enumerate(zip(tasks, data, strict=True))
        ]
        self._flow.run(tasks, given)
        return [self._answer(task, idx, context) for idx, task in enumerate(tasks)]

    def _described(self) -> dict[str, Any]:
        """The Ops in their order, and what their models take and give."""
        clients = {op.name: op.client for op in self._ops}
        return {
            name: {"inputs": client.feed_names_, "outputs": client.fetch_names_} if client else {}
            for name, client in clients.items()
        }

    def _given(self, task: Task, row: dict[str, Any], log_id_text: str | None) -> dict[str, Any]:
        """What a request says to the first Ops."""
        given: dict[str, Any] = {}
        with task.failing("the request"):
            request = _request(row, log_id_text or "0")
            given, log_id, number, text = self._request_op.unpack_request_package(request)
            raise_product_error(number, text)
            task.log_id = log_id or 0
        return given

    def _answer(self, task: Task, idx: int, context: Context) -> Any:
        response = PipelineResponse()
        if task.answer is not None:
            with task.failing("the answer"):
                channel = ChannelData(task.data_id, task.log_id, 0, "", task.answer)
                response = self._response_op.pack_response_package(channel)
        failure = task.failure
        if failure is not None:
            channel = ChannelData(task.data_id, task.log_id, failure.number, str(failure))
            response = self._response_op.pack_response_package(channel)
        if not response.err_no:
            return dict(zip(response.key, response.value, strict=True))
        context.set_response_status(_status(response.err_no), idx=idx)
        context.set_response_header(idx, ERROR_HEADER, str(response.err_no))
        return response.err_msg


def _load(op: Op, config: OpConfig, device_id: int | None) -> None:
    op._fetch_names = config.fetch_list
    if config.model is None or config.model.model_config is None:
        return
    running = settings.predictor(config.model, op.dynamic_shape_info)
    op.client = LocalPredictor()
    key = _key(op.name, config.keys.encryption_key)
    op.client.load(Path(config.model.model_config), running, device_id if config.model.on_gpu else None, key)
    op.client.check_fetch(config.fetch_list)


def _key(name: str, file: str) -> bytes:
    """Raises ConfigError."""
    try:
        return encryption.read_key(Path(file)) if file else b""
    except (OSError, ValueError) as error:
        raise ConfigError(f"op.{name}.encryption_key={file}: {error}") from None


def _request(row: dict[str, Any], log_id: str) -> PipelineRequest:
    """Keys and values as Pipeline's protocol has them, or as JSON, or as a form."""
    values: Mapping[str, Any] = row
    if row.keys() == {"body"} and isinstance(body := opened(row["body"]), dict):
        values = body
        if body.keys() >= {"key", "value"} and isinstance(body["key"], list) and isinstance(body["value"], list):
            values = _paired(body["key"], body["value"])
    request = PipelineRequest(logid=int(log_id) if log_id.removeprefix("-").isdecimal() else 0)
    for name, value in values.items():
        if isinstance(value, np.ndarray):
            request.arrays[name] = value if value.flags.writeable else value.copy()
        else:
            request.key.append(name)
            request.value.append(_text(value))
    return request


def _paired(names: list[Any], values: list[Any]) -> dict[str, Any]:
    """Raises InvalidRequest."""
    if len(names) != len(values) or not all(isinstance(name, str) for name in names):
        raise InvalidRequest(f"{len(names)} keys, {len(values)} values: expected one value for each key, which is text")
    return dict(zip(names, values, strict=True))


def _text(value: Any) -> Any:
    """Pipeline's values are texts; what is not UTF-8 stays bytes."""
    if not isinstance(value, bytearray):
        return value
    try:
        return value.decode()
    except UnicodeDecodeError:
        return bytes(value)


def _status(number: int) -> int:
    """400 for what is wrong with the request, and for what the operator's own code says of it."""
    of_request = number in (CustomExceptionCode.INPUT_PARAMS_ERROR.value, CustomExceptionCode.RPC_PACKAGE_ERROR.value)
    return 400 if of_request or 50 <= number <= 99 else 500
