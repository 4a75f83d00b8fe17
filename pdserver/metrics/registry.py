"""What the server measures: plain numbers on the hot path, families of samples when somebody asks for them.

Names and types of TorchServe (Requests2XX, ts_…) are kept where it has them, with its cumulative microseconds; the
pd_ metrics beside them have histograms and results.
"""

from __future__ import annotations

import asyncio
import socket
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from typing import Literal

from pdserver.metrics import exposition, tensorflow
from pdserver.metrics.counters import SECONDS_BOUNDS, Histogram, ModelMetrics, PoolGauges, Timed
from pdserver.metrics.custom import CustomMetrics
from pdserver.metrics.declared import MetricsConfig
from pdserver.metrics.exposition import Family, ProcessMetrics
from pdserver.metrics.families import (
    LEGACY,
    TORCHSERVE_NAMES,
    forwarded_family,
    front_end_families,
    model_labels,
    server_families,
    system_families,
    torchserve_counters,
    torchserve_last_times,
    torchserve_worker_loads,
    triton_families,
)
from pdserver.metrics.log import MetricsLog
from pdserver.metrics.shared import FrontEndGauges, Statuses, all_lags, all_statuses, own_statuses
from pdserver.metrics.tensorflow import ServingMetrics
from pdserver.system.shared_page import SharedPage
from pdserver.types import Measured, ModelRef

Mode = Literal["prometheus", "log", "legacy"]


