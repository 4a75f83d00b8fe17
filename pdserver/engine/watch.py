"""What the passing of time means for one version: workers that take too long, requests that nobody took in time.

It looks four times a second, for as long as there is work.
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
"""Times the responseTimeout: for a worker that hangs with one of those that are tried again, and for the next one."""


class Watch:
    """`slots` are all of the pool's; `why_slow` says more of why nobody took a request, if there is more to say."""

    def __init__(
        self,
        dispatch: Dispatch,
        slots: Collection[Slot],
        clock: Callable[[], float],
        why_slow: Callable[[], str],
        on_worn: Callable[[], None],
    ) -> None:
        self._dispatch = dispatch
        self._slots = slots
        self._clock = clock
        self._why_slow = why_slow
        self._on_worn = on_worn
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
        """Workers that have had their batch for too long."""
        limit = self._dispatch.spec.response_timeout_seconds
        for slot in busy:
            if slot.busy_since < now - limit and slot.worker is not None and not slot.timed_out:
                slot.timed_out = True
                slot.worker.abort(f"did not answer within {limit:g} s (responseTimeout)")

    def _end_late(self, busy: Sequence[Slot], now: float) -> None:
        """Requests whose own deadline has passed: not run, or not waited for; the worker goes on with their batch."""
        waiting = self._dispatch.queue.take_expired(now)
        self._dispatch.fail(waiting, DeadlineExceeded("it waited longer than its deadline, and was not run"))
        late = [call for slot in busy for call in slot.calls if _is_late(call, now)]
        self._dispatch.fail(late, DeadlineExceeded("the answer did not come before the request's deadline"))
        for call in late:
            call.cancel()

    def _end_stale(self, now: float) -> None:
        """Requests that have waited for as long as an answer may take."""
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
                self._on_worn()

    def close(self) -> None:
        """Idempotent."""
        if self._timer is not None:
            self._timer.cancel()


def _is_late(call: Call, now: float) -> bool:
    """Whether its client does not want the answer any more; what the model's settings say is about waiting alone."""
    timeout = call.request.timeout_seconds
    return 0 < timeout <= now - call.arrived and call.deadline <= now and not (call.streaming or call.cancelled)
