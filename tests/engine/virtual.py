"""Time that passes only when nothing is left to do, and workers that live and die as a test wants: no process, no wait.

What is tested is the engine's own Pool. The oracle sees every request go in, be run and be settled.
"""

from __future__ import annotations

import asyncio
import math
import selectors
from collections import deque
from collections.abc import Callable, Coroutine, Mapping
from typing import Any, TypeVar

from pdserver.configuration.model import ModelSpec
from pdserver.engine.pool import Pool
from pdserver.engine.queue import Call
from pdserver.errors import Kind, LoadFailed, PdError, WorkerDied
from pdserver.metrics.counters import ModelMetrics
from pdserver.types import Answered, Failure, Interface, Outcome, Part, Reply, Request, RunningEngine

T = TypeVar("T")
WARM_UP = "warm-up"
"""Ids of requests that workers answer before they serve begin so."""


class _Jump(selectors.SelectSelector):
    """Instead of waiting, it sets the clock forward."""

    now = 0.0
    turns = 0
    on_turn: Callable[[int], None] = staticmethod(lambda turn: None)

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        self.turns += 1
        self.on_turn(self.turns)
        ready = super().select(0)
        if not ready:
            assert timeout is not None, "everybody waits for something that will never happen"
            self.now += max(0.0, timeout)
        return ready


class VirtualLoop(asyncio.SelectorEventLoop):
    """What is done in threads is done here, `THREAD_SECONDS` later, whether somebody still waits for it or not."""

    THREAD_SECONDS = 0.005

    def __init__(self) -> None:
        self._jump = _Jump()
        super().__init__(self._jump)

    def time(self) -> float:
        return self._jump.now

    def at_turn(self, turn: int, callback: Callable[[], object]) -> None:
        """Call back before the loop has gone round so many times more."""
        due = self._jump.turns + turn

        def look(now: int) -> None:
            if now == due:
                callback()

        self._jump.on_turn = look

    def run_in_executor(self, executor: Any, func: Callable[..., T], *args: Any) -> asyncio.Future[T]:  # type: ignore[override]
        future: asyncio.Future[T] = self.create_future()

        def run() -> None:
            try:
                result = func(*args)
            except Exception as error:
                if not future.done():
                    future.set_exception(error)
            else:
                if not future.done():
                    future.set_result(result)

        self.call_later(self.THREAD_SECONDS, run)
        return future


class FakeWorker:
    """Answers `seconds` after it was asked, unless a request of the batch makes it die or hang."""

    def __init__(self, backend: FakeBackend, number: int) -> None:
        self.id = self.pid = number
        self._backend = backend
        self._end: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self._callbacks: list[Callable[[], None]] = []
        self._asked: deque[list[Request]] = deque()
        self._on_answered: Callable[[Answered], None] = lambda answers: None
        self._timer: asyncio.TimerHandle | None = None
        self.size = 0

    async def load(self, spec: ModelSpec, device_id: int | None) -> Interface:
        await self._wait(self._backend.load_seconds)
        if self._backend.broken:
            raise LoadFailed("it is broken")
        return Interface([], [], batched=False, engines=(RunningEngine(self._backend.engine),))

    def serve(self, on_answered: Callable[[Answered], None], on_chunk: Callable[[int, Reply], None]) -> None:
        self._on_answered = on_answered

    def send(self, requests: list[Request]) -> None:
        assert not self._end.done(), "it is asked though it is known to be dead"
        self._asked.append(requests)
        if len(self._asked) == 1:
            self._begin()

    def _begin(self) -> None:
        """Run the oldest batch."""
        requests = self._asked[0]
        self._backend.oracle.begun(requests)
        ops = {request.path for request in requests}
        if "die" in ops:
            self.kill("exited with status 3")
        elif "hang" not in ops:
            seconds = self._backend.seconds + self._backend.row_seconds * len(requests)
            self._timer = asyncio.get_running_loop().call_later(seconds, self._answer, requests, seconds)

    def _answer(self, requests: list[Request], seconds: float) -> None:
        self._asked.popleft()
        if self._asked:
            self._begin()
        self._on_answered(Answered(0, self._backend.answers(requests), seconds))

    async def _wait(self, seconds: float) -> None:
        """Raises WorkerDied when it dies meanwhile."""
        await asyncio.wait([self._end], timeout=seconds)
        if self._end.done():
            raise await self.death()

    async def death(self) -> WorkerDied:
        reason = self._end.result()
        return WorkerDied(f"worker {self.id} {reason}", killed="SIGKILL" in reason)

    def on_death(self, callback: Callable[[], None]) -> None:
        if self._end.done():
            callback()
        else:
            self._callbacks.append(callback)

    def memory_bytes(self) -> int:
        return self.size

    def give_way(self) -> None:
        """Time passes for all alike here."""

    async def stand(self) -> None:
        """Likewise."""

    def kill(self, reason: str) -> None:
        if not self._end.done():
            self._end.set_result(reason)
            self._backend.alive.discard(self)
            if self._timer is not None:
                self._timer.cancel()
            if self._asked:
                self._backend.oracle.died_with(self._asked[0])
            for callback in self._callbacks:
                callback()

    abort = kill

    async def stop(self, grace_seconds: float) -> None:
        self.kill("was stopped")


