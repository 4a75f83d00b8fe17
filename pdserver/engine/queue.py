"""The waiting requests of one version, and which of them leave as a batch, and when.

A batch leaves when it is full, or when its oldest request has waited for the maximum delay since it arrived. Without a
delay, it leaves as soon as a worker asks for it. Requests of a worker that died leave first, and one by one, so that a
request that kills workers harms no other.

Pure: the caller brings the time (seconds, of a monotonic clock), and does the waiting.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Protocol

import msgspec

from pdserver.errors import Overloaded
from pdserver.memory_file import MemoryFile
from pdserver.types import Answered, Outcome, Reply, Request


class Cancellable(Protocol):
    def cancel(self) -> None:
        """Nobody needs the outcome any more."""


class Waiting(Protocol):
    def drop(self, call: Call) -> bool:
        """Take out a call that nobody wants any more. Returns whether it was there."""


class Call:
    """A request on its way, and where its outcome goes. Subclasses say what `settle` does with it."""

    # Defaults of the class, for most requests never change them, and each one that is set takes time.
    deadline = math.inf
    """When it must not be run any more, in seconds of `time.monotonic`."""
    taken = 0.0
    """When a worker took it."""
    attempts = 0
    """How many workers died with it."""
    cancelled = False
    """Nobody needs the outcome: the client is gone, or was told that its time is over."""
    streaming = False
    """A piece of the answer has been sent, so the request can't be run again."""
    cache_key = b""
    """The key under which its answer is cached; empty: it is not cached."""
    entrypoint = "GRPC"
    """Where it came from, as TensorFlow Serving's metrics call it: "GRPC" or "REST"."""
    accepted = False
    """It is part of a request that was accepted, so no queue is too full for it."""
    depth = 0
    """How many pipelines have asked one another for it."""
    run: Cancellable | None = None
    """What a pipeline does for it now."""
    queue: Waiting | None = None
    """Where it waits, or waited until it was taken."""
    ticket = 0
    """Under which another process knows it."""
    queued_bytes = 0
    """The size of its inputs when it was put into the queue."""

    def __init__(self, request: Request, arrived: float, kept: Sequence[MemoryFile] = ()) -> None:
        self.request = request
        self.kept = kept
        """The request's files. They live as long as the engine may need them, even when the client has left."""
        self.arrived = arrived
        """Seconds of `time.monotonic`."""

    @property
    def form(self) -> str:
        """How TensorFlow Serving's REST API asked for it: "classify", "regress" or another form; empty: otherwise."""
        return getattr(self.request, "form", "")

    @property
    def held_bytes(self) -> int:
        """The size of its inputs."""
        return sum([given.size or len(given.data) for given in self.request.inputs])

    def cancel(self) -> None:
        """Say that nobody needs the outcome any more. A call that waits leaves its queue. Idempotent."""
        self.cancelled = True
        if self.queue is not None and not self.taken:
            self.queue.drop(self)
        if self.run is not None:
            self.run.cancel()

    def ran(self, position: int, answered: Answered, now: float) -> None:
        """Called before `settle` with what nodes of a fused graph did for its batch, in which it has this position."""

    def chunk(self, piece: Reply) -> None:
        """Called with each piece of a streamed answer, before `settle` brings the last one."""
        raise NotImplementedError

    def settle(self, outcome: Outcome) -> None:
        """Called exactly once, with the outcome."""
        raise NotImplementedError


class AwaitedCall(Call):
    """A call whose outcome is awaited in the event loop that the engine runs in; a streamed answer comes in one."""

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


async def ask(submit: Callable[[Call], None], request: Request, kept: Sequence[MemoryFile] = ()) -> Outcome:
    """Submit a request, and wait for its outcome. Cancelling it gives the request up. Raises what `submit` raises."""
    call = AwaitedCall(request, kept)
    submit(call)
    try:
        return await call.outcome
    finally:
        call.cancel()  # without effect once it is settled


