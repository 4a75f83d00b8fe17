"""The waiting requests of a stateful model: sequences, each bound to the worker that holds its state.

A request says by `Request.sequence` which sequence it belongs to, and whether it begins or ends it; or it names its
sequence in a header, as in TorchServe's sequence batching. One that does neither opens a sequence: the id is made here,
and told to the handler and to the client. A batch has at most one request of a sequence, and a sequence one request on
its way, so they are served in their order. A handler, too, ends sequences: by a response header with their ids,
separated by semicolons. `sequence_headers` of the model's spec names the headers.
"""

from __future__ import annotations

import math
import uuid
from collections import deque

import msgspec

from pdserver.configuration.model import ModelSpec
from pdserver.engine.queue import BatchQueue, Call
from pdserver.errors import InvalidRequest, Overloaded
from pdserver.formats.values import shown
from pdserver.types import Outcome, Reply, Request


class Sequence:
    def __init__(self, name: str, now: float) -> None:
        self.name = name
        self.opened = now
        self.active = now
        """When it last had a request."""
        self.worker: int | None = None
        """Who holds its state; nobody before its first request is taken."""
        self.busy = False
        self.waiting: deque[Call] = deque()


class SequenceQueue(BatchQueue):
    """Pure, like its parent: the caller brings the time. `capacity` is that of each sequence."""

    def __init__(self, spec: ModelSpec) -> None:
        super().__init__(spec.batch_size, spec.max_batch_delay_seconds, spec.sequence_queue_size)
        self.max_sequences = spec.max_sequences
        headers = spec.sequence_headers
        self._id_header, self._start_header = headers.id.lower().encode(), headers.start.lower().encode()
        self._end_header = headers.end.lower()
        self._max_idle_seconds = spec.sequence_max_idle_seconds or math.inf
        self._timeout_seconds = spec.sequence_timeout_seconds or math.inf
        self._sequences: dict[str, Sequence] = {}
        self._per_worker = max(1, math.ceil(spec.max_sequences / max(1, spec.min_workers)))

    def __len__(self) -> int:
        return sum(len(sequence.waiting) for sequence in self._sequences.values())

    def put(self, call: Call) -> None:
        """Raises Overloaded when the sequence has enough waiting, or there are enough sequences; InvalidRequest for a
        request that goes on with a sequence which is not open."""
        now = call.arrived
        self._close_old(now)
        name = self._name(call.request)
        sequence = self._sequences.get(name)
        if sequence is None:
            step = call.request.sequence
            if step is not None and not step.starts:
                raise InvalidRequest(
                    f"inference request for sequence {shown(name)} to model '{call.request.model}' must specify the"
                    " START flag on the first request of the sequence (parameter sequence_start)"
                )
            if len(self._sequences) >= self.max_sequences:
                raise Overloaded(f"{self.max_sequences} sequences are open already (maxNumSequence); try again later")
            if not name:
                name = f"ts-seq-{uuid.uuid4()}"
                opened = [*call.request.headers, (self._id_header, name.encode()), (self._start_header, b"true")]
                call.request = msgspec.structs.replace(call.request, headers=opened)  # others may share the old list
            sequence = self._sequences[name] = Sequence(name, now)
        if len(sequence.waiting) >= self.capacity:
            raise Overloaded(f"{self.capacity} requests of this sequence wait already (maxSequenceJobQueueSize)")
        call.queue = self
        sequence.waiting.append(call)
        sequence.active = now

    def drop(self, call: Call) -> bool:
        """Nor is a sequence open of which no worker has seen anything, and nobody waits for an answer."""
        sequence = self._of(call)
        if sequence is None or call not in sequence.waiting:
            return False
        sequence.waiting.remove(call)
        if not sequence.waiting and sequence.worker is None:
            del self._sequences[sequence.name]
        return True

    def due_at(self) -> float | None:
        waiting = [s.waiting[0].arrived for s in self._sequences.values() if s.waiting and not s.busy]
        if not waiting:
            return None
        return min(waiting) + (0.0 if len(waiting) >= self.batch_size else self.max_delay_seconds)

    def take(self, now: float, worker: int = 0, room: int | None = None, held: int = 0) -> list[Call]:
        """The first request of each sequence that this worker may serve."""
        due = self.due_at()
        if due is None or due > now:
            return []
        room = min(self.batch_size if room is None else room, self.batch_size - held)
        batch: list[Call] = []
        own = sum(sequence.worker == worker for sequence in self._sequences.values())
        for sequence in self._sequences.values():
            if len(batch) >= room:
                break
            if sequence.busy or (sequence.worker is None and own >= self._per_worker):
                continue
            if sequence.worker not in (None, worker) or (call := self._first(sequence, now)) is None:
                continue
            own += sequence.worker is None
            sequence.worker, sequence.busy = worker, True
            call.taken = now
            batch.append(call)
        return batch

    def _first(self, sequence: Sequence, now: float) -> Call | None:
        while sequence.waiting:
            call = sequence.waiting.popleft()
            if call.deadline <= now:
                self.expired.append(call)
            elif not call.cancelled:
                return call
        return None

    def answered(self, calls: list[Call], outcomes: list[Outcome]) -> None:
        for call, outcome in zip(calls, outcomes, strict=True):
            sequence = self._of(call)
            if sequence is None:
                continue
            sequence.busy = False
            sequence.active = max(sequence.active, call.taken)
            for name in self._ended(call, sequence, outcome):
                ended = self._sequences.get(name)
                if ended is not None and not ended.waiting:
                    del self._sequences[name]

    def worker_lost(self, worker: int) -> list[Call]:
        """Its sequences are closed, for their state is gone."""
        lost = [sequence for sequence in self._sequences.values() if sequence.worker == worker]
        for sequence in lost:
            del self._sequences[sequence.name]
        return [call for sequence in lost for call in sequence.waiting]

    def take_all(self) -> list[Call]:
        calls = [call for sequence in self._sequences.values() for call in sequence.waiting]
        self._sequences.clear()
        return calls

    def take_older_than(self, arrived: float, stuck_since: float) -> list[Call]:
        expired = []
        for sequence in self._sequences.values():
            while sequence.waiting and sequence.waiting[0].arrived < arrived:
                expired.append(sequence.waiting.popleft())
        return expired

    def take_expired(self, now: float) -> list[Call]:
        expired = []
        for sequence in self._sequences.values():
            late = [call for call in sequence.waiting if call.deadline <= now]
            if late:
                sequence.waiting = deque(call for call in sequence.waiting if call.deadline > now)
                expired += late
        return expired

    def _of(self, call: Call) -> Sequence | None:
        return self._sequences.get(self._name(call.request))

    def _name(self, request: Request) -> str:
        """The sequence's id; empty when the request names none."""
        if request.sequence is not None:
            return request.sequence.id
        return next((value.decode("latin-1") for name, value in request.headers if name == self._id_header), "")

    def _close_old(self, now: float) -> None:
        for sequence in list(self._sequences.values()):
            idle = not sequence.busy and not sequence.waiting and now - sequence.active > self._max_idle_seconds
            if idle or (now - sequence.opened > self._timeout_seconds and not sequence.busy and not sequence.waiting):
                del self._sequences[sequence.name]

    def _ended(self, call: Call, sequence: Sequence, outcome: Outcome) -> list[str]:
        """The sequences that the request, or its answer, says are at their end."""
        ended = []
        step = call.request.sequence
        if step is not None and step.ends:
            ended.append(sequence.name)
        if isinstance(outcome, Reply):
            values = [value for name, value in outcome.headers if name.lower() == self._end_header]
            ended += [name.strip() for value in values for name in value.split(";")]
        return ended
