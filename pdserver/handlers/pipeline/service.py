"""The handlers of a web service: all of its Ops in a row, or one of them.

The operator's script says what the service is. It runs once more in each worker, up to `run_service`.
"""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

from pdarchiver import encryption
from pdserver.errors import ConfigError
from pdserver.handlers.context import Context
from pdserver.handlers.pipeline import exchange, old_numpy, parcels, script, settings
from pdserver.handlers.pipeline.config import OpConfig
from pdserver.handlers.pipeline.failures import OpFailed
from pdserver.handlers.pipeline.flow import Flow, Task
from pdserver.handlers.pipeline.local_predictor import LocalPredictor
from pdserver.handlers.pipeline.op import READER, Op, RequestOp
from pdserver.handlers.pipeline.run import Stage, Step
from pdserver.handlers.runtime import sections
from pdserver.handlers.runtime.answers import PredictionException

OP = "webServiceOp"
"""Of the YAML of an Op in processes of its own: its name."""


class PipelineHandler:
    """All Ops in a row, in an order in which each comes after those that it takes from."""

    def initialize(self, context: Context) -> None:
        """Raises ArchiveUnusable, ConfigError, LoadFailed, and what the operator's own code raises."""
        service = _service(context)
        self._request_op, self._response_op = service.request_op, service.response_op
        self._ids = itertools.count()
        self._ops = service.ops
        self._request_op.init_op()
        self._response_op.init_op()
        self._flow = Flow([_stage(op, service.config.ops[op.name], context) for op in service.ops])

    def handle(self, data: list[dict[str, Any]], context: Context) -> list[Any]:
        """One answer for each request: texts by name. A failure has its text, an HTTP status and ERROR_HEADER."""
        if context.verb == "explain":
            return [PredictionException("a web service explains nothing", 501)] * len(data)
        if context.verb == "describe":
            return [self._described()] * len(data)
        tasks = [Task(next(self._ids), 0) for _ in data]
        given = [
            exchange.given(self._request_op, task, row, context.get_request_header(idx, exchange.LOG_ID_HEADER))
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

    def _answer(self, task: Task, idx: int, context: Context) -> Any:
        answer = exchange.answered(self._response_op, task, task.answer)
        if answer.number:
            context.set_response_status(answer.status, idx=idx)
            context.set_response_header(idx, exchange.ERROR_HEADER, str(answer.number))
        return answer.body


class OpHandler:
    """One Op, as a node of a pipeline that `pdserver.pipeline_service.separate` writes.

    A row has `request` and `names`, what the client sent, if the Op takes from the request. Of each other Op it has,
    by that Op's place among those that it takes from, `head0` and the parcel `said0`, `arrays0`, `pieces0`. The answer
    is a head and a parcel. The last Op's is `answer` as it is sent, and `head` if that says no success. What fails goes
    on as a failure, past the hooks of all further Ops.
    """

    def initialize(self, context: Context) -> None:
        """As PipelineHandler's."""
        service = _service(context)
        name = context.model_yaml_config[OP]
        op = next((op for op in service.ops if op.name == name), None)
        if op is None:
            raise ConfigError(f"the script has no Op {name} any more: start the service from anew")
        self._stage = _stage(op, service.config.ops[name], context)
        self._takes = list(dict.fromkeys(each.name for each in op.get_input_ops()))
        self._ids = itertools.count()
        self._request_op: RequestOp | None = None
        if READER in self._takes:
            self._request_op = service.request_op
            self._request_op.init_op()
        self._response_op = service.response_op
        self._is_last = op is service.ops[-1]
        if self._is_last:
            self._response_op.init_op()

    def handle(self, data: list[dict[str, Any]], context: Context) -> list[dict[str, Any]]:
        """Each row's answer."""
        headers = [context.get_request_header(idx, exchange.LOG_ID_HEADER) for idx in range(len(data))]
        steps = list(map(self._step, data, headers))
        self._stage.run([step for step in steps if step.failure is None])
        return list(map(self._given, steps))

    def _step(self, row: dict[str, Any], log_id: str | None) -> Step:
        step = Step(0, 0)
        for index, name in enumerate(self._takes):
            if name == READER and self._request_op is not None:
                step.data_id = next(self._ids)
                sent = dict(zip(row["names"], row["request"], strict=True))
                step.inputs[name] = exchange.given(self._request_op, step, sent, log_id)
                continue
            head = row[f"head{index}"]
            step.data_id, step.log_id = head["data_id"], head["log_id"]
            if head["failure"]:
                step.failure = OpFailed(*head["failure"])
            else:
                step.inputs[name] = parcels.opened(*(row[f"{part}{index}"] for part in parcels.Parcel._fields))
        return step

    def _given(self, step: Step) -> dict[str, Any]:
        if self._is_last:
            answer = exchange.answered(self._response_op, step, None if step.failure else step.answer)
            if not answer.number:
                return {"answer": answer.body}
            headers = {exchange.ERROR_HEADER: str(answer.number)}
            return {"answer": answer.body, "head": {"status": answer.status, "headers": headers}}
        parcel = parcels.Parcel("", [], [])
        if step.failure is None:
            with step.failing(f"[{self._stage.op.name}] postprocess"):
                parcel = parcels.packed(step.answer, f"[{self._stage.op.name}] postprocess")
        failure = [step.failure.number, str(step.failure)] if step.failure else None
        head = {"data_id": step.data_id, "log_id": step.log_id, "failure": failure}
        return {"head": head, **parcel._asdict()}


def _service(context: Context) -> script.Service:
    old_numpy.write_scalars_as_before()
    return script.run(sections.read(script.Script, script.SECTION, context.model_yaml_config))


def _stage(op: Op, config: OpConfig, context: Context) -> Stage:
    """The Op, loaded."""
    op._fetch_names = config.fetch_list
    if config.model is not None and config.model.model_config is not None:
        device_id = context.system_properties["gpu_id"] if config.model.on_gpu else None
        running = settings.predictor(config.model, op.dynamic_shape_info)
        op.client = LocalPredictor()
        key = _key(op.name, config.keys.encryption_key)
        op.client.load(Path(config.model.model_config), running, device_id, key)
        op.client.check_fetch(config.fetch_list)
    op.init_op()
    return Stage(op, config.keys.batch_size)


def _key(name: str, file: str) -> bytes:
    """Raises ConfigError."""
    try:
        return encryption.read_key(Path(file)) if file else b""
    except (OSError, ValueError) as error:
        raise ConfigError(f"op.{name}.encryption_key={file}: {error}") from None
