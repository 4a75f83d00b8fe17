"""How the requests of one version get to its workers, and how they end.

All of this is plain calls, since a coroutine's step costs as much as a small model's run: a request is put into the
queue (`submit`), a worker is given a batch (`_go_on`), answers (`_answered`), is given the next batch, and the answers
are passed to their requests (`_settle`). An idle worker rests in `_idle`. A new request wakes one in the next turn of
the event loop, so that all requests of this turn leave together. Every accepted request is settled exactly once, by its
worker's answer or by a failure; a request whose client has left is not settled.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Collection, Mapping, Sequence
from functools import partial

from pdserver.backends.base import Unsendable, Worker
from pdserver.configuration.model import ModelSpec
from pdserver.engine import levels
from pdserver.engine.continuous import continued, take_step
from pdserver.engine.levels import LevelQueue
from pdserver.engine.lifecycle import WorkerState
from pdserver.engine.queue import BatchQueue, Call
from pdserver.engine.response_cache import ModelCache
from pdserver.engine.sequences import SequenceQueue
from pdserver.engine.shares import LONG_SECONDS, Shares
from pdserver.engine.slot import Slot
from pdserver.errors import (
    DeadlineExceeded,
    InvalidRequest,
    Kind,
    Missing,
    Overloaded,
    PdError,
    Unavailable,
    WorkerDied,
)
from pdserver.formats.values import shown
from pdserver.metrics.counters import ModelMetrics
from pdserver.types import Answered, Failure, Measured, Outcome, Reply, RunningEngine

_log = logging.getLogger("pdserver.dispatch")
_TRIES = 2
"""How many workers may die with a request: it is not given to another one then."""
_TOGETHER_SECONDS = 0.05
"""Workers that are killed together die within this time. A request of the first one waits so long, so that it does not
go to the next one."""
_MOST_NAMED = 20
_STEADY_HANDLER = "base_handler"
"""It runs nothing but the model."""


class Dispatch:
    """`on_work` is called when there is work and `watched` is False."""

    def __init__(
        self,
        spec: ModelSpec,
        metrics: ModelMetrics,
        record: Callable[[Sequence[Measured]], None],
        clock: Callable[[], float],
        slots: Collection[Slot],
        cache: ModelCache | None = None,
    ) -> None:
        self.spec = spec
        self.metrics = metrics
        self.queue = SequenceQueue(spec) if spec.sequence_batching else _batch_queue(spec)
        self.unavailable = ""
        """Why no request is taken in, when none is."""
        self.has_answered = False
        """Whether any worker has answered anything."""
        self.ended = False
        """No worker takes requests any more, so requests of a worker that dies fail."""
        self.watched = False
        self.deadlines = False
        """Whether a request with a deadline of its own may be here."""
        self.on_work: Callable[[], None] = lambda: None
        self.on_batch: Callable[[Slot], None] = lambda slot: None
        """Called after each batch, before the slot's next one."""
        self.on_engines: Callable[[Slot, tuple[RunningEngine, ...]], None] = lambda slot, engines: None
        """Called when other engines have taken over in a slot's worker."""
        self.on_rest: Callable[[], None] = lambda: None
        """Called when a slot finds nothing to do."""
        self.inner: Mapping[str, ModelMetrics] = {}
        """The counters of a fused graph's nodes, by their paths."""
        self._record = record
        self._clock = clock
        self._cache = cache
        self._has_policies = isinstance(self.queue, LevelQueue)
        self._plain = type(self.queue) is BatchQueue
        """Whether a batch is due as soon as a request waits, unless the model sets a delay."""
        self._has_limits = self._has_policies or bool(spec.use_job_ticket or spec.client_timeout_seconds)
        """Whether a request may have a deadline that it does not name, or must not wait."""
        self._loop = asyncio.get_running_loop()
        self._idle: list[Slot] = []
        self._half: list[Slot] = []
        """Slots whose workers have one batch and may have a second one, the longest busy first."""
        self._filling = False
        """Whether `_fill` is about to be called."""
        self._fast = False
        """Whether workers may have a second batch: the last one took so little time that it can wait for its answer."""
        # Neither who answers in order nor who answers step by step can wait for company.
        self._shares = None if spec.sequence_batching or spec.continuous_batching else Shares(self.queue, slots)
        self._gathering: Collection[Slot] = () if self._shares is None else self._shares.gathering
        self._steady = self._plain and self._shares is not None and spec.handler == _STEADY_HANDLER
        """Whether all batches of a size take about the same time. Behind one that takes long, a request would wait
        though other workers are idle."""
        self._long = False
        """Whether the last batch took so long that workers share what waits (`shares`)."""
        self._due_timer: asyncio.TimerHandle | None = None

    def __repr__(self) -> str:
        unavailable = f", unavailable: {self.unavailable}" if self.unavailable else ""
        return f"<Dispatch {self.queue}, {len(self._idle)} idle{unavailable}>"

    # In

    def submit(self, call: Call) -> None:
        """Take a request in; its outcome comes by `call.settle`. Raises PdError when it is refused, and counts that."""
        try:
            if self.unavailable:
                raise Unavailable(self.unavailable, Missing(self.spec.ref.name, self.spec.ref.version))
            if self._cache is not None and self._cache.answers(call):
                return
            if self._has_limits or call.request.timeout_seconds:
                self._limit(call)
            self.queue.put(call)
        except PdError as error:
            self.metrics.failed[error.kind] += 1
            raise
        if self._idle:
            self.wake()
        elif self._half:
            if not self._filling and self.queue.rows >= len(self._half[0].batches[0]):
                self._filling = True
                self._loop.call_soon(self._fill)
        elif self._gathering and self._shares is not None:
            self._shares.put()
        if not self.watched:
            self.on_work()

    def _limit(self, call: Call) -> None:
        """Set the request's deadline. Raises Overloaded when it may not wait, and would have to."""
        spec = self.spec
        if spec.use_job_ticket and not self._idle and not call.accepted:
            raise Overloaded(f"no worker of model {spec.ref} is idle (useJobTicket); try again in a moment")
        timeout = call.request.timeout_seconds if spec.queue_policy.allow_timeout_override else 0.0
        limits = [seconds for seconds in (timeout, spec.client_timeout_seconds) if seconds]
        if limits:
            call.deadline = call.arrived + min(limits)
        self.deadlines = self.deadlines or bool(limits) or self._has_policies

    # To workers

    def begin(self, slot: Slot, worker: Worker) -> None:
        """Have the slot's worker answer batches. The slot's future `wake` is done when it does so no longer."""
        worker.serve(partial(self._answered, slot), partial(_chunk, slot))
        self._go_on(slot)

    def leave(self, slot: Slot) -> None:
        """Wake the slot's coroutine, unless its worker is busy: then that follows the answers."""
        if slot.state is not WorkerState.BUSY:
            self._wake_coroutine(slot)

    def gone(self, slot: Slot) -> None:
        """The slot's worker has died."""
        slot.gone = True
        self._wake_coroutine(slot)

    def _wake_coroutine(self, slot: Slot) -> None:
        for slots in (self._idle, self._half):
            if slot in slots:
                slots.remove(slot)
        if self._shares is not None:
            self._shares.leave(slot)
        slot.rouse()

    def wake(self, *, at_once: bool = True) -> None:
        """Wake a worker when a batch is due. `at_once` False: not if one is due now. A slot that goes idle says so: it
        has just found nothing for itself, and slots would wake one another for ever."""
        if not self._idle:
            return
        if self._plain and not self.queue.max_delay_seconds:
            if len(self.queue):
                self._loop.call_soon(self._go_on, self._idle.pop())
            return
        due = self.queue.due_at()
        if due is None:
            return
        delay = due - self._clock()
        if delay <= 0:
            if not at_once:
                return
            if self.spec.sequence_batching:  # each request has its own worker: let them find out whose it is
                idle, self._idle = self._idle, []
                for slot in idle:
                    self._loop.call_soon(self._go_on, slot)
            else:
                self._loop.call_soon(self._go_on, self._idle.pop())
        elif self._due_timer is None:
            self._due_timer = self._loop.call_later(delay, self._due)

    def _due(self) -> None:
        self._due_timer = None
        self.wake()

    def _go_on(self, slot: Slot) -> None:
        """Give the slot's worker, which has answered all that it had, its next batch, or let it rest."""
        if slot.gone or slot.wake is None or slot.wake.done():
            return
        if slot.expects and self._shares is not None:
            slot.state = WorkerState.READY
            self._shares.gather(slot, self._go_on)
            return
        calls, slot.unfinished = slot.unfinished, []
        if not slot.leaving:
            calls += self._take(slot, calls)
        if calls:
            self._give(slot, calls)
            return
        slot.state = WorkerState.READY
        if slot.leaving:
            slot.rouse()
        else:
            self._idle.append(slot)
            if len(self.queue):
                self.wake(at_once=not self.spec.sequence_batching)
            self.on_rest()

    def _fill(self) -> None:
        """Give workers that run a batch another one, which they find in their socket when they have answered."""
        self._filling = False
        half, self._half = self._half, []
        for slot in half:
            self._go_ahead(slot)

    def _go_ahead(self, slot: Slot) -> None:
        """Give the slot's worker, which has one batch, a second one if that is as large: worker and clients take turns
        then, and neither waits for the other. A smaller one had better wait for company."""
        queue = self.queue
        if slot.gone or slot.leaving or not self._fast:
            return
        if queue.rows >= len(slot.batches[0]) and not self.deadlines and (calls := self._take(slot)):
            self._give(slot, calls)
        else:
            self._half.append(slot)

    def _take(self, slot: Slot, going_on: Sequence[Call] = ()) -> list[Call]:
        """The batch that the slot's worker gets now beside the calls that it goes on with; empty: none is due."""
        held = 0
        if going_on:
            if going_on[0].attempts:  # a worker died with it, so it runs alone
                return []
            held = sum(call.request.rows for call in going_on)
        queue = self.queue
        room = None
        if self._long and self._shares is not None and not queue.max_delay_seconds:  # by which a batch leaves when full
            room = self._shares.share()
        calls = queue.take(self._clock(), slot.number, room, held)
        if self._idle and len(queue) and self._long:
            self.wake()  # for the share of the next one
        if queue.expired:
            expired, queue.expired = queue.expired, []
            self.fail(expired, DeadlineExceeded("it waited longer than its deadline, and was not run"))
        return calls

    def _give(self, slot: Slot, calls: list[Call]) -> None:
        """Send a batch to the slot's worker."""
        assert slot.worker is not None  # noqa: S101
        slot.state = WorkerState.BUSY  # without `go`: READY ⇄ BUSY is the hot path, and happens here and in `_go_on`
        first = not slot.batches
        if first:
            slot.busy_since = self._clock()
        slot.batches.append(calls)
        requests = [continued(call.request) if call.streaming else call.request for call in calls]
        try:
            slot.worker.send(requests)
        except Unsendable as error:
            slot.batches.pop()
            for position, reason in error.reasons.items():
                self.fail([calls[position]], InvalidRequest(f"the request can't be passed to a worker: {reason}"))
            rest = [call for position, call in enumerate(calls) if position not in error.reasons]
            if rest:
                self._give(slot, rest)
            elif first:
                self._loop.call_soon(self._go_on, slot)
            else:
                self._half.append(slot)
        else:
            if first and self._fast:
                self._half.append(slot)

    # Answers

    def _answered(self, slot: Slot, answers: Answered) -> None:
        """The slot's worker has answered its oldest batch."""
        calls = slot.batches.popleft()
        outcomes = answers.outcomes
        try:
            if self.spec.continuous_batching:
                calls, outcomes = _finished(slot, calls, outcomes)
            self.queue.answered(calls, outcomes)
            self._note(slot, calls, answers)
            # First, so that the worker runs its next batch while these answers are written.
            if slot.batches:
                slot.busy_since = self._clock()
                self._go_ahead(slot)
            else:
                if slot in self._half:
                    self._half.remove(slot)
                self._go_on(slot)
        finally:
            self._settle(calls, outcomes, answers)

    def _note(self, slot: Slot, calls: list[Call], answers: Answered) -> None:
        """Note what follows from a batch for the ones after it."""
        self.has_answered = True
        slot.served += len(calls)
        self._long = answers.seconds >= LONG_SECONDS
        self._fast = self._steady and not (self._long or self.queue.max_delay_seconds)
        if self._long and self._shares is not None:
            self._shares.answered(slot, calls, answers.seconds)
        if answers.measured:
            self._record(answers.measured)
        if answers.engines:
            self.on_engines(slot, answers.engines)
        if answers.due_for_replacement:
            slot.due_for_replacement = answers.due_for_replacement
        self.on_batch(slot)

    def _settle(self, calls: list[Call], outcomes: list[Outcome], answered: Answered) -> None:
        metrics = self.metrics
        now = self._clock()
        metrics.batch(calls, answered, now)
        if answered.nodes:
            self._note_nodes(calls, answered, now)
        succeeded: list[Call] = []
        for call, outcome in zip(calls, outcomes, strict=True):
            if call.cancelled:
                continue
            if isinstance(outcome, Failure):
                metrics.failed[outcome.kind] += 1
                metrics.failed_seconds += now - call.arrived
            else:
                succeeded.append(call)
                if call.cache_key and self._cache is not None:
                    self._cache.keep(call, outcome)
            try:
                call.settle(outcome)
            except Exception as error:  # noqa: BLE001 - an answer that can't be written is not its neighbours' fault
                _log.exception("%s: the answer to request %s could not be written", self.spec.ref, call.request.id)
                call.settle(Failure(Kind.HANDLER, f"the answer could not be written: {type(error).__name__}"))
        metrics.succeed(succeeded, now)

    def _note_nodes(self, calls: list[Call], answered: Answered, now: float) -> None:
        for run in answered.nodes:
            if run.node in self.inner:
                self.inner[run.node].ran(run)
        for position, call in enumerate(calls):
            call.ran(position, answered, now)

    # Failures

    async def rescue(self, slot: Slot, error: WorkerDied) -> int:
        """See to what the slot's dead worker has not answered. Returns for how many deaths, this one included, a single
        request is to blame. It is if it ran alone and hung, or ended its second worker, and others were answered."""
        if not slot.batches:
            return 0
        _log.warning("%s: %s; it was answering %s", self.spec.ref, error, _named(slot.calls))
        timed_out = slot.timed_out
        try:
            if error.killed:
                await asyncio.sleep(_TOGETHER_SECONDS)
        finally:
            first, *later = slot.batches
            slot.batches.clear()
            self._rescue(first, error, timed_out=timed_out, untouched=error.untouched and not later)
            for calls in later:  # it had not answered the first one, so it had not begun with these
                self._rescue(calls, error, timed_out=False, untouched=True)
        is_deadly = len(first) == 1 and (timed_out or first[0].attempts >= _TRIES)
        self.queue.others_first = is_deadly
        return max(1, first[0].attempts) if is_deadly and self.has_answered else 0

    def _rescue(self, calls: list[Call], error: WorkerDied, *, timed_out: bool, untouched: bool) -> None:
        """Try the requests of a dead worker once more, each alone. Fail those that were tried before, or hung alone."""
        if self.ended:
            self.fail(calls, Unavailable(str(error)))
        elif untouched and not self.spec.sequence_batching:
            self._put_again(calls)
        elif timed_out and len(calls) == 1:
            self.fail(calls, DeadlineExceeded(str(error)))
        elif self.spec.sequence_batching:  # the sequence's state died with the worker
            self.fail(calls, error)
        elif not self.spec.retry_on_worker_death:
            self.fail(calls, WorkerDied(f"{error}; it is not tried again (retryOnWorkerDeath: false)"))
        else:
            again: list[Call] = []
            lost: list[Call] = []
            for call in calls:
                call.attempts += 1
                (lost if call.attempts >= _TRIES or call.streaming else again).append(call)
            self.fail(lost, error)
            self.metrics.retried += len(again)
            self._put_again(again)

    def _put_again(self, calls: list[Call]) -> None:
        wanted = [call for call in calls if not call.cancelled]
        if wanted:
            self.queue.put_again(wanted, self._clock())
            self.wake()

    def fail(self, calls: Sequence[Call], error: PdError) -> None:
        """Settle the calls that somebody still waits for."""
        now = self._clock()
        for call in calls:
            if call.cancelled:
                continue
            self.metrics.failed[error.kind] += 1
            self.metrics.failed_seconds += now - call.arrived
            call.settle(Failure.of(error))

    def close(self) -> None:
        """Idempotent."""
        if self._cache is not None:
            self._cache.forget()
        if self._due_timer is not None:
            self._due_timer.cancel()


