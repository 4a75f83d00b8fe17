"""Metrics as TorchServe's log lines, for tools that read ts_metrics.log and model_metrics.log.

    Name.Unit:value|#Dimension:value,…|#hostname:h,[requestID:r,]timestamp:seconds

A counter's line has the increase since its last line, at most once a second, so that the sum equals that of
TorchServe's lines. A gauge has a line when it changes. The times of batches have a line each.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterable, Mapping

from pdserver.metrics.exposition import Family
from pdserver.types import Measured

_BESIDE = frozenset({"Hostname", "hostname", "ModelVersion"})
Write = Callable[[str], None]


class MetricsLog:
    """`server` and `model` write a line to the two logs. They must not block."""

    def __init__(self, hostname: str, server: Write, model: Write) -> None:
        self._hostname = hostname
        self._server = server
        self._model = model
        self._last: dict[tuple[str, tuple[str, ...]], float] = {}

    def server_value(self, name: str, unit: str, value: float, labels: Mapping[str, str]) -> None:
        self._server(self._line(name, unit, value, labels))

    def model_value(self, measured: Measured) -> None:
        self._model(self._line(measured.name, measured.unit, measured.value, measured.dimensions, measured.request_id))

    def changes(self, families: Iterable[Family]) -> None:
        """A line for each sample that is not what it was at the last call."""
        seen: dict[tuple[str, tuple[str, ...]], float] = {}
        for family in families:
            for sample in family.samples:
                key = (sample.name, tuple(sample.labels.values()))
                seen[key] = sample.value
                before = self._last.get(key, 0.0)
                if sample.value != before:
                    value = sample.value - before if family.type == "counter" else sample.value
                    self.server_value(sample.name, family.unit, value, sample.labels)
        self._last = seen

    def _line(self, name: str, unit: str, value: float, labels: Mapping[str, str], request_id: str = "") -> str:
        dimensions = ",".join(f"{label}:{_plain(text)}" for label, text in labels.items() if label not in _BESIDE)
        request = f"requestID:{_plain(request_id)}," if request_id else ""
        return (
            f"{name}.{_plain(unit) or 'unit'}:{float(value)!r}|#{dimensions}"
            f"|#hostname:{self._hostname},{request}timestamp:{int(time.time())}"
        )


def _plain(text: str) -> str:
    """Without what would end a line or a field."""
    return re.sub(r"[|,:#\x00-\x20\x7f-\xa0\u2028\u2029]", "_", text)
