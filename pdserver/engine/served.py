"""What the engine asks of all that is served, whatever it is made of."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, Protocol

import msgspec

from pdserver.configuration.model import ModelSpec, PartialSettings
from pdserver.engine.catalogue import ServedVersion
from pdserver.engine.lifecycle import VersionState, WorkerState
from pdserver.engine.queue import Call
from pdserver.errors import InvalidRequest
from pdserver.metrics.counters import ModelMetrics, PoolGauges, Totals
from pdserver.types import Interface, ModelRef, RunningEngine


class WorkerDetails(msgspec.Struct, frozen=True):
    """One worker, or the place for one that is to come."""

    id: int | None
    """None, as `pid`, while there is no process."""
    pid: int | None
    started: datetime
    state: WorkerState
    has_device: bool
    engines: tuple[RunningEngine, ...] = ()
    """What runs the model; empty until it is loaded, and where that is the handler's own affair."""
    node: str = ""
    """The path of the pipeline's node that it serves."""


class Details(msgspec.Struct, frozen=True):
    """What operators see of a version, beside what the catalogue has."""

    workers: list[WorkerDetails]
    waiting: int
    """Requests in the queue."""
    restarts: int
    """Workers that have failed since it was registered."""
    loaded_at_start: bool
    nodes: list[NodeDetails] = []
    """Of a pipeline."""


class NodeDetails(msgspec.Struct, frozen=True):
    """One node of a pipeline."""

    path: str
    model: str
    """Who serves it, with the version; why nobody does, when nobody does."""
    state: VersionState
    serving: int
    """Workers."""
    wanted: int
    """Workers."""
    waiting: int
    """Requests in its queue, of all pipelines."""
    totals: Totals
    """What its workers have done, for all pipelines."""
    engines: tuple[RunningEngine, ...] = ()
    """As of a worker; of a process that nodes share, what runs all of their models."""
    fused_in: str = ""
    """The path of the process that it shares with other nodes, and in which it has no queue of its own."""


class Served(Protocol):
    """What can be asked under a name and version: the pool of a version's workers is one, a pipeline another.

    It tells the engine when something changes of what `view` shows.
    """

    metrics: ModelMetrics
    min_workers: int
    """How many workers are wanted; of a pipeline, for each node that does not say it itself."""
    max_workers: int | None
    """How many may be wanted; None: any number."""
    uses: frozenset[str]
    """The names of other models that it asks."""
    node_refs: frozenset[ModelRef]
    """Under which a pipeline's own nodes are counted."""

    @property
    def spec(self) -> ModelSpec: ...

    @property
    def interface(self) -> Interface | None:
        """What typed requests can say to it; None until its workers have loaded it."""

    def submit(self, call: Call) -> None:
        """Take a request in; its outcome comes by `call.settle`. Raises PdError when it is refused, and counts that."""

    def view(self) -> ServedVersion:
        """As it is now."""

    def details(self) -> Details: ...

    def gauges(self) -> Sequence[PoolGauges]:
        """Of it, and of what it alone asks."""

    def statistics(self) -> Totals:
        """What it has done since it was loaded."""

    def scale(self, min_workers: int, max_workers: int | None = None) -> None:
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


def most_workers(served: Served, wanted: int, limit: int | None) -> int | None:
    """The limit from now on; `limit` None leaves it as it is. Raises InvalidRequest for more workers than that."""
    most = served.max_workers if limit is None else limit
    if most is not None and wanted > most:
        raise InvalidRequest(
            f"min_worker={wanted}: more than maxWorkers={most} of {served.spec.ref}: ask for fewer, or say"
            f" max_worker={wanted} as well, which raises the limit"
        )
    return most
