"""The waiting requests of one version, and when which of them leave as a batch.

A batch leaves when it is full, or when its oldest request has waited the maximum delay since it arrived; without a
delay, as soon as somebody asks for it. Requests that were with a worker when it died come first and one by one, so
that one which kills workers has nobody beside it.

Pure: the caller brings the time (seconds, of a monotonic clock), and does the waiting.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections import deque
from collections.abc import Sequence

import msgspec

from pdserver.errors import Overloaded
from pdserver.memory_file import MemoryFile
from pdserver.types import Outcome, Reply, Request


class Call:
    """A request on its way, and where its outcome goes. Subclasses say what `settle` does with it."""

    __slots__ = (
        "arrived", "attempts", "cache_key", "cancelled", "deadline", "kept", "queue", "request", "streaming", "taken",
    )  # fmt: skip

    def __init__(self, request: Request, arrived: float, kept: Sequence[MemoryFile] = ()) -> None:
        self.request = request
        self.kept = kept
        """The request's files: they live as long as the engine may need them, which is longer than a client stays."""
        self.arrived = arrived
        """Seconds of `time.monotonic`."""
        self.deadline = math.inf
        """When it is not worth running any more."""
        self.taken = 0.0
        """When a worker took it."""
        self.attempts = 0
        """How many workers died with it."""
        self.cancelled = False
        """Nobody needs the outcome: the client is gone, or was told that its time is over."""
        self.streaming = False
        """A piece of the answer is on its way, so the request can't be run again."""
        self.cache_key = b""
        """What its answer is to be kept by; empty: it isn't."""
        self.queue: BatchQueue | None = None
        """Where it waits, or waited until it was taken."""

    @property
    def held_bytes(self) -> int:
        """The size of its inputs."""
        return sum([given.size or len(given.data) for given in self.request.inputs])

    def cancel(self) -> None:
        """Nobody needs the outcome any more; while it waits, it gives its place to another. Idempotent."""
        self.cancelled = True
        if self.queue is not None and not self.taken:
            self.queue.drop(self)

    def chunk(self, piece: Reply) -> None:
        """Called with each piece of a streamed answer, before `settle` brings the last one."""
        raise NotImplementedError

    def settle(self, outcome: Outcome) -> None:
        """Called exactly once, with the outcome."""
        raise NotImplementedError


class AwaitedCall(Call):
    """A call whose outcome is awaited in the event loop that the engine runs in; a streamed answer comes in one."""

    __slots__ = ("outcome", "pieces")

    def __init__(self, request: Request, kept: Sequence[MemoryFile] = ()) -> None:
        super().__init__(request, time.monotonic(), kept)
        self.pieces: list[bytes] = []
        self.outcome: asyncio.Future[Outcome] = asyncio.get_running_loop().create_future()

    def chunk(self, piece: Reply) -> None:
        self.pieces.append(piece.body)

    def settle(self, outcome: Outcome) -> None:
        if self.pieces and isinstance(outcome, Reply):
            outcome = msgspec.structs.replace(outcome, body=b"".join([*self.pieces, outcome.body]))
        if not self.outcome.done():
            self.outcome.set_result(outcome)


