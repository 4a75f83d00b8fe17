"""What the engine asks of all that is served, whatever it is made of."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any, Protocol

import msgspec

from pdserver.configuration.model import ModelSpec, PartialSettings
from pdserver.engine.catalogue import ServedVersion
from pdserver.engine.lifecycle import WorkerState
from pdserver.engine.queue import Call
from pdserver.metrics.counters import PoolGauges, Totals


class WorkerDetails(msgspec.Struct, frozen=True):
    """One worker, or the place for one that is to come."""

    id: int | None
    """None, as `pid`, while there is no process."""
    pid: int | None
    started: datetime
    state: WorkerState
    has_device: bool


class Details(msgspec.Struct, frozen=True):
    """What operators see of a version, beside what the catalogue has."""

    workers: list[WorkerDetails]
    waiting: int
    """Requests in the queue."""
    restarts: int
    """Workers that have failed since it was registered."""
    loaded_at_start: bool


class Served(Protocol):
    """What can be asked under a name and version: the pool of a version's workers is one.

    It tells the engine when something changes of what `view` shows.
    """

    @property
    def spec(self) -> ModelSpec: ...

    def submit(self, call: Call) -> None:
        """Take a request in; its outcome comes by `call.settle`. Raises PdError when it is refused, and counts that."""

    def view(self) -> ServedVersion:
        """As it is now."""

    def details(self) -> Details: ...

    def gauges(self) -> PoolGauges: ...

    def statistics(self) -> Totals:
        """What it has done since it was loaded."""

    def scale(self, min_workers: int, max_workers: int | None) -> None:
        """Want this many workers, which start and stop by themselves; `max_workers` is the limit from now on, None
        leaves it as it is. Raises InvalidRequest, and changes nothing, for more workers than the limit."""

    def change(self, settings: PartialSettings) -> None:
        """Take over the batch size, batch delay and response timeout, where they are given, from the next batch on."""

    def change_manifest(self, manifest: Mapping[str, Any]) -> None:
        """Take over a manifest in which nothing that workers read is different."""

    async def settled(self) -> None:
        """Until all wanted workers serve. Raises LoadFailed when one can't, Conflict when it is closed first."""

    async def close(self, drain_seconds: float) -> None:
        """Stop taking requests, answer what was taken within the time, and end. Idempotent."""

    def hurry(self) -> None:
        """End at once what `close` still waits for."""