class FakeBackend:
    def __init__(self, oracle: Oracle) -> None:
        self.oracle = oracle
        self.alive: set[FakeWorker] = set()
        self.load_seconds = 0.05
        self.seconds = 0.01
        """That a batch takes, whatever its size."""
        self.row_seconds = 0.0
        """That each of its requests takes besides."""
        self.engine = "paddle"
        """That runs the model in workers to come."""
        self.broken = False
        self.full = False
        """There is no room for another process."""
        self.orphaned = 0
        """So many times, the nursery dies when it is asked for a worker."""
        self.spawned = 0

    async def spawn(self, spec: ModelSpec) -> FakeWorker:
        if self.full:
            raise WorkerDied("no worker could be started: Resource temporarily unavailable")
        if self.orphaned:
            self.orphaned -= 1
            raise WorkerDied("no worker could be started: the nursery ended; see the log", blameless=True)
        self.spawned += 1
        worker = FakeWorker(self, self.spawned)
        self.alive.add(worker)
        return worker

    def answers(self, requests: list[Request]) -> list[Outcome]:
        """Each its own: the input."""
        return [
            Failure(Kind.INVALID, "it does not fit") if request.path == "fail" else Reply(request.inputs[0].data, "")
            for request in requests
        ]

    async def close(self) -> None:
        """Nothing is left to end."""


class SeenCall(Call):
    """Notes what became of it."""

    def __init__(self, request: Request, clock: Callable[[], float]) -> None:
        super().__init__(request, clock())
        self.clock = clock
        self.settled_at = math.inf
        self.settled: list[Outcome] = []
        self.runs: list[float] = []
        self.deaths = 0

    def chunk(self, piece: Reply) -> None:
        """Only how it ends is looked at."""

    def settle(self, outcome: Outcome) -> None:
        self.settled_at = self.clock()
        self.settled.append(outcome)


