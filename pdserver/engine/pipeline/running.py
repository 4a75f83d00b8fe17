"""The requests in a pipeline: each is read, runs, and is answered once, its answer written in whatever process."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Mapping
from functools import partial

from pdarchiver.pipeline.graph import WEB_SERVICE, Pipeline
from pdserver.configuration.model import ModelSpec
from pdserver.engine.pipeline import web_service
from pdserver.engine.pipeline.answers import described, reply_of
from pdserver.engine.pipeline.elsewhere import (
    Elsewhere,
    is_read_elsewhere,
    is_written_elsewhere,
    reply_written,
    values_read,
)
from pdserver.engine.pipeline.execution import Execution
from pdserver.engine.pipeline.nodes import Target
from pdserver.engine.pipeline.requests import required, values_of
from pdserver.engine.queue import Call
from pdserver.errors import Overloaded, PdError, Unsupported
from pdserver.metrics.counters import ModelMetrics
from pdserver.pipeline.files import items_of_request
from pdserver.pipeline.run import Plan, Result
from pdserver.pipeline.values import JSON, Values
from pdserver.types import Answered, Failure, Interface, Outcome, Reply

_log = logging.getLogger("pdserver.pipeline")


class Running:
    """`targets` are who serves the nodes, by their paths. What another process may do is done by `elsewhere`; None: all
    is done here. `spec` and `interface` are changed by who serves the pipeline."""

    def __init__(
        self,
        spec: ModelSpec,
        pipeline: Pipeline,
        metrics: ModelMetrics,
        targets: Mapping[str, Target],
        elsewhere: Elsewhere | None,
        clock: Callable[[], float],
    ) -> None:
        self.spec = spec
        self.interface: Interface | None = None
        self._pipeline = pipeline
        self._inputs = pipeline.graph.inputs
        self._needed = required(pipeline.graph)
        self._declared = len(pipeline.graph.outputs)
        self._metrics = metrics
        self._targets = targets
        is_web_service = pipeline.contract == WEB_SERVICE
        self._values_of = web_service.values_of if is_web_service else values_of
        self._reply_of = web_service.reply_of if is_web_service else reply_of
        self._elsewhere = None if is_web_service else elsewhere  # a web service takes nothing apart itself
        self._clock = clock
        self._loop = asyncio.get_running_loop()
        self._executions: set[Execution] = set()
        self._writing: set[asyncio.Task[None]] = set()
        self._rested = asyncio.Event()

    def __len__(self) -> int:
        return len(self._executions)

    def take(self, call: Call, plan: Plan) -> None:
        """Run a request by this plan; the outcome comes by `call.settle`. Raises PdError when it is refused."""
        if len(self) >= self.spec.queue_size and not call.accepted:
            raise Overloaded(
                f"{len(self)} requests are in this pipeline already (job_queue_size); try again in a moment"
            )
        request = call.request
        if request.verb == "describe":
            call.settle(Reply(described(self._pipeline), JSON))
            return
        if request.verb == "explain":
            raise Unsupported("a pipeline explains nothing: ask for a prediction")
        execution = Execution(self.spec, call, self._targets, self._clock, self._loop, self._ended)
        if self._elsewhere is not None and is_read_elsewhere(request, self._inputs):
            self._executions.add(execution)
            read = partial(values_read, self._elsewhere, request, call.kept, self._inputs, self._needed)
            execution.begin_with(plan, read)
            return
        items = items_of_request(request.inputs, request.files, call.kept)
        values = self._values_of(request, items, self._inputs, self._needed)
        self._executions.add(execution)
        execution.begin(plan, values)

    def _ended(self, execution: Execution, call: Call, result: Result | None) -> None:
        """An execution is over. `result` None: the client has left."""
        if result is None:
            self._leave(execution)
        elif isinstance(result, Failure):
            self._settle(execution, call, result)
        elif self._elsewhere is not None and is_written_elsewhere(call.request, result, self._declared):
            task = self._loop.create_task(self._write(self._elsewhere, execution, call, result))
            self._writing.add(task)
            task.add_done_callback(self._writing.discard)
        else:
            try:
                outcome: Outcome = self._reply_of(call.request, result, self.interface, self._declared)
            except Exception as error:  # noqa: BLE001 - an answer that can't be written is answered all the same
                outcome = self._unwritten(call, error)
            self._settle(execution, call, outcome)

    async def _write(self, elsewhere: Elsewhere, execution: Execution, call: Call, outputs: Values) -> None:
        try:
            outcome: Outcome = await reply_written(elsewhere, call.request, outputs, self._declared)
        except Exception as error:  # noqa: BLE001 - as in `_ended`
            outcome = self._unwritten(call, error)
        if call.cancelled:
            self._leave(execution)
        else:
            self._settle(execution, call, outcome)

    def _unwritten(self, call: Call, error: Exception) -> Failure:
        if isinstance(error, PdError):
            return Failure.of(error)
        _log.error("%s: the answer to request %s could not be made", self.spec.ref, call.request.id, exc_info=error)
        return Failure.internal(error)

    def _settle(self, execution: Execution, call: Call, outcome: Outcome) -> None:
        self._leave(execution)
        now = self._clock()
        if execution.trace is not None:
            execution.trace.end(call.arrived, now, outcome.message if isinstance(outcome, Failure) else "")
        metrics = self._metrics
        if isinstance(outcome, Failure):
            metrics.failed[outcome.kind] += 1
            metrics.failed_seconds += now - call.arrived
        metrics.batch([call], Answered(0, [outcome], now - call.taken), now)
        try:
            call.settle(outcome)
        except Exception as error:  # noqa: BLE001 - an answer that can't be sent is answered all the same
            _log.exception("%s: the answer to request %s could not be written", self.spec.ref, call.request.id)
            call.settle(Failure.internal(error))
        if not isinstance(outcome, Failure):
            metrics.succeed([call], now)

    def _leave(self, execution: Execution) -> None:
        self._executions.discard(execution)
        if not self._executions:
            self._rested.set()

    async def rest(self, seconds: float) -> None:
        """Until none is left, or for this time, or until `rouse`."""
        self._rested.clear()
        with contextlib.suppress(asyncio.TimeoutError):
            await asyncio.wait_for(self._rested.wait(), seconds)

    def rouse(self) -> None:
        self._rested.set()

    def fail(self, error: PdError) -> None:
        """End all that run. Those whose answers are being written get them."""
        for execution in list(self._executions):
            execution.fail(error)
