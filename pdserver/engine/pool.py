"""The workers of one version.

Each worker slot is one coroutine, `_run_slot`, which reads from top to bottom: start a worker, load the model, answer
batches until told to stop or until the worker dies, and begin again. `Dispatch` decides which requests it answers,
`Watch` what takes too long.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import itertools
import logging
import random
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

from msgspec import structs

from pdserver.backends.base import Backend, Worker
from pdserver.configuration.model import ModelSpec, PartialSettings
from pdserver.engine import accelerations, warm_up
from pdserver.engine.catalogue import ServedVersion
from pdserver.engine.crash_loop import CrashLoop
from pdserver.engine.dispatch import Dispatch
from pdserver.engine.lifecycle import (
    SERVING,
    VersionState,
    WorkerState,
    backoff_seconds,
    may_be_replaced,
    probe_seconds,
    version_state,
)
from pdserver.engine.queue import BatchQueue, Call
from pdserver.engine.response_cache import ModelCache
from pdserver.engine.served import Details, WorkerDetails, most_workers
from pdserver.engine.slot import Slot
from pdserver.engine.watch import Watch
from pdserver.errors import Conflict, HandlerFailed, Kind, LoadFailed, PdError, Unavailable, WorkerDied
from pdserver.metrics.counters import ModelMetrics, PoolGauges, Totals
from pdserver.store.model import WarmUp
from pdserver.types import Interface, Measured, ModelRef, Request, RunningEngine, engine_names

_log = logging.getLogger("pdserver.pool")
_STOP_GRACE_SECONDS = 2.0
_PATIENCE = 0.25
"""The part of the time to load after which a worker that leaves the processor to others takes its share of it."""
_MOST_UNREADY = 3
"""After so many workers in a row that died before they were ready, the model counts as one that can't be loaded."""