class Oracle:
    """What may become of a request, whatever happens to the workers."""

    def __init__(self, spec: ModelSpec, clock: Callable[[], float]) -> None:
        self._spec = spec
        self._clock = clock
        self.calls: dict[str, SeenCall] = {}
        self.largest = spec.batch_size
        self.batches: list[int] = []
        """The number of requests in each."""
        self.warm_ups: list[str] = []
        """The requests that no client has asked."""

    def begun(self, requests: list[Request]) -> None:
        """A worker has been given these."""
        if requests[0].id.startswith(WARM_UP):
            [request] = requests
            self.warm_ups.append(request.id)
            return
        self.batches.append(len(requests))
        assert sum(request.rows for request in requests) <= self.largest
        for request in requests:
            call = self.calls[request.id]
            assert not call.settled, "it is run though it is settled"
            assert call.deadline > self._clock(), "it is run though its deadline has passed"
            call.runs.append(self._clock())

    def died_with(self, requests: list[Request]) -> None:
        for request in requests:
            if not request.id.startswith(WARM_UP):
                self.calls[request.id].deaths += 1

    def check(self) -> None:
        """At any time."""
        tries = 2 if self._spec.retry_on_worker_death else 1
        for call in self.calls.values():
            assert len(call.settled) <= 1, "it is settled twice"
            assert len(call.runs) <= tries, "it is run too often"
            for outcome in call.settled:
                if isinstance(outcome, Reply):
                    assert outcome.body == call.request.inputs[0].data, "it got another one's answer"
                    assert call.request.path == "", "who kills or hangs workers has no answer"
                elif outcome.kind is Kind.WORKER_DIED:
                    assert call.deaths == tries, "it failed for a worker's death that it had no part in"

    def check_end(self) -> None:
        """When there has been time for everything."""
        self.check()
        for call in self.calls.values():
            assert call.settled or call.cancelled, "it was lost"


class World:
    """A pool with its clock, its backend and its oracle."""

    def __init__(self, **settings: Any) -> None:
        defaults: dict[str, Any] = {
            "min_workers": 2, "max_workers": 2, "batch_size": 3, "queue_size": 10, "response_timeout_seconds": 2.0,
            "startup_timeout_seconds": 1.0, "probe_interval_seconds": 5.0, "handler": "",
        }  # fmt: skip
        self.loop = VirtualLoop()
        self.spec = ModelSpec(
            name="m", version="1", url="", directory="", manifest={}, model_config={}, **defaults | settings
        )
        self.oracle = Oracle(self.spec, self.loop.time)
        self.backend = FakeBackend(self.oracle)
        self.metrics = ModelMetrics()
        self.pool: Pool = self.run(self._pool())

    async def _pool(self) -> Pool:
        pool = Pool(self.spec, self.backend, self.metrics, lambda _: None, lambda _: None, self.loop.time)
        pool.scale(self.spec.min_workers)
        return pool

    def run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        return self.loop.run_until_complete(coroutine)

    def advance(self, seconds: float) -> None:
        self.run(asyncio.sleep(seconds))

    def submit(self, op: str = "", timeout_seconds: float = 0.0, rows: int = 1) -> SeenCall | None:
        """None: it was refused."""
        name = str(len(self.oracle.calls))
        part = Part("body", "", f"nonce {name}".encode())
        request = Request("m", None, name, [part], path=op, timeout_seconds=timeout_seconds, rows=rows)
        call = SeenCall(request, self.loop.time)

        async def put() -> None:
            self.pool.submit(call)

        self.oracle.calls[name] = call
        try:
            self.run(put())
        except PdError:
            del self.oracle.calls[name]
            return None
        return call

    def good(self) -> int:
        """How many were answered within their time."""
        calls = self.oracle.calls.values()
        answered = [call for call in calls if call.settled and isinstance(call.settled[0], Reply)]
        return sum(call.settled_at - call.arrived <= call.request.timeout_seconds for call in answered)

    def kill(self, index: int) -> None:
        """A worker, from outside."""
        alive = sorted(self.backend.alive, key=lambda worker: worker.id)
        if alive:
            alive[index % len(alive)].kill("was killed by SIGKILL")

    def close(self, drain_seconds: float = 0.0) -> None:
        self.run(self.pool.close(drain_seconds))
        self.loop.close()


def kinds(calls: Mapping[str, SeenCall]) -> list[str]:
    """How they ended, for a look at a glance: "ok", or the kind of failure, or "" for none yet."""
    return [
        "" if not call.settled else call.settled[0].kind.value if isinstance(call.settled[0], Failure) else "ok"
        for call in calls.values()
    ]
