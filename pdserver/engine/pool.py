"""The workers of one version, and the queue that they take batches from.

Each worker slot is one coroutine, `_live`, whose life reads from top to bottom: start a worker, load the model, answer
batches until told to stop or until the worker dies, and begin again. An idle slot waits in `_idle`; whoever puts a
request wakes one, in the next turn of the event loop, so that all requests of this turn leave together.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from datetime import datetime, timezone
from functools import partial
from typing import Any

import msgspec

from pdserver.backends.base import Answered, Backend, Worker
from pdserver.counters import ModelMetrics
from pdserver.engine.continuous import continued, take_step
from pdserver.engine.lifecycle import SERVING, VersionState, WorkerState, backoff_seconds, version_state
from pdserver.engine.queue import BatchQueue, Call
from pdserver.engine.sequences import SequenceQueue
from pdserver.engine.slot import Slot
from pdserver.errors import DeadlineExceeded, HandlerFailed, LoadFailed, Overloaded, PdError, Unavailable, WorkerDied
from pdserver.types import Failure, Interface, Measured, ModelSettings, ModelSpec, Outcome, Reply, Request

_log = logging.getLogger("pdserver.pool")
_TRIES = 2
"""A request that was with two workers when they died is not given a third."""
_HOPELESS_FAILURES = 3
"""After so many failures in a row of every worker, requests are refused at once instead of waiting for the next try."""
_WATCH_SECONDS = 0.25
_STOP_GRACE_SECONDS = 2.0


class Pool:
    """Serves one version with as many workers as are wanted."""

    def __init__(
        self,
        spec: ModelSpec,
        backend: Backend,
        metrics: ModelMetrics,
        next_device: Callable[[ModelSpec], int | None],
        record: Callable[[Sequence[Measured]], None],
    ) -> None:
        self.spec = spec
        self.queue = SequenceQueue(spec) if spec.sequence_batching else _batch_queue(spec)
        self.metrics = metrics
        self.min_workers = spec.min_workers
        self.max_workers = spec.max_workers
        self.last_error = ""
        """Why the last worker that failed did."""
        self.interface: Interface | None = None
        """What typed requests can say to the model; None until a worker has loaded it."""
        self.restarts = 0
        self.loaded_at_start = False
        self.closing = False
        self._backend = backend
        self._next_device = next_device
        self._record = record
        self._loop = asyncio.get_running_loop()
        self._numbers = itertools.count(1)
        self._slots: dict[Slot, asyncio.Task[None]] = {}
        self._idle: list[Slot] = []
        self._due_timer: asyncio.TimerHandle | None = None
        self._watch_timer: asyncio.TimerHandle | None = None
        self._changed = asyncio.Event()
        self._unavailable = ""
        """Why no request is taken in, when none is."""
        self._notify()

    # What others see

    @property
    def slots(self) -> list[Slot]:
        return [slot for slot in self._slots if not slot.retired]

    @property
    def state(self) -> VersionState:
        return version_state([slot.state for slot in self.slots], self.min_workers, closing=self.closing)

    def load_seconds(self) -> dict[int, float]:
        """How long each worker that serves took to start and load the model, by its number."""
        return {slot.worker.id: slot.load_seconds for slot in self._slots if slot.worker and slot.state in SERVING}

    def workers_by_state(self) -> dict[str, int]:
        return dict(Counter(slot.state.value for slot in self._slots))

    # Requests

    def submit(self, call: Call) -> None:
        """Take a request in; its outcome comes by `call.settle`. Raises Unavailable or Overloaded, and takes it not."""
        if self._unavailable:
            raise Unavailable(self._unavailable)
        spec = self.spec
        if spec.use_job_ticket and not self._idle:
            raise Overloaded(f"no worker of model {spec.ref} is idle (useJobTicket); try again in a moment")
        if spec.client_timeout_seconds:
            call.deadline = min(call.deadline, call.arrived + spec.client_timeout_seconds)
        self.queue.put(call)
        if self._idle:
            self._wake_idle()
        if self._watch_timer is None:
            self._watch_timer = self._loop.call_later(_WATCH_SECONDS, self._watch)

    def _wake_idle(self, *, at_once: bool = True) -> None:
        """Have the batch that is due taken, when it is. `at_once` False: not if that is now, since whoever goes idle
        has just found nothing for itself, and would be woken by the next one who does for ever."""
        due = self.queue.due_at()
        if due is None:
            return
        delay = due - time.monotonic()
        if delay <= 0:
            if not at_once:
                return
            if self.spec.sequence_batching:  # each request has its own worker: let them find out whose it is
                idle, self._idle = self._idle, []
                for slot in idle:
                    slot.rouse()
            else:
                self._idle.pop().rouse()
        elif self._due_timer is None:
            self._due_timer = self._loop.call_later(delay, self._due)

    def _due(self) -> None:
        self._due_timer = None
        if self._idle:
            self._wake_idle()

    # Workers

    def scale(self, workers: int) -> None:
        """Want this many workers; they start and stop by themselves, busy ones after their batch."""
        active = self.slots
        for slot in sorted(active, key=lambda slot: slot.state in SERVING)[: max(0, len(active) - workers)]:
            self._retire(slot)
        for _ in range(workers - len(active)):
            slot = Slot(next(self._numbers), self._next_device(self.spec))
            self._slots[slot] = self._loop.create_task(self._live(slot), name=f"{self.spec.ref} slot {slot.number}")
        self._notify()

    def change(self, settings: ModelSettings) -> None:
        """Take over the batch size, batch delay and response timeout, where they are given."""
        names = ("batch_size", "max_batch_delay_seconds", "response_timeout_seconds")
        given = {name: value for name in names if (value := getattr(settings, name)) is not None}
        self.spec = msgspec.structs.replace(self.spec, **given)
        self.queue.batch_size = self.spec.batch_size
        self.queue.max_delay_seconds = self.spec.max_batch_delay_seconds
        if self._idle:
            self._wake_idle()

    async def settled(self) -> None:
        """Until all wanted workers serve and no others are left. Raises LoadFailed when one can't load the model."""
        while any(slot.state not in SERVING for slot in self._slots):
            for slot in self.slots:
                if slot.state is WorkerState.FAILED:
                    raise LoadFailed(self.last_error)
            await self._changed.wait()

    async def close(self, drain_seconds: float) -> None:
        """Stop taking requests, answer what was taken within the time, and end the workers. Idempotent."""
        self.closing = True
        self._notify()
        deadline = time.monotonic() + drain_seconds
        serving = any(slot.state in SERVING for slot in self._slots)
        while serving and (len(self.queue) or any(slot.state is WorkerState.BUSY for slot in self._slots)):
            remaining = deadline - time.monotonic()
            if remaining <= 0:
                break
            with contextlib.suppress(asyncio.TimeoutError):
                await asyncio.wait_for(self._changed.wait(), remaining)
            serving = any(slot.state in SERVING for slot in self._slots)
        self._fail(self.queue.take_all(), Unavailable(f"model {self.spec.ref} was unloaded"))
        tasks = list(self._slots.values())
        for slot in list(self._slots):
            if slot.state is WorkerState.BUSY and slot.worker is not None:
                slot.worker.kill("was ended: the model is unloaded")
            self._retire(slot)
        await asyncio.gather(*tasks)
        for timer in (self._due_timer, self._watch_timer):
            if timer is not None:
                timer.cancel()

    def _retire(self, slot: Slot) -> None:
        slot.retired = True
        if slot in self._idle:
            self._idle.remove(slot)
        slot.rouse()

    async def _live(self, slot: Slot) -> None:
        """One slot's life."""
        try:
            while not slot.retired:
                try:
                    worker = await self._start(slot)
                except PdError as error:
                    await self._fall(slot, str(error))
                    continue
                try:
                    await self._serve(slot, worker)
                except WorkerDied as error:
                    await self._fall(slot, str(error))
                except Exception as error:  # noqa: BLE001 - a worker is replaced, the pool serves on
                    _log.exception("%s: unexpected error", self.spec.ref)
                    await self._fall(slot, f"unexpected error: {error}")
        finally:
            slot.go(WorkerState.STOPPING)
            self._fail(self.queue.worker_lost(slot.number), Unavailable("the sequence's worker was stopped"))
            self._notify()
            await self._discard_worker(slot)
            slot.go(WorkerState.DEAD)
            del self._slots[slot]
            self._notify()

    async def _start(self, slot: Slot) -> Worker:
        """A loaded worker in the slot. Raises WorkerDied or LoadFailed."""
        began = time.monotonic()
        slot.worker = worker = await self._backend.spawn(self.spec)
        slot.started = datetime.now(timezone.utc)
        slot.timed_out = False
        slot.go(WorkerState.LOADING)
        limit = self.spec.startup_timeout_seconds
        loading = self._loop.create_task(worker.load(self.spec, slot.device_id))
        slot.wake = self._loop.create_future()
        if slot.retired:
            slot.rouse()
        waiting: list[asyncio.Future[Any]] = [loading, slot.wake]
        done, _ = await asyncio.wait(waiting, timeout=limit, return_when=asyncio.FIRST_COMPLETED)
        if loading not in done and slot.wake not in done:
            worker.kill(f"did not load the model within {limit:g} s (startupTimeout)")
        elif loading not in done and slot.retired:
            worker.kill("was ended while it loaded")
        self.interface = await loading
        slot.load_seconds = time.monotonic() - began
        slot.go(WorkerState.READY)
        self._notify()
        _log.info("%s worker %d is ready (pid %d)", self.spec.ref, worker.id, worker.pid)
        return worker

    async def _fall(self, slot: Slot, reason: str) -> None:
        """The worker is gone, or could not load: say so, and wait until it may be tried again."""
        if slot.retired:
            return
        now = time.monotonic()
        slot.failing_since = slot.failing_since if slot.failures else now
        slot.failures += 1
        self.restarts += 1
        self.last_error = reason
        slot.go(WorkerState.FAILED)
        self._fail(self.queue.worker_lost(slot.number), WorkerDied(reason))
        delay = backoff_seconds(slot.failures, now - slot.failing_since, self.spec.max_retry_timeout_seconds)
        _log.warning("%s: %s; started again in %g s", self.spec.ref, reason, delay)
        self._notify()
        await self._discard_worker(slot)
        slot.wake = self._loop.create_future()
        if not slot.retired:
            await asyncio.wait([slot.wake], timeout=delay)
        if not slot.retired:
            slot.go(WorkerState.NEW)
            self._notify()

    async def _discard_worker(self, slot: Slot) -> None:
        worker, slot.worker = slot.worker, None
        if worker is not None:
            await worker.stop(_STOP_GRACE_SECONDS)

    async def _serve(self, slot: Slot, worker: Worker) -> None:
        """Answer batches until the slot is retired. Raises WorkerDied."""
        gone = False

        def mourn() -> None:
            nonlocal gone
            gone = True
            if slot in self._idle:
                self._idle.remove(slot)
            slot.rouse()

        worker.on_death(mourn)
        answer = self._answer_step if self.spec.continuous_batching else self._answer
        calls: list[Call] = []
        while calls or not slot.retired:
            if not slot.retired:
                calls += self._take(slot, self.queue.batch_size - len(calls))
            if calls:
                try:
                    calls = await answer(slot, worker, calls)
                except WorkerDied:
                    raise
                except Exception as error:  # whatever goes wrong here, these callers are owed an answer
                    self._fail(calls, HandlerFailed(f"it could not be passed to a worker: {error}"))
                    raise
            elif gone:
                raise await worker.death()
            else:
                if self.closing:
                    self._notify()
                slot.wake = self._loop.create_future()
                self._idle.append(slot)
                if len(self.queue):
                    self._wake_idle(at_once=not self.spec.sequence_batching)
                await slot.wake

    def _take(self, slot: Slot, room: int | None) -> list[Call]:
        queue = self.queue
        calls = queue.take(time.monotonic(), slot.number, room)
        if queue.expired:
            expired, queue.expired = queue.expired, []
            self._fail(expired, DeadlineExceeded("it waited longer than its deadline, and was not run"))
        return calls

    async def _answer(self, slot: Slot, worker: Worker, calls: list[Call]) -> list[Call]:
        """Have a batch answered. Gives back what is left of it: nothing."""
        answers = await self._exchange(slot, worker, calls, [call.request for call in calls])
        self.queue.answered(calls, answers.outcomes)
        if len(self.queue):  # the worker has its next batch before these are written out, and runs it meanwhile
            self._loop.call_soon(self._settle, calls, answers.outcomes, answers)
        else:
            self._settle(calls, answers.outcomes, answers)
        return []

    async def _answer_step(self, slot: Slot, worker: Worker, calls: list[Call]) -> list[Call]:
        """Have a batch taken one step further. Gives back the calls that the handler has not finished with."""
        requests = [continued(call.request) if call.streaming else call.request for call in calls]
        answers = await self._exchange(slot, worker, calls, requests)
        unfinished: list[Call] = []
        finished: list[Call] = []
        last: list[Outcome] = []
        for call, outcome in zip(calls, answers.outcomes, strict=True):
            piece, goes_on = take_step(outcome)
            if goes_on and not call.cancelled:
                assert isinstance(piece, Reply)  # noqa: S101
                call.streaming = True
                call.chunk(piece)
                unfinished.append(call)
            else:
                finished.append(call)
                last.append(piece)
        self.queue.answered(finished, last)
        self._settle(finished, last, answers)
        return unfinished

    async def _exchange(self, slot: Slot, worker: Worker, calls: list[Call], requests: list[Request]) -> Answered:
        slot.state = WorkerState.BUSY  # without `go`: READY ⇄ BUSY is the hot path, and this is its only place
        slot.busy_since = time.monotonic()
        try:
            answers = await worker.exchange(requests, partial(_chunk, calls))
        except WorkerDied as error:
            self._rescue(calls, error, timed_out=slot.timed_out)
            raise
        slot.state = WorkerState.READY
        if answers.measured:
            self._record(answers.measured)
        if slot.failures:
            slot.failures = 0
            self._notify()
        return answers

    def _settle(self, calls: list[Call], outcomes: list[Outcome], answered: Answered) -> None:
        metrics = self.metrics
        now = time.monotonic()
        metrics.batch(calls, answered, now)
        for call, outcome in zip(calls, outcomes, strict=True):
            if isinstance(outcome, Reply):
                metrics.succeeded += 1
                metrics.queue_seconds.observe(call.taken - call.arrived)
                metrics.latency_seconds.observe(now - call.arrived)
            else:
                metrics.failed[outcome.kind] += 1
                metrics.failed_seconds += now - call.arrived
            if not call.cancelled:
                call.settle(outcome)

    def _rescue(self, calls: list[Call], error: WorkerDied, *, timed_out: bool) -> None:
        """Once more for what a worker died with, each alone; an end for what did it again, or hung alone."""
        if timed_out and len(calls) == 1:
            self._fail(calls, DeadlineExceeded(str(error)))
            return
        if self.spec.sequence_batching:  # what came before died with the worker, so nobody else can go on
            self._fail(calls, error)
            return
        for call in calls:
            call.attempts += 1
        lost = [call for call in calls if call.attempts >= _TRIES or call.streaming]
        self._fail(lost, error)
        self.queue.put_again([call for call in calls if call not in lost])
        if self._idle and len(self.queue):
            self._wake_idle()

    def _fail(self, calls: list[Call], error: PdError) -> None:
        now = time.monotonic()
        for call in calls:
            self.metrics.failed[error.kind] += 1
            self.metrics.failed_seconds += now - call.arrived
            if not call.cancelled:
                call.settle(Failure.of(error))

    # Time

    def _watch(self) -> None:
        """While there is work: end workers that take too long, and requests that nobody took in time."""
        self._watch_timer = None
        limit = self.spec.response_timeout_seconds
        now = time.monotonic()
        for slot in self._busy():
            if slot.busy_since < now - limit and slot.worker is not None:
                slot.timed_out = True
                slot.worker.kill(f"did not answer within {limit:g} s (responseTimeout)")
        if self.spec.client_timeout_seconds:
            late = self.queue.take_older_than(now - self.spec.client_timeout_seconds)
            self._fail(late, DeadlineExceeded("it waited longer than its deadline (clientTimeoutInMills)"))
        expired = self.queue.take_older_than(now - limit)
        if expired:
            reason = f"; the last worker failed: {self.last_error}" if self.state is VersionState.FAILED else ""
            self._fail(expired, DeadlineExceeded(f"no worker was free within {limit:g} s (responseTimeout){reason}"))
        if len(self.queue) and self._idle:
            self._wake_idle()  # a sequence may have been closed, and made room for another
        if len(self.queue) or any(self._busy()):
            self._watch_timer = self._loop.call_later(_WATCH_SECONDS, self._watch)

    def _busy(self) -> Iterator[Slot]:
        return (slot for slot in self._slots if slot.state is WorkerState.BUSY)

    def _notify(self) -> None:
        """Call after every change of a slot's state or of the wanted number."""
        self._changed.set()
        self._changed = asyncio.Event()
        self._unavailable = self._why_unavailable()
        if self._unavailable and not self.closing:
            self._fail(self.queue.take_all(), Unavailable(self._unavailable))
        if len(self.queue) and self._idle:
            # Whoever was woken for it may be the one whose state changed.
            self._wake_idle(at_once=not self.spec.sequence_batching)

    def _why_unavailable(self) -> str:
        ref = self.spec.ref
        slots = self.slots
        if self.closing:
            return f"model {ref} is being unloaded"
        if not slots:
            return f"model {ref} has no workers; give it some: PUT /models/{ref}?min_worker=1"
        if all(slot.failures >= _HOPELESS_FAILURES for slot in slots):
            return f"model {ref} can't be served, its workers fail: {self.last_error}"
        return ""


def _batch_queue(spec: ModelSpec) -> BatchQueue:
    return BatchQueue(spec.batch_size, spec.max_batch_delay_seconds, spec.queue_size)


def _chunk(calls: list[Call], index: int, piece: Reply) -> None:
    call = calls[index]
    if not call.cancelled:
        call.streaming = True
        call.chunk(piece)
