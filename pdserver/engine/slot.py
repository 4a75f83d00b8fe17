"""A place for one worker of a pool."""

from __future__ import annotations

import asyncio
from datetime import datetime, timezone

from pdserver.backends.base import Worker
from pdserver.engine.lifecycle import WorkerState, check


class Slot:
    """The worker in it may be replaced. Owned by the pool; its state by the coroutine that is its life."""

    def __init__(self, number: int, device_id: int | None) -> None:
        self.number = number
        self.device_id = device_id
        self.state = WorkerState.NEW
        self.worker: Worker | None = None
        self.started = datetime.now(timezone.utc)
        self.failures = 0
        """In a row."""
        self.failing_since = 0.0
        self.busy_since = 0.0
        self.load_seconds = 0.0
        """From asking for the worker until it was ready."""
        self.timed_out = False
        self.retired = False
        self.wake: asyncio.Future[None] | None = None
        """What it waits for while it has nothing to do."""

    def __repr__(self) -> str:
        return f"<Slot {self.number} {self.state.value}>"

    def go(self, state: WorkerState) -> None:
        self.state = check(self.state, state)

    def rouse(self) -> None:
        if self.wake is not None and not self.wake.done():
            self.wake.set_result(None)