class BatchQueue:
    """First in, first out, at most `capacity` requests and `capacity_bytes` of inputs, in batches of `batch_size` rows.
    Last in, first out, when there are more with deadlines than can be answered in time.

    One request is taken in however large it is, when no other waits.
    """

    def __init__(
        self, batch_size: int, max_delay_seconds: float, capacity: int, capacity_bytes: float = math.inf
    ) -> None:
        self.batch_size = batch_size
        self.max_delay_seconds = max_delay_seconds
        self.capacity = capacity
        self.capacity_bytes = capacity_bytes
        self.expired: list[Call] = []
        """Met on the way to a batch, past their deadline; whoever takes batches settles them, too."""
        self._waiting: deque[Call] = deque()
        self._again: deque[Call] = deque()
        self._again_since = 0.0
        """When one was put there, or left, for the last time."""
        self._rows = 0
        """Of all in `_waiting`."""
        self._bytes = 0
        """Of all in `_waiting`."""

    def __len__(self) -> int:
        return len(self._waiting) + len(self._again)

    def __repr__(self) -> str:
        return f"<BatchQueue {len(self._waiting)} waiting, {len(self._again)} again>"

    @property
    def rows(self) -> int:
        """That wait, without those that are there again."""
        return self._rows

    def put(self, call: Call) -> None:
        """Raises Overloaded when the queue is full."""
        if len(self._waiting) >= self.capacity:
            raise Overloaded(
                f"{self.capacity} requests wait for this model already (job_queue_size); try again in a moment"
            )
        held_bytes = self._bytes + call.held_bytes
        if held_bytes > self.capacity_bytes and self._waiting:
            raise Overloaded(
                f"{self._bytes:,} bytes of requests wait for this model already, and {self.capacity_bytes:,} may"
                " (job_queue_bytes); try again in a moment"
            )
        call.queue = self
        self._waiting.append(call)
        self._rows += call.request.rows
        self._bytes = held_bytes

    def drop(self, call: Call) -> bool:
        """Take it out, for nobody wants it any more. Gives whether it was there."""
        try:
            self._waiting.remove(call)
        except ValueError:
            return False
        self._rows -= call.request.rows
        self._bytes -= call.held_bytes
        return True

    def put_again(self, calls: list[Call], now: float) -> None:
        """Take back what a worker died with. Never refused: it was accepted before."""
        self._again.extend(calls)
        self._again_since = now

    def due_at(self) -> float | None:
        """When a batch may leave: a time that may have passed, or None when nothing waits."""
        if self._again:
            return self._again_since
        if not self._waiting:
            return None
        oldest = self._waiting[0].arrived
        return oldest if self._rows >= self.batch_size else oldest + self.max_delay_seconds

    def take(self, now: float, worker: int = 0, room: int | None = None, held: int = 0) -> list[Call]:
        """The batch that may leave now, of at most `room` rows (None: batch_size); empty when there is none.

        `worker` says who asks; here it makes no difference. `held` is how many rows it still has, which it goes on with
        beside the new ones. Cancelled and expired requests are left out on the way.
        """
        room = min(self.batch_size if room is None else room, self.batch_size - held)
        if room <= 0 or (self._again and held):
            return []
        while self._again:
            call = self._again.popleft()
            self._again_since = now
            if self._is_wanted(call, now):
                call.taken = now
                return [call]
        due = self.due_at()
        if due is None or due > now:
            return []
        batch: list[Call] = []
        waiting = self._waiting
        newest_first = self._is_swamped(now)
        while waiting and room > 0:
            rows = waiting[-1 if newest_first else 0].request.rows
            if rows > room and (batch or held):
                break
            call = self._leave(newest_first=newest_first)
            if self._is_wanted(call, now):
                call.taken = now
                batch.append(call)
                room -= rows
        return batch

    def _is_swamped(self, now: float) -> bool:
        """Whether the oldest has used up half of its time by waiting. Who has waited so long will hardly be answered in
        time, and then neither will those behind it: the newest go first, until the old ones have expired."""
        if not self._waiting:
            return False
        oldest = self._waiting[0]
        return oldest.deadline < math.inf and now - oldest.arrived > (oldest.deadline - oldest.arrived) / 2

    def _leave(self, *, newest_first: bool = False) -> Call:
        """The first in the queue, or the last, which is there no more."""
        call = self._waiting.pop() if newest_first else self._waiting.popleft()
        self._rows -= call.request.rows
        self._bytes -= call.held_bytes
        return call

    def _is_wanted(self, call: Call, now: float) -> bool:
        """Whether it is to be run; notes it when it has expired."""
        if call.cancelled:
            return False
        if call.deadline <= now:
            self.expired.append(call)
            return False
        return True

    def answered(self, calls: list[Call], outcomes: list[Outcome]) -> None:
        """Note how a batch ended. Nothing to note here."""

    def worker_lost(self, worker: int) -> list[Call]:
        """The requests that nobody but this worker could have served. There are none here."""
        return []

    def take_all(self) -> list[Call]:
        """Everything that waits: nobody is going to serve it."""
        calls = [*self._again, *self._waiting]
        self._again.clear()
        self._waiting.clear()
        self._rows = self._bytes = 0
        return calls

    def take_older_than(self, arrived: float, stuck_since: float) -> list[Call]:
        """The requests that arrived before `arrived`.

        Those that are there again have their turn one by one, which may take its time: they are given up when none of
        them has left since `stuck_since`.
        """
        old: list[Call] = []
        if self._again_since < stuck_since:
            old += self._again
            self._again.clear()
        while self._waiting and self._waiting[0].arrived < arrived:
            old.append(self._leave())
        return old

    def take_expired(self, now: float) -> list[Call]:
        """The requests whose deadline has passed, wherever they are in the queue."""
        again = [call for call in self._again if call.deadline <= now]
        waiting = [call for call in self._waiting if call.deadline <= now]
        if again:
            self._again = deque(call for call in self._again if call.deadline > now)
        if waiting:
            self._waiting = deque(call for call in self._waiting if call.deadline > now)
            self._rows -= sum(call.request.rows for call in waiting)
            self._bytes -= sum(call.held_bytes for call in waiting)
        return again + waiting
