"""A place for one worker of a pool."""

from __future__ import annotations

import asyncio
from collections import deque
from datetime import datetime, timezone

from pdserver.backends.base import Worker
from pdserver.engine.lifecycle import WorkerState, check
from pdserver.engine.queue import Call
from pdserver.types import RunningEngine


class Slot:
    """The worker in it may be replaced. The pool owns it; the coroutine that runs it owns its state."""

    def __init__(self, number: int, device_id: int | None) -> None:
        self.number = number
        self.device_id = device_id
        self.state = WorkerState.NEW
        self.worker: Worker | None = None
        self.started = datetime.now(timezone.utc)
        self.failures = 0
        """In a row."""
        self.loads = 0
        """How many of its workers have become ready."""
        self.unready = 0
        """Workers in a row that died before they were ready."""
        self.cannot_load = False
        """Its workers failed in a way that the next ones will, too."""
        self.wanted_since = 0.0
        """When its worker was asked for."""
        self.batches: deque[list[Call]] = deque()
        """The batches that its worker has and has not answered, the oldest first."""
        self.unfinished: list[Call] = []
        """The requests that its worker goes on with step by step, between two steps."""
        self.busy_since = 0.0
        """Since when its worker has run the oldest batch."""
        self.ready_since = 0.0
        """0: its worker is not ready yet."""
        self.load_seconds = 0.0
        """From asking for the worker until it was ready."""
        self.engines: tuple[RunningEngine, ...] = ()
        """What its worker runs the model by."""
        self.served = 0
        """How many requests its worker has answered."""
        self.plain = False
        """Its worker runs without the accelerations that are on by default."""
        self.timed_out = False
        """Its worker was ended because it took too long."""
        self.explained = 0
        """For how many deaths a single request is to blame that ended its worker; 0: none is."""
        self.due_for_replacement = ""
        """Why its worker should be replaced, once it should."""
        self.being_replaced = False
        """Its worker is to end after its batch, for another one."""
        self.retired = False
        self.expects = 0
        """The rows that its worker waits for before it takes its next batch; 0: it takes what there is."""
        self.patience_seconds = 0.0
        """For how long it waits at most."""
        self.wake: asyncio.Future[None] | None = None
        """What the slot's coroutine waits for: the end of a pause, or that its worker takes no batches any more."""
        self.gone = False
        """Its worker has died."""

    def __repr__(self) -> str:
        return f"<Slot {self.number} {self.state.value}>"

    @property
    def calls(self) -> list[Call]:
        """The requests that its worker has and has not answered."""
        return [call for batch in self.batches for call in batch]

    @property
    def leaving(self) -> bool:
        """Whether its worker gets no more batches."""
        return self.retired or self.being_replaced

    def go(self, state: WorkerState) -> None:
        self.state = check(self.state, state)

    def want(self, now: float) -> None:
        """A worker is asked for."""
        self.wanted_since = now
        self.ready_since = 0.0
        self.timed_out = False
        self.explained = 0

    def admit(self, worker: Worker) -> None:
        """Take in a new worker, which has not loaded the model yet."""
        self.worker = worker
        self.started = datetime.now(timezone.utc)
        self.engines = ()
        self.served = 0
        self.expects = 0
        self.gone = False
        self.being_replaced = False
        self.due_for_replacement = ""

    def ready(self, now: float, engines: tuple[RunningEngine, ...]) -> None:
        """Its worker has loaded the model, which these engines run."""
        self.engines = engines
        self.ready_since = now
        self.load_seconds = now - self.wanted_since
        self.loads += 1
        self.unready = 0
        self.cannot_load = False

    def rouse(self) -> None:
        if self.wake is not None and not self.wake.done():
            self.wake.set_result(None)