class Metrics:
    """All metrics of one server. `http_responses[status] += 1` for each HTTP answer.

    With a `log`, TorchServe's metrics and those of handlers are written there instead of being exposed; the pd_
    metrics are always exposed, and so are, with `legacy`, TorchServe's three of its time before modes.
    """

    def __init__(
        self,
        config: MetricsConfig | None = None,
        *,
        log: MetricsLog | None = None,
        legacy: bool = False,
        auto_detect: bool = True,
        series_limit: int = 100,
        serving: bool = False,
        page: SharedPage | None = None,
    ) -> None:
        """`serving`: TensorFlow Serving's metrics are counted and exposed, too. With a `page`, so is what front ends
        count there."""
        self._own_responses = defaultdict[int, int](int)
        self.http_responses: Statuses = self._own_responses if page is None else own_statuses(page)
        self.forwarded: Counter[tuple[str, str]] = Counter()
        """Requests that were passed on, by node and outcome."""
        self.system: Sequence[Measured] = ()
        """The last sample of the machine's."""
        self.loop_lag_seconds = Histogram(SECONDS_BOUNDS)
        """How late the event loop got to what was due, ten times a second."""
        self._config = config or MetricsConfig()
        self._log = log
        self._legacy = legacy
        self._models: dict[ModelRef, ModelMetrics] = {}
        self._serving: dict[str, ServingMetrics] | None = {} if serving else None
        """By model."""
        self._gauges: Callable[[], Iterable[PoolGauges]] = tuple
        self._page = page
        self._front_ends: Callable[[], Iterable[FrontEndGauges]] = tuple
        self._host_times: dict[str, float] = {}
        self._hostname = socket.gethostname()
        self._process = ProcessMetrics()
        self._custom = CustomMetrics(
            self._config,
            auto_detect=auto_detect,
            series_limit=series_limit,
            hostname=self._hostname,
            reserved=TORCHSERVE_NAMES,
        )

    def model(self, ref: ModelRef) -> ModelMetrics:
        """The counters of `ref`, made on first use and kept until `forget`."""
        if ref not in self._models:
            serving = None if self._serving is None else self._serving.setdefault(ref.name, ServingMetrics())
            self._models[ref] = ModelMetrics(partial(self._batch, ref), partial(self.record, ref), serving)
        return self._models[ref]

    def record(self, ref: ModelRef, measured: Sequence[Measured]) -> None:
        """Take what a handler of `ref` measured."""
        for name, accepted in self._custom.accept(ref, measured):
            if self._log is None:
                self._custom.add(ref, name, accepted)
            elif self._custom.admit(ref, name, accepted):
                self._log.model_value(accepted)

    def forget(self, ref: ModelRef) -> None:
        """Drop the series of a version that is no longer served."""
        version = self._models.pop(ref, None)
        if version is not None and self._serving is not None:
            self._serving[ref.name].forget(version)
        self._custom.forget(ref)

    def gauges(self, source: Callable[[], Iterable[PoolGauges]]) -> None:
        """Have `source` asked, at each scrape, for what the pools are like."""
        self._gauges = source

    def front_ends(self, source: Callable[[], Iterable[FrontEndGauges]]) -> None:
        """Have `source` asked, at each scrape, for what the front ends are like."""
        self._front_ends = source

    def _responses(self) -> dict[int, int]:
        """Answers by status, of all processes."""
        return dict(self._own_responses) if self._page is None else all_statuses(self._page)

    def _loop_lags(self) -> Histogram:
        """Of all processes."""
        if self._page is None:
            return self.loop_lag_seconds
        lags = all_lags(self._page)
        lags.merge(self.loop_lag_seconds)
        return lags

    def collect(self) -> Iterator[Family]:
        """All that is exposed. Asked for in the event loop, it may be gone through by another thread: each collection
        that grows or shrinks meanwhile is copied at once, and what a histogram has is read at once."""
        return self._collect(list(self._gauges()), list(self._front_ends()))

    def _collect(self, pools: Sequence[PoolGauges], front_ends: Sequence[FrontEndGauges]) -> Iterator[Family]:
        models, responses = dict(self._models), self._responses()
        torchserve = self._torchserve(pools, models, responses)
        if self._log is not None:
            torchserve = (family for family in torchserve if self._legacy and family.name in LEGACY)
        yield from torchserve
        yield from server_families(responses, models, pools, self._custom.dropped(), self._loop_lags())
        yield from front_end_families(front_ends)
        yield forwarded_family(dict(self.forwarded))
        yield from triton_families(models, pools)
        if self._serving is not None:
            versions = [(ref.name, version) for ref, version in models.items()]
            yield from tensorflow.families(dict(self._serving), versions)
        if self._log is None:
            yield from self._custom.families()
        yield from self._process.families()

    def render(self, names: Sequence[str] = ()) -> tuple[bytes, str]:
        """The metrics as Prometheus text, and its content type; with `names`, only the metrics or samples so named."""
        return exposition.render(self.collect(), names), exposition.CONTENT_TYPE

    async def rendered(self, names: Sequence[str] = ()) -> tuple[bytes, str]:
        """The same, by a thread: of a hundred models, the text takes a tenth of a second."""
        return await asyncio.to_thread(exposition.render, self.collect(), names), exposition.CONTENT_TYPE

    def log_changes(self) -> None:
        """Write what has changed since the last call, if there is a log to write it to."""
        if self._log is not None:
            exposed = LEGACY if self._legacy else frozenset[str]()
            pools = list(self._gauges())
            counters = torchserve_counters(self._hostname, self._responses(), self._models)
            families = [*counters, torchserve_worker_loads(self._hostname, pools)]
            self._log.changes(f for f in families if f.name not in exposed and self._config.wants(f.name))

    def log_system(self) -> None:
        """Write the machine's metrics, if there is a log to write them to."""
        if self._log is not None:
            for gauge in self.system:
                if self._config.wants(gauge.name):
                    self._log.server_value(gauge.name, gauge.unit, gauge.value, gauge.dimensions)

    def _torchserve(
        self, pools: Sequence[PoolGauges], models: Mapping[ModelRef, ModelMetrics], responses: Mapping[int, int]
    ) -> Iterator[Family]:
        host = self._hostname
        for family in (
            *torchserve_counters(host, responses, models),
            *torchserve_last_times(host, dict(self._host_times), models),
            torchserve_worker_loads(host, pools),
            *system_families(host, self.system),
        ):
            if self._config.wants(family.name):
                yield family

    def _batch(self, ref: ModelRef, calls: Sequence[Timed], handler_seconds: float, overhead_seconds: float) -> None:
        self._host_times["QueueTime"] = (calls[-1].taken - calls[-1].arrived) * 1e3
        self._host_times["WorkerThreadTime"] = overhead_seconds * 1e3
        if self._log is not None:
            for call in calls:
                self._log_call(self._log, ref, call, handler_seconds, overhead_seconds)

    def _log_call(
        self, log: MetricsLog, ref: ModelRef, call: Timed, handler_seconds: float, overhead_seconds: float
    ) -> None:
        for name, seconds in (("QueueTime", call.taken - call.arrived), ("WorkerThreadTime", overhead_seconds)):
            if self._config.wants(name):
                log.server_value(name, "Milliseconds", seconds * 1e3, {"Level": "Host"})
        for name in ("HandlerTime", "PredictionTime"):
            if self._config.wants(name):
                labels = model_labels(ref, self._hostname)
                log.model_value(Measured(name, handler_seconds * 1e3, "ms", "gauge", labels, call.request.id))
