"""Periodic work of the metrics: measures the machine, writes log lines, feeds sinks."""

from __future__ import annotations

import asyncio
import logging
import socket
import time
from collections.abc import Sequence

from pdserver.configuration.server import Config
from pdserver.logs.batched import LineLog
from pdserver.metrics.declared import MetricsConfig, load_metrics_config
from pdserver.metrics.exposition import Family
from pdserver.metrics.log import MetricsLog
from pdserver.metrics.registry import Metrics
from pdserver.metrics.sinks import RunningSink
from pdserver.metrics.system import SystemMetrics
from pdserver.system.shared_page import SharedPage

_log = logging.getLogger("pdserver.metrics")
_LOG_SECONDS = 1.0
_LAG_SECONDS = 0.1


class Telemetry:
    """The server's `metrics`, as configured. Raises ConfigError for a bad metrics.yaml."""

    def __init__(self, config: Config, sinks: Sequence[RunningSink], page: SharedPage | None = None) -> None:
        """`page` is what the server's processes share, if there are several."""
        self._interval_seconds = config.metric_time_interval_seconds
        self._system = None if config.disable_system_metrics else SystemMetrics()
        self._sinks = sinks
        self._lines: list[LineLog] = []
        self._tasks: list[asyncio.Task[None]] = []
        declared = load_metrics_config(config.metrics_config) if config.metrics_config else MetricsConfig()
        self.of_models = tuple(declared.model.values())
        """The handlers' metrics that metrics.yaml declares."""
        self.metrics = Metrics(
            declared,
            log=None if config.metrics_mode == "prometheus" else self._metrics_log(each=config.log_config is not None),
            legacy=config.metrics_mode == "legacy",
            auto_detect=config.model_metrics_auto_detect,
            series_limit=config.model_metrics_series_limit,
            serving=bool(config.tensorflow_metrics_path),
            page=page,
        )

    def _metrics_log(self, *, each: bool) -> MetricsLog:
        self._lines = [
            LineLog(logging.getLogger(f"pdserver.{name}"), each=each) for name in ("ts_metrics", "model_metrics")
        ]
        return MetricsLog(socket.gethostname(), *self._lines)

    def start(self) -> None:
        self._tasks.append(asyncio.create_task(self._measure_lag()))
        if self._system is not None:
            self._tasks.append(asyncio.create_task(self._measure(self._system)))
        if self._lines:
            self._tasks.append(asyncio.create_task(self._log_changes()))
        if self._sinks:
            self._tasks.append(asyncio.create_task(self._feed()))

    async def _measure(self, system: SystemMetrics) -> None:
        await asyncio.sleep(min(1.0, self._interval_seconds))  # a share of CPU time needs an interval
        while True:
            try:
                self.metrics.system = await asyncio.to_thread(system.sample)
            except OSError as error:
                _log.warning("the machine could not be measured: %s", error)
            else:
                self.metrics.log_system()
            await asyncio.sleep(self._interval_seconds)

    async def _measure_lag(self) -> None:
        while True:
            due = time.monotonic() + _LAG_SECONDS
            await asyncio.sleep(_LAG_SECONDS)
            self.metrics.loop_lag_seconds.observe(max(0.0, time.monotonic() - due))

    async def _log_changes(self) -> None:
        while True:
            await asyncio.sleep(_LOG_SECONDS)
            self.metrics.log_changes()

    async def _feed(self) -> None:
        while True:
            await asyncio.sleep(self._interval_seconds)
            self._feed_once(await asyncio.to_thread(list, self.metrics.collect()))

    def _feed_once(self, families: list[Family]) -> None:
        for sink in self._sinks:
            sink.put(families)

    async def close(self) -> None:
        """Write and pass on what is left. Idempotent."""
        tasks, self._tasks = self._tasks, []
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        if tasks:
            self.metrics.log_changes()
            self._feed_once(list(self.metrics.collect()))
        for line_log in self._lines:
            line_log.close()
        await asyncio.gather(*(asyncio.to_thread(sink.close) for sink in self._sinks))