class Pool:
    """Serves one version with as many workers as are wanted (`engine.served.Served`)."""

    def __init__(
        self,
        spec: ModelSpec,
        backend: Backend,
        metrics: ModelMetrics,
        next_device: Callable[[ModelSpec], int | None],
        record: Callable[[Sequence[Measured]], None],
        clock: Callable[[], float] = time.monotonic,
        cache: ModelCache | None = None,
        prepare: Callable[[], Awaitable[None]] | None = None,
        on_change: Callable[[], None] = lambda: None,
        *,
        loaded_at_start: bool = False,
        warm_up: WarmUp | None = None,
        gently: bool = False,
        inner: Mapping[str, ModelMetrics] | None = None,
    ) -> None:
        """`clock` gives monotonic seconds. `prepare` sees to what a worker needs before it is started; it raises
        PdError. `on_change` is called when something changes of what `view` shows. Each worker answers the requests of
        `warm_up` before it serves. `gently`: its first workers leave the processor to those of others that serve.
        `inner`: the counters of a fused graph's nodes, by their paths."""
        self.uses = frozenset[str]()
        self.node_refs = frozenset[ModelRef]()
        self.spec = spec
        self.metrics = metrics
        self.min_workers = spec.min_workers
        self.max_workers = spec.max_workers
        self.last_error = ""
        """Why the last worker that failed did, in words for clients. What it wrote is in the log alone."""
        self._last_kind = Kind.LOAD_FAILED
        """Which kind of failure to load `last_error` was."""
        self.restarts = 0
        self.closing = False
        self._interface: Interface | None = None
        self._loaded_at_start = loaded_at_start
        self._on_change = on_change
        self._backend = backend
        self._prepare = prepare
        self._warm_up = warm_up
        self._gently = gently
        self._next_device = next_device
        self._clock = clock
        self._loop = asyncio.get_running_loop()
        self._numbers = itertools.count(1)
        self._slots: dict[Slot, asyncio.Task[None]] = {}
        self._crash_loop = CrashLoop(
            spec.max_worker_deaths, spec.worker_deaths_window_seconds, spec.max_retry_timeout_seconds
        )
        self._plain = self._plain_tried = False
        """Whether workers run without the accelerations that are on by default, and whether that has been tried."""
        self._crashed_loading = False
        """Whether the crash for which that is tried was while loading."""
        self._drain_until = float("inf")
        self._changed = asyncio.Event()
        self._dispatch = Dispatch(spec, metrics, record, clock, self._slots.keys(), cache)
        self._dispatch.on_batch = self._after_batch
        self._dispatch.on_engines = self._engines_changed
        self.inner = self._dispatch.inner = inner or {}
        self._watch = Watch(self._dispatch, self._slots.keys(), clock, self._why_slow, self._replace_due_worker)
        self.submit: Callable[[Call], None] = self._dispatch.submit
        """As Served has it, and without a call of its own: each request goes through it."""
        self._notify()

    # What others see

    def __repr__(self) -> str:
        closing = ", closing" if self.closing else ""
        return f"<Pool {self.spec.ref}, {self.slots}, {self._dispatch}, {self._crash_loop}{closing}>"

    @property
    def queue(self) -> BatchQueue:
        return self._dispatch.queue

    @property
    def slots(self) -> list[Slot]:
        return [slot for slot in self._slots if not slot.retired]

    @property
    def serving(self) -> int:
        """How many workers serve."""
        return sum(slot.state in SERVING for slot in self.slots)

    @property
    def interface(self) -> Interface | None:
        return self._interface

    @property
    def state(self) -> VersionState:
        states = [slot.state for slot in self.slots]
        return version_state(states, self.min_workers, closing=self.closing, given_up=self._crash_loop.open)

    def view(self) -> ServedVersion:
        return ServedVersion(
            self.spec, self._interface, self.state, self.serving, self.min_workers, self.max_workers, self.last_error,
            unavailable=self._why_unavailable(),
        )  # fmt: skip

    def details(self) -> Details:
        workers = [
            WorkerDetails(
                slot.worker.id if slot.worker else None,
                slot.worker.pid if slot.worker else None,
                slot.started,
                slot.state,
                slot.device_id is not None,
                slot.engines,
            )
            for slot in self.slots
        ]
        return Details(workers, len(self.queue), self.restarts, self._loaded_at_start)

    def gauges(self) -> Sequence[PoolGauges]:
        states = Counter(slot.state.value for slot in self._slots)
        load_seconds = {
            slot.worker.id: slot.load_seconds for slot in self._slots if slot.worker and slot.state in SERVING
        }
        engines = engine_names(engine for slot in self._slots if slot.state in SERVING for engine in slot.engines)
        return [PoolGauges(self.spec.ref, len(self.queue), dict(states), self.restarts, load_seconds, engines)]

    def statistics(self) -> Totals:
        return self.metrics.since_begin()

    # What is wanted

    def scale(self, min_workers: int, max_workers: int | None = None) -> None:
        """Busy workers stop after their batch."""
        most = most_workers(self, min_workers, max_workers)
        self.min_workers, self.max_workers = min_workers, most
        active = self.slots
        for slot in sorted(active, key=lambda slot: slot.state in SERVING)[: max(0, len(active) - min_workers)]:
            self._retire(slot)
        for _ in range(min_workers - len(active)):
            slot = Slot(next(self._numbers), self._next_device(self.spec))
            self._slots[slot] = self._loop.create_task(self._run_slot(slot), name=f"{self.spec.ref} slot {slot.number}")
        self._notify()

    def change(self, settings: PartialSettings) -> None:
        names = ("batch_size", "max_batch_delay_seconds", "response_timeout_seconds")
        given = {name: settings[name] for name in names if name in settings}
        self.spec = self._dispatch.spec = dataclasses.replace(self.spec, **given)
        self.queue.batch_size = self.spec.batch_size
        self.queue.max_delay_seconds = self.spec.max_batch_delay_seconds
        self._dispatch.wake()
        self._on_change()

    def change_manifest(self, manifest: Mapping[str, Any]) -> None:
        self.spec = self._dispatch.spec = dataclasses.replace(self.spec, manifest=dict(manifest))
        self._on_change()

    async def settled(self) -> None:
        """And no others are left. A worker that is killed meanwhile is waited for again."""
        missing = {slot: slot.loads for slot in self._slots if slot.retired or slot.state not in SERVING}
        while missing:
            if any(slot.cannot_load and not slot.retired for slot in missing):
                raise LoadFailed(self.last_error, self._last_kind)
            await self._changed.wait()
            missing = {slot: loads for slot, loads in missing.items() if self._is_missing(slot, loads)}
        if self.closing:
            raise Conflict(f"model {self.spec.ref} was unloaded before its workers were ready")

    def _is_missing(self, slot: Slot, loads: int) -> bool:
        """Whether a slot is still to become ready, or to end. `loads` is how often it was ready at the first look."""
        return slot in self._slots and (slot.retired or slot.loads == loads)

    # The end

    async def close(self, drain_seconds: float) -> None:
        self.closing = True
        self._dispatch.on_rest = self._notify
        self._drain_until = min(self._drain_until, self._clock() + drain_seconds)
        self._notify()
        await self._drained()
        self._dispatch.ended = True
        gone = f"model {self.spec.ref} was unloaded"
        self._dispatch.fail(self.queue.take_all(), Unavailable(gone))
        tasks = list(self._slots.values())
        for slot in list(self._slots):
            if slot.state is WorkerState.BUSY and slot.worker is not None:
                slot.worker.kill("was ended before it answered: the model is unloaded")
            self._retire(slot)
        await asyncio.gather(*tasks)
        self._dispatch.close()
        self._watch.close()

    def hurry(self) -> None:
        self._drain_until = 0.0
        self._notify()

    async def _drained(self) -> None:
        """Wait until everything is answered, the time is over, or no worker is left."""
        while len(self.queue) or any(slot.state is WorkerState.BUSY for slot in self._slots):
            remaining = self._drain_until - self._clock()
            if remaining <= 0 or not self.slots or (self._crash_loop.open and not self._serving()):
                return
            with contextlib.suppress(asyncio.TimeoutError):
                await asyncio.wait_for(self._changed.wait(), remaining)

    def _retire(self, slot: Slot) -> None:
        slot.retired = True
        self._dispatch.leave(slot)

    # One slot

    async def _run_slot(self, slot: Slot) -> None:
        try:
            while not slot.retired:
                try:
                    worker = await self._start(slot)
                    await self._serve(slot, worker)
                except PdError as error:
                    await self._on_worker_failure(slot, error)
                except Exception as error:  # noqa: BLE001 - a worker is replaced, the pool serves on
                    _log.exception("%s: unexpected error", self.spec.ref)
                    await self._on_worker_failure(
                        slot, HandlerFailed(f"unexpected error: {type(error).__name__}: {error}")
                    )
                else:
                    await self._replace(slot)
        finally:
            slot.go(WorkerState.STOPPING)
            self._dispatch.fail(self.queue.worker_lost(slot.number), Unavailable("the sequence's worker was stopped"))
            self._notify()
            await self._discard_worker(slot)
            slot.go(WorkerState.DEAD)
            del self._slots[slot]
            self._notify()

    async def _start(self, slot: Slot) -> Worker:
        """Start a worker in the slot, and have it load the model. Raises WorkerDied or LoadFailed."""
        slot.want(self._clock())
        if self._prepare is not None:
            await self._prepare()
        worker = await self._backend.spawn(self.spec)
        slot.admit(worker)
        slot.go(WorkerState.LOADING)
        limit = self.spec.startup_timeout_seconds
        spec = self.spec
        slot.plain = self._plain
        if slot.plain and (plain := accelerations.without(spec)):
            spec, _ = plain
        loading = self._loop.create_task(self._load(worker, spec, slot.device_id))
        slot.wake = self._loop.create_future()
        if slot.retired:
            slot.rouse()
        waiting: list[asyncio.Future[Any]] = [loading, slot.wake]
        done, _ = await asyncio.wait(waiting, timeout=limit, return_when=asyncio.FIRST_COMPLETED)
        if loading not in done and slot.wake not in done:
            slot.timed_out = True
            worker.abort(f"did not load the model within {limit:g} s (startupTimeout)")
        elif loading not in done and slot.retired:
            worker.kill("was ended while it loaded")
        self._interface = interface = await loading
        slot.ready(self._clock(), interface.engines)
        slot.go(WorkerState.READY)
        self._notify()
        _log.info("%s worker %d is ready (pid %d)", self.spec.ref, worker.id, worker.pid)
        return worker

    async def _load(self, worker: Worker, spec: ModelSpec, device_id: int | None) -> Interface:
        async with self._giving_way(worker):
            interface = await worker.load(spec, device_id)
            if self._warm_up is not None:
                await self._warmed(worker, self._warm_up(spec, interface))
        return interface

    async def _warmed(self, worker: Worker, requests: Iterator[Request]) -> None:
        began, failure = self._clock(), None
        try:
            await warm_up.answered(worker, requests)
        except PdError as error:
            failure = error.kind
            raise
        finally:
            if self.metrics.serving is not None:
                self.metrics.serving.warmed_up(self.spec.directory, self._clock() - began, failure)

    @contextlib.asynccontextmanager
    async def _giving_way(self, worker: Worker) -> AsyncIterator[None]:
        """The first workers of a version leave the processor to others, unless they do not get ready that way."""
        if not self._gently or self._interface is not None:
            yield
            return

        async def stand_at_last() -> None:
            await asyncio.sleep(self.spec.startup_timeout_seconds * _PATIENCE)
            await worker.stand()

        worker.give_way()
        at_last = self._loop.create_task(stand_at_last())
        try:
            yield
        finally:
            at_last.cancel()
            await worker.stand()

    async def _serve(self, slot: Slot, worker: Worker) -> None:
        """Answer batches until the slot is retired or replaced. Raises WorkerDied."""
        slot.wake = self._loop.create_future()
        worker.on_death(partial(self._dispatch.gone, slot))
        if not slot.leaving:
            self._dispatch.begin(slot, worker)
            await slot.wake
        if slot.gone and not (slot.leaving and not slot.batches):
            error = await worker.death()
            slot.explained = await self._dispatch.rescue(slot, error)
            raise error

    def _after_batch(self, slot: Slot) -> None:
        most = self.spec.max_requests_per_worker
        if slot.failures or slot.due_for_replacement or self._crash_loop.troubled or most:
            self._answered(slot)

    def _engines_changed(self, slot: Slot, engines: tuple[RunningEngine, ...]) -> None:
        slot.engines = engines
        if self._interface is not None:
            self._interface = structs.replace(self._interface, engines=engines)
        self._on_change()

    def _answered(self, slot: Slot) -> None:
        """Do after a batch what is seldom needed."""
        if slot.failures or self._crash_loop.troubled:
            slot.failures = 0
            if self._crash_loop.open:
                _log.info("%s answers again", self.spec.ref)
                for other in self.slots:
                    if other.state is WorkerState.FAILED:
                        other.rouse()
            self._crash_loop.answered()
            self._notify()
        most = self.spec.max_requests_per_worker
        if most and slot.served >= most and not slot.due_for_replacement:
            slot.due_for_replacement = f"it has answered {slot.served:,} requests (maxRequestsPerWorker: {most:,})"
        if slot.due_for_replacement:
            self._replace_due_worker()

    async def _on_worker_failure(self, slot: Slot, error: PdError) -> None:
        """Note that the worker has died or could not load, and wait until another one may be started."""
        if slot.retired:
            return
        now = self._clock()
        ready_seconds = now - slot.ready_since if slot.ready_since else 0.0
        if not (isinstance(error, WorkerDied) and error.blameless):
            self._blame(slot, error, now, ready_seconds)
        in_a_row = ready_seconds < self.spec.worker_deaths_window_seconds and not slot.explained
        slot.failures = 1 + (slot.failures if in_a_row else 0)
        self.restarts += 1
        self.last_error = reason = str(error)
        self._last_kind = error.kind if isinstance(error, LoadFailed) else Kind.LOAD_FAILED
        if isinstance(error, WorkerDied) and error.crashed and not slot.served:
            self._crashed_at_first(slot, reason)
        slot.go(WorkerState.FAILED)
        self._dispatch.fail(self.queue.worker_lost(slot.number), WorkerDied(reason))
        if self._crash_loop.open:
            delay = probe_seconds(self.spec.probe_interval_seconds, random.random())  # noqa: S311
        else:
            delay = backoff_seconds(slot.failures, random.random())  # noqa: S311
        _log.warning("%s: %s; started again in %.1f s%s", self.spec.ref, reason, delay, _last_words(error))
        self._notify()
        await self._discard_worker(slot)
        slot.wake = self._loop.create_future()
        if not slot.retired:
            await asyncio.wait([slot.wake], timeout=delay)
        if not slot.retired:
            slot.go(WorkerState.NEW)
            self._notify()

    def _crashed_at_first(self, slot: Slot, reason: str) -> None:
        """An acceleration may have caused the crash: start the next workers without, unless that has not helped."""
        if slot.plain:
            # If the crash was while loading, and this worker has loaded, it has helped.
            self._plain = self._crashed_loading and bool(slot.ready_since)
        elif not self._plain_tried and (plain := accelerations.without(self.spec)):
            self._plain = self._plain_tried = True
            self._crashed_loading = not slot.ready_since
            _log.warning(
                "%s: %s before it answered anything; tried again with predictor: {%s}, which the model's config file "
                "may say, to save the attempt", self.spec.ref, reason, plain[1],
            )  # fmt: skip

    def _blame(self, slot: Slot, error: PdError, now: float, ready_seconds: float) -> None:
        """Count a death that may be the model's fault."""
        self._crash_loop.died(now, slot.wanted_since, ready_seconds, slot.explained)
        if not slot.ready_since:
            slot.unready += 1
            slot.cannot_load = isinstance(error, LoadFailed) or slot.timed_out or slot.unready >= _MOST_UNREADY

    def _replace_due_worker(self) -> None:
        """Replace a worker that is due for it, if there is one and the others serve."""
        if any(slot.being_replaced for slot in self.slots):
            return
        for slot in self.slots:
            if slot.due_for_replacement and may_be_replaced([other.state for other in self.slots if other is not slot]):
                slot.being_replaced = True
                self._dispatch.leave(slot)
                return

    async def _replace(self, slot: Slot) -> None:
        """End a worker that is due for replacement; another one takes its place."""
        if not slot.retired:
            _log.info(
                "%s worker %s is replaced: %s", self.spec.ref, slot.worker and slot.worker.id, slot.due_for_replacement
            )
            slot.go(WorkerState.NEW)
            self._notify()
            await self._discard_worker(slot)

    async def _discard_worker(self, slot: Slot) -> None:
        worker, slot.worker = slot.worker, None
        if worker is not None:
            await worker.stop(_STOP_GRACE_SECONDS)

    # Whether it can be asked

    def _serving(self) -> bool:
        return any(slot.state in SERVING for slot in self._slots)

    def _notify(self) -> None:
        """Call after every change of a slot's state or of the wanted number."""
        self._changed.set()
        self._changed = asyncio.Event()
        dispatch = self._dispatch
        dispatch.unavailable = self._why_unavailable()
        if dispatch.unavailable and not self.closing:
            dispatch.fail(self.queue.take_all(), Unavailable(dispatch.unavailable))
        self._replace_due_worker()
        if len(self.queue):
            # The worker that was woken for it may be the one whose state changed.
            dispatch.wake(at_once=not self.spec.sequence_batching)
        self._on_change()

    def _why_unavailable(self) -> str:
        ref = self.spec.ref
        if self.closing:
            return f"model {ref} is being unloaded"
        if not self.slots:
            scaled = f"{ref.name.partition(':')[0]}/{ref.version}"  # a pipeline's nodes are scaled together
            return f"model {ref} has no workers; give it some: PUT /models/{scaled}?min_worker=1"
        if self._crash_loop.open and not self._serving():
            return f"model {ref} can't be served, its workers fail: {self.last_error}"
        return ""

    def _why_slow(self) -> str:
        return f"; the last worker failed: {self.last_error}" if self.state is VersionState.FAILED else ""


def _last_words(error: PdError) -> str:
    words = error.last_words if isinstance(error, WorkerDied) else ""
    return f"; the end of what it wrote:\n{words}" if words else ""
