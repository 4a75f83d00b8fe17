"""Where metrics go besides Prometheus: what a sink must have, and the thread that it runs in."""

from __future__ import annotations

import logging
import queue
import threading
from collections.abc import Sequence
from typing import Protocol

from pdserver.metrics.exposition import Family

_log = logging.getLogger("pdserver.plugins")
_CLOSE_SECONDS = 5.0


class MetricSink(Protocol):
    """Both methods are called in a thread of the sink's own, so they may take their time."""

    def write(self, families: Sequence[Family]) -> None:
        """Take all metrics as they are now: every metric_time_interval seconds, and once at the end."""

    def close(self) -> None:
        """Called once, at the end."""


class RunningSink:
    """A sink and its thread. What the sink raises is logged; one that is still busy misses what comes meanwhile."""

    def __init__(self, name: str, sink: MetricSink) -> None:
        self._name = name
        self._sink = sink
        self._items: queue.Queue[Sequence[Family] | None] = queue.Queue(1)
        self._thread = threading.Thread(target=self._run, name=f"metric sink {name}", daemon=True)
        self._thread.start()

    def put(self, families: Sequence[Family]) -> None:
        """Never blocks."""
        try:
            self._items.put_nowait(families)
        except queue.Full:
            _log.warning("metric sink %s has not written the last metrics yet: it misses some", self._name)

    def close(self) -> None:
        """Let it write what it has, for a few seconds."""
        try:
            self._items.put(None, timeout=_CLOSE_SECONDS)
        except queue.Full:
            _log.warning("metric sink %s does not end", self._name)
            return
        self._thread.join(_CLOSE_SECONDS)

    def _run(self) -> None:
        while (families := self._items.get()) is not None:
            try:
                self._sink.write(families)
            except Exception:  # noqa: BLE001 - whatever a plugin does, the server goes on
                _log.exception("metric sink %s failed", self._name)
        try:
            self._sink.close()
        except Exception:  # noqa: BLE001 - whatever a plugin does, the server goes on
            _log.exception("metric sink %s failed to close", self._name)
