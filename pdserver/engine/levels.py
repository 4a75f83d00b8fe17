"""The waiting requests of a version with priorities, queue policies or preferred batch sizes.

Source: Triton's dynamic batcher. A higher priority always goes first. A request that has waited longer than its policy
allows fails, or goes behind the others of its priority. A batch of a preferred size leaves at once, of the largest size
that is possible. Other batches wait for more requests, up to the delay, and then leave with as many as they can hold.
"""

from __future__ import annotations

import math
from collections import deque
from itertools import accumulate

from pdserver.configuration.model import ModelSpec, QueuePolicy
from pdserver.engine.queue import BatchQueue, Call
from pdserver.errors import Overloaded


def is_needed(spec: ModelSpec) -> bool:
    """Whether the model asks for more than the plain queue does."""
    plain = QueuePolicy(allow_timeout_override=spec.queue_policy.allow_timeout_override)
    return bool(spec.priority_levels or spec.preferred_batch_sizes or spec.queue_policy != plain)


class LevelQueue(BatchQueue):
    """Keeps its parent's one queue in the order in which requests leave. Pure, as its parent is.

    The queue has two segments for each priority: requests in time, then those that were put off.
    """

    def __init__(self, spec: ModelSpec) -> None:
        super().__init__(spec.batch_size, spec.max_batch_delay_seconds, spec.queue_size, spec.queue_bytes)
        self._spec = spec
        self._preferred = spec.preferred_batch_sizes
        self._counts = [0, 0] * max(1, spec.priority_levels)
        """How many requests are in each segment."""
        self._put_off_at: dict[Call, float] = {}
        """When requests that are in time are put off."""
        self._put_off: set[Call] = set()

    def put(self, call: Call) -> None:
        """Raises Overloaded when its priority, or the whole queue, has enough waiting."""
        priority = self._priority(call)
        policy = self._spec.priority_queue_policies.get(priority, self._spec.queue_policy)
        segment = 2 * (priority - 1)
        if policy.max_queue_size and sum(self._counts[segment : segment + 2]) >= policy.max_queue_size:
            raise Overloaded(
                f"{policy.max_queue_size} requests like this wait already (queuePolicy.maxQueueSize); try again in a"
                " moment"
            )
        super().put(call)
        self._set_times(call, policy)
        self._move_last(segment)

    def drop(self, call: Call) -> bool:
        found = super().drop(call)
        if found:
            self._forget(call)
        return found

    def due_at(self) -> float | None:
        if self._again or not self._waiting:
            return super().due_at()
        ready = self._preferred_rows() if self._preferred else self._rows >= self.batch_size
        return self._oldest() if ready else self._oldest() + self.max_delay_seconds

    def take(self, now: float, worker: int = 0, room: int | None = None, held: int = 0) -> list[Call]:
        for call in [call for call, at in self._put_off_at.items() if at <= now]:
            self._waiting.remove(call)
            segment = self._forget(call)
            self._put_off.add(call)
            self._waiting.append(call)
            self._move_last(segment + 1)
        if self._preferred and self._waiting and not self._is_late(now):
            room = self._preferred_rows() or room
        return super().take(now, worker, room, held)

    def take_all(self) -> list[Call]:
        calls = super().take_all()
        self._recount()
        return calls

    def take_older_than(self, arrived: float, stuck_since: float) -> list[Call]:
        waiting, self._waiting = self._waiting, deque()
        old = super().take_older_than(arrived, stuck_since)
        late = [call for call in waiting if call.arrived < arrived]
        gone = set(late)
        self._waiting = deque(call for call in waiting if call not in gone) if late else waiting
        if late:
            self._rows -= sum(call.request.rows for call in late)
            self._bytes -= sum(call.queued_bytes for call in late)
            self._recount()
        return old + late

    def take_expired(self, now: float) -> list[Call]:
        expired = super().take_expired(now)
        if expired:
            self._recount()
        return expired

    def _oldest(self) -> float:
        """When the request arrived that has waited longest. Each segment is in the order of arrival."""
        if self._counts[0] == len(self._waiting):
            return self._waiting[0].arrived
        starts = accumulate(self._counts, initial=0)
        return min(self._waiting[at].arrived for at, count in zip(starts, self._counts, strict=False) if count)

    def _is_late(self, now: float) -> bool:
        """Whether the time to wait for a preferred size is over, if there is any."""
        return bool(self.max_delay_seconds) and now >= self._oldest() + self.max_delay_seconds

    def _preferred_rows(self) -> int:
        """How many rows a batch has that need not wait; 0: none can leave yet.

        The first requests make a batch of the largest preferred size that their rows add up to; of all that fit, if the
        next one would exceed the largest preferred size.
        """
        sizes = [size for size in self._preferred if size <= self.batch_size] or [self.batch_size]
        found = rows = 0
        for call in self._waiting:
            if rows and rows + call.request.rows > sizes[-1]:
                return found or rows
            rows += call.request.rows
            if rows in sizes:
                found = rows
        return found or (rows if rows >= sizes[-1] else 0)

    def _is_swamped(self, now: float) -> bool:
        return False  # priorities and policies alone say who goes first

    def _leave(self, *, newest_first: bool = False) -> Call:
        call = super()._leave(newest_first=newest_first)
        self._forget(call)
        return call

    def _priority(self, call: Call) -> int:
        """From 1; the default for a request that has none, or an unknown one."""
        levels = self._spec.priority_levels
        given = call.request.priority
        return given if 0 < given <= levels else self._spec.default_priority or max(1, levels)

    def _set_times(self, call: Call, policy: QueuePolicy) -> None:
        own = call.request.timeout_seconds if policy.allow_timeout_override else 0.0
        limits = [seconds for seconds in (own, policy.timeout_seconds) if seconds]
        late = call.arrived + min(limits) if limits else math.inf
        if policy.timeout_action == "delay":
            if late < math.inf:
                self._put_off_at[call] = late
            late = math.inf
        most = self._spec.client_timeout_seconds
        call.deadline = min(late, call.arrived + most) if most else late

    def _move_last(self, segment: int) -> None:
        """Move the last request of the queue to the end of a segment."""
        self._counts[segment] += 1
        after = sum(self._counts[segment + 1 :])
        if after:
            call = self._waiting.pop()
            self._waiting.insert(len(self._waiting) - after, call)

    def _forget(self, call: Call) -> int:
        """Note that a request has left its segment. Returns the segment."""
        segment = self._segment(call)
        self._counts[segment] -= 1
        self._put_off_at.pop(call, None)
        self._put_off.discard(call)
        return segment

    def _segment(self, call: Call) -> int:
        return 2 * (self._priority(call) - 1) + (call in self._put_off)

    def _recount(self) -> None:
        """Count again after many requests have left at once."""
        waiting = set(self._waiting)
        self._put_off &= waiting
        self._put_off_at = {call: at for call, at in self._put_off_at.items() if call in waiting}
        self._counts = [0] * len(self._counts)
        for call in self._waiting:
            self._counts[self._segment(call)] += 1
