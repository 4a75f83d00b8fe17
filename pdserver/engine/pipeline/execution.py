"""One request in a pipeline: it runs the nodes by whoever serves them, within the request's time."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Awaitable, Callable, Mapping

from pdserver.configuration.model import ModelSpec
from pdserver.engine.pipeline.nodes import Target
from pdserver.engine.pipeline.trace import trace_of
from pdserver.engine.queue import Call
from pdserver.errors import DeadlineExceeded, InvalidRequest, PdError
from pdserver.pipeline.run import MOST_WAITING, TOO_MANY, Plan, Result, Run, Work
from pdserver.pipeline.values import Values
from pdserver.types import Failure

_log = logging.getLogger("pdserver.pipeline")
_AT_ONCE = 512
"""How many runs of nodes a request may have on their way. More would hold up the event loop, and all other requests in
the nodes' queues; fewer would make small batches."""

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
        self._run: Run | asyncio.Task[None] | None = None
        """The task reads the values."""
        self._timer: asyncio.TimerHandle | None = None
        self._asked = 0
        """How many works are on their way."""
        self._due: deque[Work] = deque()
        """Works that wait until fewer are."""
        self._goes_on = False
        self._woken = False
        """Whether `_wake` is about to be called."""

    def begin(self, plan: Plan, values: Values) -> None:
        self._take()
        self._go(plan, values)

    def begin_with(self, plan: Plan, read: Callable[[], Awaitable[Values]]) -> None:
        """`begin`, once the values are read. What that raises fails the request."""
        self._take()
        self._run = self._loop.create_task(self._read(plan, read))

    async def _read(self, plan: Plan, read: Callable[[], Awaitable[Values]]) -> None:
        try:
            values = await read()
        except PdError as error:
            self._end(Failure.of(error))
        except Exception as error:  # noqa: BLE001 - as in `_go`
            self.broken(error)
        else:
            self._go(plan, values)

    def _take(self) -> None:
        call = self._call
        call.taken = self.clock()
        call.run = self
        seconds, name = self._limit()
        self._timer = self._loop.call_later(call.arrived + seconds - call.taken, self._late, seconds, name)

    def _go(self, plan: Plan, values: Values) -> None:
        self._run = Run(plan, values, self, self._end)
        try:
            self._run.begin()
        except Exception as error:  # noqa: BLE001 - whatever it is, the request has its answer
            self.broken(error)

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

    def broken(self, error: Exception) -> None:
        """The server itself has failed at it."""
        _log.error("%s: request %s failed: %r", self._spec.ref, self.request.id, error, exc_info=error)
        if self._run is not None:
            self._run.cancel()
            self._end(Failure.internal(error))

    def cancel(self) -> None:
        """The client has left."""
        if self._run is not None:
            self._run.cancel()
            self._end(None)

    def _end(self, result: Result | None) -> None:
        self._run = None
        self._due.clear()
        if self._timer is not None:
            self._timer.cancel()
        self._call.run = None
        self._on_end(self, self._call, result)

    # As the run's executor

    def start(self, work: Work) -> None:
        if len(self._due) >= MOST_WAITING:
            self.fail(InvalidRequest(TOO_MANY))
            return
        self._due.append(work)
        self._go_on()

    def _go_on(self) -> None:
        """Ask nodes, as many as may be asked now. What ends at once starts others by this loop, not by recursion."""
        if self._goes_on:
            return
        self._goes_on = True
        try:
            while self._due and self._asked < _AT_ONCE:
                work = self._due.popleft()
                if not work.over:
                    self._ask(work)
        finally:
            self._goes_on = False

    def _ask(self, work: Work) -> None:
        self._asked += 1
        work.on_over = self._answered
        try:
            self._targets[work.path].ask(work, self)
        except PdError as error:
            work.settle(Failure.of(error))

    def _answered(self) -> None:
        self._asked -= 1
        if self._due and not self._woken:
            self._woken = True
            self._loop.call_soon(self._wake)  # later: those that wait may be about to be cancelled

    def _wake(self) -> None:
        self._woken = False
        try:
            self._go_on()
        except Exception as error:  # noqa: BLE001 - as in `_go`
            self.broken(error)

    def later(self, seconds: float, callback: Callable[[], None]) -> Callable[[], object]:
        return self._loop.call_later(seconds, callback).cancel