def _batch_queue(spec: ModelSpec) -> BatchQueue:
    if levels.is_needed(spec):
        return LevelQueue(spec)
    return BatchQueue(spec.batch_size, spec.max_batch_delay_seconds, spec.queue_size, spec.queue_bytes)


def _chunk(slot: Slot, index: int, piece: Reply) -> None:
    call = slot.batches[0][index]
    if not call.cancelled:
        call.streaming = True
        call.chunk(piece)


def _finished(slot: Slot, calls: list[Call], outcomes: list[Outcome]) -> tuple[list[Call], list[Outcome]]:
    """The calls of a step that are finished, with their outcomes. The slot keeps the others for the next step."""
    finished: list[Call] = []
    last: list[Outcome] = []
    for call, outcome in zip(calls, outcomes, strict=True):
        piece, goes_on = take_step(outcome)
        if goes_on and not call.cancelled:
            assert isinstance(piece, Reply)  # noqa: S101
            call.streaming = True
            call.chunk(piece)
            slot.unfinished.append(call)
        else:
            finished.append(call)
            last.append(piece)
    return finished, last


def _named(calls: Sequence[Call]) -> str:
    more = f" and {len(calls) - _MOST_NAMED} more" if len(calls) > _MOST_NAMED else ""
    return ", ".join(shown(call.request.id) for call in calls[:_MOST_NAMED]) + more
