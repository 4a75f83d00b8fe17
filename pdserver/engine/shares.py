"""How many requests a worker takes at a time, where a batch takes it milliseconds.

Not more than its share: a worker with all that waits would leave the others batches of one, which cost more a request.
And not less, if it can be helped: clients that were answered together ask again together, but their requests come one
after the other, and whoever takes the first one at once takes it alone. So a worker that comes back from a batch
gathers its share for a moment. It costs a fraction of what the batch took, and is seldom tried where it is in vain.

What takes less than that is not worth the thought.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Sequence

from pdserver.engine.lifecycle import SERVING
from pdserver.engine.queue import BatchQueue, Call
from pdserver.engine.slot import Slot

LONG_SECONDS = 0.002
"""Of a batch."""
_PATIENCE = 0.1
"""Of the time that the last batch took."""
_MOST_PATIENCE_SECONDS = 0.005
_MOST_PASSES = 64


class Shares:
    """Of one queue, for the workers in `slots`."""

    def __init__(self, queue: BatchQueue, slots: Collection[Slot]) -> None:
        self._queue = queue
        self._slots = slots
        self._loop = asyncio.get_running_loop()
        self._passes = 0
        """How many batches are taken without gathering, since the last time that it was tried in vain."""
        self._left = 0
        """Of these, those that are to come."""
        self.gathering: dict[Slot, int] = {}
        """How many rows each slot waits for."""

    def share(self, coming: int = 0) -> int:
        """Rows for each worker, when all that waits, is run or is `coming` is divided among them; at least 1."""
        running = sum(call.request.rows for slot in self._slots for call in slot.calls)
        workers = sum(slot.state in SERVING for slot in self._slots)
        return max(1, -(-(self._queue.rows + running + coming) // max(1, workers)))

    def answered(self, slot: Slot, calls: Sequence[Call], seconds: float) -> None:
        """A batch took so long. Its clients are not told yet, and may come again."""
        queue = self._queue
        share = min(queue.batch_size, self.share(coming=sum(call.request.rows for call in calls)))
        if share <= queue.rows or share == 1 or queue.max_delay_seconds:  # who sets a delay has decided how to gather
            return
        if self._left:
            self._left -= 1
        else:
            slot.expects = share
            slot.patience_seconds = min(_PATIENCE * seconds, _MOST_PATIENCE_SECONDS)

    async def gather(self, slot: Slot) -> None:
        """Until there is what the slot expects, or its patience ends."""
        wanted, slot.expects = slot.expects, 0
        slot.wake = self._loop.create_future()
        timer = self._loop.call_later(slot.patience_seconds, slot.rouse)
        self.gathering[slot] = wanted
        try:
            await slot.wake
        finally:
            timer.cancel()
            del self.gathering[slot]
        if self._queue.rows >= wanted:
            self._passes = 0
        else:
            self._passes = self._left = min(2 * self._passes + 1, _MOST_PASSES)

    def put(self) -> None:
        """Something was put into the queue while somebody gathers."""
        for slot, wanted in self.gathering.items():
            if self._queue.rows >= wanted:
                slot.rouse()
