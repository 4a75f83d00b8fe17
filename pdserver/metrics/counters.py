"""Counters in the course of a request: plain numbers, incremented where things happen and read on demand."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Sequence
from typing import Any, Protocol, cast

import msgspec
import numpy as np

from pdserver.errors import Kind
from pdserver.types import Answered, Measured, ModelRef, NodeRun, Request

# 100 µs to 60 s, about three bounds a decade: enough for a p99 within a factor of two.
SECONDS_BOUNDS = (
    *(0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05),
    *(0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0),
)
BATCH_BOUNDS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096)
_COUNTED_AT_ONCE = 1024


class Histogram:
    """Counts of values by upper bound. To observe one is an append: they are counted many at a time, or when read."""

    __slots__ = ("_counts", "_new", "_total", "bounds")

    def __init__(self, bounds: Sequence[float]) -> None:
        self.bounds = bounds
        self._counts = np.zeros(len(bounds) + 1, np.int64)
        self._total = 0.0
        self._new: list[float] = []
        """Values that are not counted yet."""

    def observe(self, value: float) -> None:
        self._new.append(value)
        if len(self._new) >= _COUNTED_AT_ONCE:
            self._count()

    def observe_all(self, values: Sequence[float]) -> None:
        self._new += values
        if len(self._new) >= _COUNTED_AT_ONCE:
            self._count()

    @property
    def counts(self) -> list[int]:
        """`counts[i]` counts values in (bounds[i-1], bounds[i]], the last one those above."""
        self._count()
        return cast(list[int], self._counts.tolist())

    @property
    def total(self) -> float:
        """The sum of all values."""
        self._count()
        return self._total

    def merge(self, other: Histogram) -> None:
        """Count what the other one, of the same bounds, has counted."""
        self.add(other.counts, other.total)

    def add(self, counts: Sequence[int], total: float) -> None:
        """Count so many values more in each place, which are so much together."""
        self._counts += counts
        self._total += total

    def _count(self) -> None:
        places = np.searchsorted(self.bounds, self._new)
        self._counts += np.bincount(places, minlength=len(self._counts))
        self._total += sum(self._new)
        self._new.clear()


class Timed(Protocol):
    """A request's times, in monotonic seconds."""

    arrived: float
    taken: float
    entrypoint: str
    """ "REST" or "GRPC"."""

    @property
    def form(self) -> str: ...

    @property
    def request(self) -> Request: ...


OnBatch = Callable[[Sequence[Timed], float, float], None]
"""Takes the calls of a batch, the handler's seconds, and the seconds from the queue to the answer without these."""


class BatchTimes(msgspec.Struct):
    """The summed times of all batches of one size."""

    count: int = 0
    input_seconds: float = 0.0
    infer_seconds: float = 0.0
    output_seconds: float = 0.0


class Statistics(msgspec.Struct):
    """The additional counters for the Open Inference Protocol's statistics of a model.

    Each request adds the times of its whole batch.
    """

    rows: int = 0
    executions: int = 0
    input_seconds: float = 0.0
    infer_seconds: float = 0.0
    output_seconds: float = 0.0
    last_inference: float = 0.0
    """Seconds since the epoch, or 0 for never."""
    cache_hits: int = 0
    cache_hit_seconds: float = 0.0
    cache_misses: int = 0
    cache_miss_seconds: float = 0.0
    batches: dict[int, BatchTimes] = msgspec.field(default_factory=dict)
    """Batches by their number of rows."""

    def add(self, requests: int, rows: int, answered: Answered | NodeRun) -> None:
        infer = answered.seconds - answered.input_seconds - answered.output_seconds
        self.rows += rows
        self.executions += answered.executions
        self.input_seconds += requests * answered.input_seconds
        self.infer_seconds += requests * infer
        self.output_seconds += requests * answered.output_seconds
        self.last_inference = time.time()
        times = self.batches.get(rows)
        if times is None:
            times = self.batches[rows] = BatchTimes()
        times.count += 1
        times.input_seconds += answered.input_seconds
        times.infer_seconds += infer
        times.output_seconds += answered.output_seconds


class Totals(msgspec.Struct, frozen=True):
    """A version's counters at some moment."""

    succeeded: int = 0
    failed: int = 0
    failed_seconds: float = 0.0
    latency_seconds: float = 0.0
    queue_seconds: float = 0.0
    statistics: Statistics = msgspec.field(default_factory=Statistics)

    def since(self, before: Totals) -> Totals:
        """The increase since `before`."""
        found: Totals = _difference(self, before)
        last = self.statistics.last_inference
        found.statistics.last_inference = last if last > before.statistics.last_inference else 0.0
        return found


