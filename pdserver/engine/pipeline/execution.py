"""One request in a pipeline: it runs the nodes by whoever serves them, within the request's time."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping

from pdserver.configuration.model import ModelSpec
from pdserver.engine.pipeline.nodes import Target
from pdserver.engine.pipeline.trace import trace_of
from pdserver.engine.queue import Call
from pdserver.errors import DeadlineExceeded, PdError
from pdserver.pipeline.run import Plan, Result, Run, Work
from pdserver.pipeline.values import Values
from pdserver.types import Failure

OnEnd = Callable[["Execution", Call, Result | None], None]
"""Called once, with what came of the request; None: its client has left."""


class Execution:
    """`targets` are who serves the nodes, by their paths."""

    def __init__(
        self,
        spec: ModelSpec,
        call: Call,
        targets: Mapping[str, Target],
        clock: Callable[[], float],
        loop: asyncio.AbstractEventLoop,
        on_end: OnEnd,
    ) -> None:
        self.request = call.request
        self.depth = call.depth
        self.trace = trace_of(spec, call.request, call.request.headers)
        self._spec = spec
        self._call = call
        self._targets = targets
        self.clock = clock
        self._loop = loop
        self._on_end = on_end
        self._run: Run | None = None
        self._timer: asyncio.TimerHandle | None = None

    def begin(self, plan: Plan, values: Values) -> None:
        call = self._call
        call.taken = self.clock()
        call.run = self
        seconds, name = self._limit()
        self._timer = self._loop.call_later(call.arrived + seconds - call.taken, self._late, seconds, name)
        self._run = Run(plan, values, self, self._end)
        self._run.begin()

    def _limit(self) -> tuple[float, str]:
        """The seconds that it may take from its arrival, and who says so."""
        spec = self._spec
        limits = [(spec.response_timeout_seconds, "responseTimeout")]
        if self.request.timeout_seconds:
            limits.append((self.request.timeout_seconds, "the request's own limit"))
        if spec.client_timeout_seconds:
            limits.append((spec.client_timeout_seconds, "clientTimeoutInMills"))
        return min(limits)

    def _late(self, seconds: float, name: str) -> None:
        self.fail(DeadlineExceeded(f"it took longer than {seconds:g} s ({name})"))

    def fail(self, error: PdError) -> None:
        """Without effect once it has ended, as `cancel`."""
        if self._run is not None:
            self._run.cancel()
            self._end(Failure.of(error))

    def cancel(self) -> None:
        """The client has left."""
        if self._run is not None:
            self._run.cancel()
            self._end(None)

    def _end(self, result: Result | None) -> None:
        self._run = None
        if self._timer is not None:
            self._timer.cancel()
        self._call.run = None
        self._on_end(self, self._call, result)

    # As the run's executor

    def start(self, work: Work) -> None:
        try:
            self._targets[work.path].ask(work, self)
        except PdError as error:
            work.settle(Failure.of(error))

    def later(self, seconds: float, callback: Callable[[], None]) -> Callable[[], object]:
        return self._loop.call_later(seconds, callback).cancel
