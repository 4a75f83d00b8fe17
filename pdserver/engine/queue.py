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

import msgspec

from pdserver.errors import Overloaded
from pdserver.types import Outcome, Reply, Request


class Call:
    """A request on its way, and where its outcome goes. Subclasses say what `settle` does with it."""

    __slots__ = ("arrived", "attempts", "cancelled", "deadline", "request", "streaming", "taken")

    def __init__(self, request: Request, arrived: float) -> None:
        self.request = request
        self.arrived = arrived
        """Seconds of `time.monotonic`."""
        self.deadline = math.inf
        """When it is not worth running any more."""
        self.taken = 0.0
        """When a worker took it."""
        self.attempts = 0
        """How many workers died with it."""
        self.cancelled = False
        """The client is gone: nobody needs the outcome."""
        self.streaming = False
        """A piece of the answer is on its way, so the request can't be run again."""

    def chunk(self, piece: Reply) -> None:
        """Called with each piece of a streamed answer, before `settle` brings the last one."""
        raise NotImplementedError

    def settle(self, outcome: Outcome) -> None:
        """Called exactly once, with the outcome."""
        raise NotImplementedError


class AwaitedCall(Call):
    """A call whose outcome is awaited in the event loop that the engine runs in; a streamed answer comes in one."""

    __slots__ = ("outcome", "pieces")

    def __init__(self, request: Request) -> None:
        super().__init__(request, time.monotonic())
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
    """First in, first out, at most `capacity` requests, in batches of `batch_size` rows."""

    def __init__(self, batch_size: int, max_delay_seconds: float, capacity: int) -> None:
        self.batch_size = batch_size
        self.max_delay_seconds = max_delay_seconds
        self.capacity = capacity
        self.expired: list[Call] = []
        """Met on the way to a batch, past their deadline; whoever takes batches settles them, too."""
        self._waiting: deque[Call] = deque()
        self._again: deque[Call] = deque()
        self._rows = 0
        """Of all in `_waiting`."""

    def __len__(self) -> int:
        return len(self._waiting) + len(self._again)

    def __repr__(self) -> str:
        return f"<BatchQueue {len(self._waiting)} waiting, {len(self._again)} again>"

    def put(self, call: Call) -> None:
        """Raises Overloaded when the queue is full."""
        if len(self._waiting) >= self.capacity:
            raise Overloaded(
                f"{self.capacity} requests wait for this model already (job_queue_size); try again in a moment"
            )
        self._waiting.append(call)
        self._rows += call.request.rows

    def put_again(self, calls: list[Call]) -> None:
        """Take back what a worker died with. Never refused: it was accepted before."""
        self._again.extend(calls)

    def due_at(self) -> float | None:
        """When a batch may leave: a time that may have passed, or None when nothing waits."""
        if self._again:
            return self._again[0].arrived
        if not self._waiting:
            return None
        oldest = self._waiting[0].arrived
        return oldest if self._rows >= self.batch_size else oldest + self.max_delay_seconds

    def take(self, now: float, worker: int = 0, room: int | None = None) -> list[Call]:
        """The batch that may leave now, of at most `room` rows (None: batch_size); empty when there is none.

        `worker` says who asks; here it makes no difference. Cancelled and expired requests are left out on the way.
        """
        while self._again:
            call = self._again.popleft()
            if not call.cancelled:
                call.taken = now
                return [call]
        due = self.due_at()
        if due is None or due > now:
            return []
        batch: list[Call] = []
        waiting = self._waiting
        room = self.batch_size if room is None else room
        while waiting and room > 0:
            rows = waiting[0].request.rows
            if rows > room and batch:
                break
            call = waiting.popleft()
            self._rows -= rows
            if call.cancelled:
                continue
            if call.deadline <= now:
                self.expired.append(call)
                continue
            call.taken = now
            batch.append(call)
            room -= rows
        return batch

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
        self._rows = 0
        return calls

    def take_older_than(self, arrived: float) -> list[Call]:
        """The requests that arrived before this time."""
        expired = []
        while self._again and self._again[0].arrived < arrived:
            expired.append(self._again.popleft())
        while self._waiting and self._waiting[0].arrived < arrived:
            call = self._waiting.popleft()
            self._rows -= call.request.rows
            expired.append(call)
        return expired
