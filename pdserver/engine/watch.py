"""The time limits of one version: it ends workers that take too long, and requests that have waited too long.

It looks four times a second while there is work.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Sequence

from pdserver.engine.dispatch import Dispatch
from pdserver.engine.lifecycle import WorkerState
from pdserver.engine.queue import Call
from pdserver.engine.slot import Slot
from pdserver.errors import DeadlineExceeded

_INTERVAL_SECONDS = 0.25
_STUCK = 3
"""So many times the responseTimeout: for a worker that hangs with a request that is tried again, and for the next."""


class Watch:
    """`slots` are the pool's. `why_slow` gives a reason why nobody took a request, or "". `on_due` is called when a
    worker is due for replacement."""

    def __init__(
        self,
        dispatch: Dispatch,
        slots: Collection[Slot],
        clock: Callable[[], float],
        why_slow: Callable[[], str],
        on_due: Callable[[], None],
    ) -> None:
        self._dispatch = dispatch
        self._slots = slots
        self._clock = clock
        self._why_slow = why_slow
        self._on_due = on_due
        self._loop = asyncio.get_running_loop()
        self._timer: asyncio.TimerHandle | None = None
        dispatch.on_work = self._begin

    def _begin(self) -> None:
        self._dispatch.watched = True
        self._timer = self._loop.call_later(_INTERVAL_SECONDS, self._look)

    def _look(self) -> None:
        dispatch = self._dispatch
        now = self._clock()
        busy = [slot for slot in self._slots if slot.state is WorkerState.BUSY]
        self._end_slow(busy, now)
        if dispatch.deadlines:
            self._end_late(busy, now)
        self._end_stale(now)
        if dispatch.spec.max_worker_memory_bytes:
            self._weigh()
        dispatch.wake()  # a sequence may have been closed, and made room for another
        if len(dispatch.queue) or busy:
            self._timer = self._loop.call_later(_INTERVAL_SECONDS, self._look)
        else:
            self._timer = None
            dispatch.watched = dispatch.deadlines = False

    def _end_slow(self, busy: Sequence[Slot], now: float) -> None:
        """End workers that have had their batch for too long."""
        limit = self._dispatch.spec.response_timeout_seconds
        for slot in busy:
            if slot.busy_since < now - limit and slot.worker is not None and not slot.timed_out:
                slot.timed_out = True
                slot.worker.abort(f"did not answer within {limit:g} s (responseTimeout)")

    def _end_late(self, busy: Sequence[Slot], now: float) -> None:
        """Fail requests whose own deadline has passed. A worker that runs one goes on with its batch."""
        waiting = self._dispatch.queue.take_expired(now)
        self._dispatch.fail(waiting, DeadlineExceeded("it waited longer than its deadline, and was not run"))
        late = [call for slot in busy for call in slot.calls if _is_late(call, now)]
        self._dispatch.fail(late, DeadlineExceeded("the answer did not come before the request's deadline"))
        for call in late:
            call.cancel()

    def _end_stale(self, now: float) -> None:
        """Fail requests that have waited for as long as an answer may take."""
        limit = self._dispatch.spec.response_timeout_seconds
        stale = self._dispatch.queue.take_older_than(now - limit, now - _STUCK * limit)
        if stale:
            words = f"no worker was free within {limit:g} s (responseTimeout){self._why_slow()}"
            self._dispatch.fail(stale, DeadlineExceeded(words))

    def _weigh(self) -> None:
        """Find workers that have grown too large."""
        most = self._dispatch.spec.max_worker_memory_bytes
        for slot in self._slots:
            if slot.worker is not None and not slot.due_for_replacement and (held := slot.worker.memory_bytes()) > most:
                slot.due_for_replacement = f"it holds {held >> 20} MiB (maxWorkerMemoryMb: {most >> 20})"
                self._on_due()

    def close(self) -> None:
        """Idempotent."""
        if self._timer is not None:
            self._timer.cancel()


def _is_late(call: Call, now: float) -> bool:
    """Whether its client does not want the answer any more; what the model's settings say is about waiting alone."""
    timeout = call.request.timeout_seconds
    return 0 < timeout <= now - call.arrived and call.deadline <= now and not (call.streaming or call.cancelled)
