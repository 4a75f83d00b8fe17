"""How many requests a worker takes at a time, if its batches take milliseconds.

A worker takes no more than its share. If it took all that waits, the others would run batches of one, and these cost
more for each request.

It takes no less than its share, where that is possible. Clients that were answered together ask again together, but
their requests arrive one after the other, and a worker that took the first at once would run it alone. So a worker that
has answered a batch gathers its share for a moment, a fraction of the time that the batch took. Where gathering does
not help, it is tried seldom.

Faster models don't need this.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

from pdserver.engine.lifecycle import SERVING
from pdserver.engine.queue import BatchQueue, Call
from pdserver.engine.slot import Slot

LONG_SECONDS = 0.002
"""A batch that takes this long is worth sharing."""
_PATIENCE = 0.1
"""How long a worker gathers at most, as a part of the time that its last batch took."""
_MOST_PATIENCE_SECONDS = 0.005
_MOST_PASSES = 64


class Shares:
    """The shares of one queue, for the workers in `slots`."""

    def __init__(self, queue: BatchQueue, slots: Collection[Slot]) -> None:
        self._queue = queue
        self._slots = slots
        self._loop = asyncio.get_running_loop()
        self._passes = 0
        """How many batches are taken without gathering after it did not help."""
        self._left = 0
        """How many of these are still to come."""
        self.gathering: dict[Slot, _Gathering] = {}
        """The slots that wait for rows."""

    def share(self, coming: int = 0) -> int:
        """Rows for each worker, when all that waits, is run or is `coming` is divided among them; at least 1."""
        running = sum(call.request.rows for slot in self._slots for call in slot.calls)
        workers = sum(slot.state in SERVING for slot in self._slots)
        return max(1, -(-(self._queue.rows + running + coming) // max(1, workers)))

    def answered(self, slot: Slot, calls: Sequence[Call], seconds: float) -> None:
        """A batch took this long. Its clients have no answer yet, and may ask again when they do."""
        queue = self._queue
        share = min(queue.batch_size, self.share(coming=sum(call.request.rows for call in calls)))
        if share <= queue.rows or share == 1 or queue.max_delay_seconds:  # who sets a delay has decided how to gather
            return
        if self._left:
            self._left -= 1
        else:
            slot.expects = share
            slot.patience_seconds = min(_PATIENCE * seconds, _MOST_PATIENCE_SECONDS)

    def gather(self, slot: Slot, then: Callable[[Slot], None]) -> None:
        """Call `then` when as many rows are there as the slot expects, or its patience ends."""
        wanted, slot.expects = slot.expects, 0
        timer = self._loop.call_later(slot.patience_seconds, self._gathered, slot)
        self.gathering[slot] = _Gathering(wanted, then, timer)

    def put(self) -> None:
        """Call when a request was put into the queue while a slot gathers."""
        for slot, gathering in self.gathering.items():
            if self._queue.rows >= gathering.wanted and not gathering.due:
                gathering.due = True
                gathering.timer.cancel()
                gathering.timer = self._loop.call_soon(self._gathered, slot)

    def _gathered(self, slot: Slot) -> None:
        gathering = self.gathering.pop(slot)
        if self._queue.rows >= gathering.wanted:
            self._passes = 0
        else:
            self._passes = self._left = min(2 * self._passes + 1, _MOST_PASSES)
        gathering.then(slot)

    def leave(self, slot: Slot) -> None:
        """The slot does not gather any more, if it did."""
        gathering = self.gathering.pop(slot, None)
        if gathering is not None:
            gathering.timer.cancel()


@dataclass
class _Gathering:
    wanted: int
    """Rows."""
    then: Callable[[Slot], None]
    timer: asyncio.Handle
    due: bool = False