def _difference(now: Any, before: Any) -> Any:
    """The difference of two numbers, or of two containers of numbers. A missing one counts as 0."""
    if isinstance(now, msgspec.Struct):
        pairs = zip(msgspec.structs.astuple(now), msgspec.structs.astuple(before), strict=True)
        return type(now)(*(_difference(*pair) for pair in pairs))
    if isinstance(now, dict):
        return {
            key: _difference(value, before.get(key, type(value)()))
            for key, value in now.items()
            if value != before.get(key)
        }
    return now - before


class Serving(Protocol):
    """Counters that only TensorFlow Serving's metrics need, of all versions of a model."""

    def succeed(self, calls: Sequence[Timed], now: float) -> None: ...

    def batch(self, calls: Sequence[Timed], seconds: float) -> None: ...

    def warmed_up(self, path: str, seconds: float, failure: Kind | None) -> None: ...


class ModelMetrics:
    """The counters of one version of a model. Whoever serves the version keeps this object and adds to it.

    `latency_seconds` (arrival to answer) and `queue_seconds` (arrival to leaving in a batch) are observed once for
    each request that succeeded, `handler_seconds` and `batch_size` once for each batch.
    """

    __slots__ = (
        "_before", "_on_batch", "batch_size", "failed", "failed_seconds", "handler_seconds", "last_handler_seconds",
        "latency_seconds", "queue_seconds", "record", "retried", "serving", "statistics", "succeeded",
    )  # fmt: skip

    def __init__(
        self,
        on_batch: OnBatch | None = None,
        record: Callable[[Sequence[Measured]], None] = lambda _: None,
        serving: Serving | None = None,
    ) -> None:
        self.succeeded = 0
        self.failed = dict.fromkeys(Kind, 0)
        self.retried = 0
        """Requests that were run once more because their worker died."""
        self.failed_seconds = 0.0
        """Time from arrival to answer, summed over failed requests."""
        self.statistics = Statistics()
        self.latency_seconds = Histogram(SECONDS_BOUNDS)
        self.queue_seconds = Histogram(SECONDS_BOUNDS)
        self.handler_seconds = Histogram(SECONDS_BOUNDS)
        self.batch_size = Histogram(BATCH_BOUNDS)
        self.last_handler_seconds: float | None = None
        self.serving = serving
        """The counters for TensorFlow Serving's metrics; None: nobody asks for them."""
        self._on_batch = on_batch
        self.record = record
        """Called with what the model's handler measured."""
        self._before = Totals()
        """What its predecessor had done."""

    def totals(self) -> Totals:
        """A copy of the current counters."""
        return Totals(
            self.succeeded,
            sum(self.failed.values()),
            self.failed_seconds,
            self.latency_seconds.total,
            self.queue_seconds.total,
            copy.deepcopy(self.statistics),
        )

    def begin(self) -> None:
        """What is counted is a successor's from now on: metrics go on, statistics do not."""
        self._before = self.totals()

    def since_begin(self) -> Totals:
        return self.totals().since(self._before)

    def succeed(self, calls: Sequence[Timed], now: float) -> None:
        """Observe requests that were answered at `now` (monotonic seconds)."""
        self.succeeded += len(calls)
        self.queue_seconds.observe_all([call.taken - call.arrived for call in calls])
        self.latency_seconds.observe_all([now - call.arrived for call in calls])
        if self.serving is not None:
            self.serving.succeed(calls, now)

    def batch(self, calls: Sequence[Timed], answered: Answered, now: float) -> None:
        """Observe a batch that was answered at `now` (monotonic seconds)."""
        handler_seconds = answered.seconds
        self.statistics.add(len(calls), sum([call.request.rows for call in calls]), answered)
        self.handler_seconds.observe(handler_seconds)
        self.last_handler_seconds = handler_seconds
        self.batch_size.observe(len(calls))
        if self.serving is not None:
            self.serving.batch(calls, handler_seconds)
        if calls and self._on_batch is not None:
            self._on_batch(calls, handler_seconds, max(0.0, now - calls[0].taken - handler_seconds))

    def ran(self, run: NodeRun) -> None:
        """Observe a run of a node of a fused graph. It has no queue: its items wait for nothing but other nodes."""
        count, seconds = len(run.requests), run.seconds
        self.statistics.add(count, run.rows, run)
        self.handler_seconds.observe(seconds)
        self.last_handler_seconds = seconds
        self.batch_size.observe(count)
        succeeded = count - len(run.failures)
        self.succeeded += succeeded
        self.latency_seconds.observe_all([seconds] * succeeded)
        for failure in run.failures.values():
            self.failed[failure.kind] += 1
            self.failed_seconds += seconds


class PoolGauges(msgspec.Struct, frozen=True):
    """The current state of a pool."""

    ref: ModelRef
    queue_length: int
    workers: dict[str, int]
    """Number of workers by the state's name."""
    worker_restarts: int
    """Restarts since the version was registered."""
    load_seconds: dict[int, float] = {}
    """How long each serving worker took to start and load the model, by its number."""
    engines: tuple[str, ...] = ()
    """What runs the model in its workers; empty: nothing does yet, or what is the handler's own affair."""