class BatchQueue:
    """First in, first out, in batches of `batch_size` rows. Last in, first out, when more requests have deadlines than
    can be answered in time.

    It holds at most `capacity` requests with `capacity_bytes` of inputs, and one request of any size.
    """

    def __init__(
        self, batch_size: int, max_delay_seconds: float, capacity: int, capacity_bytes: float = math.inf
    ) -> None:
        self.batch_size = batch_size
        self.max_delay_seconds = max_delay_seconds
        self.capacity = capacity
        self.capacity_bytes = capacity_bytes
        self.expired: list[Call] = []
        """Requests that `take` found past their deadline. Its caller settles them."""
        self.others_first = False
        """Whether requests that wait go before those of a worker that died, once: the last of these was deadly, and the
        next one may be, too."""
        self._waiting: deque[Call] = deque()
        self._again: deque[Call] = deque()
        self._again_since = 0.0
        """When a request was last put there, or taken from there."""
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
        """How many rows wait, without those of a worker that died."""
        return self._rows

    def put(self, call: Call) -> None:
        """Raises Overloaded when the queue is full."""
        if len(self._waiting) >= self.capacity and not call.accepted:
            raise Overloaded(
                f"{self.capacity} requests wait for this model already (job_queue_size); try again in a moment"
            )
        size = call.queued_bytes = call.held_bytes
        held_bytes = self._bytes + size
        if held_bytes > self.capacity_bytes and self._waiting and not call.accepted:
            raise Overloaded(
                f"{self._bytes:,} bytes of requests wait for this model already, and {self.capacity_bytes:,} may"
                " (job_queue_bytes); try again in a moment"
            )
        call.queue = self
        self._waiting.append(call)
        self._rows += call.request.rows
        self._bytes = held_bytes

    def drop(self, call: Call) -> bool:
        """Take out a call that nobody wants any more. Returns whether it was there."""
        try:
            self._waiting.remove(call)
        except ValueError:
            return False
        self._rows -= call.request.rows
        self._bytes -= call.queued_bytes
        return True

    def put_again(self, calls: list[Call], now: float) -> None:
        """Take back the requests of a worker that died. They were accepted before, so they are not refused now."""
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

        `worker` says who asks; here it makes no difference. `held` is how many rows the worker goes on with beside the
        new ones. Cancelled and expired requests are left out.
        """
        room = min(self.batch_size if room is None else room, self.batch_size - held)
        if room <= 0 or (self._again and held):
            return []
        others_first, self.others_first = self.others_first and bool(self._waiting), False
        while self._again and not others_first:
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
        """Whether the oldest request has used up half of its time by waiting. It will hardly be answered in time, and
        neither will those behind it. So the newest go first, until the old ones have expired."""
        if not self._waiting:
            return False
        oldest = self._waiting[0]
        return oldest.deadline < math.inf and now - oldest.arrived > (oldest.deadline - oldest.arrived) / 2

    def _leave(self, *, newest_first: bool = False) -> Call:
        """Take the first request out of the queue, or the last."""
        call = self._waiting.pop() if newest_first else self._waiting.popleft()
        self._rows -= call.request.rows
        self._bytes -= call.queued_bytes
        return call

    def _is_wanted(self, call: Call, now: float) -> bool:
        """Whether a request is to be run. One that has expired is noted in `expired`."""
        if call.cancelled:
            return False
        if call.deadline <= now:
            self.expired.append(call)
            return False
        return True

    def answered(self, calls: list[Call], outcomes: list[Outcome]) -> None:
        """Note how a batch ended. Nothing to note here."""

    def worker_lost(self, worker: int) -> list[Call]:
        """Take out the requests that only this worker could serve. There are none here."""
        return []

    def take_all(self) -> list[Call]:
        """Take out all requests: nobody is going to serve them."""
        calls = [*self._again, *self._waiting]
        self._again.clear()
        self._waiting.clear()
        self._rows = self._bytes = 0
        return calls

    def take_older_than(self, arrived: float, stuck_since: float) -> list[Call]:
        """Take out the requests that arrived before `arrived`.

        Requests of a worker that died leave one by one, which takes time: they are taken out when none of them has left
        since `stuck_since`.
        """
        old: list[Call] = []
        if self._again_since < stuck_since:
            old += self._again
            self._again.clear()
        while self._waiting and self._waiting[0].arrived < arrived:
            old.append(self._leave())
        return old

    def take_expired(self, now: float) -> list[Call]:
        """Take out the requests whose deadline has passed, wherever they are in the queue."""
        again = [call for call in self._again if call.deadline <= now]
        waiting = [call for call in self._waiting if call.deadline <= now]
        if again:
            self._again = deque(call for call in self._again if call.deadline > now)
        if waiting:
            self._waiting = deque(call for call in self._waiting if call.deadline > now)
            self._rows -= sum(call.request.rows for call in waiting)
            self._bytes -= sum(call.queued_bytes for call in waiting)
        return again + waiting
