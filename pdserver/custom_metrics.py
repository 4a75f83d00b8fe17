"""The metrics that handlers measure: accepted by the rules of metrics.yaml, counted up to a limit of series."""

from __future__ import annotations

import logging
import math
import re
from collections import defaultdict
from collections.abc import Iterator, Sequence
from functools import lru_cache

import msgspec

from pdserver.counters import Histogram
from pdserver.exposition import Family, MetricType
from pdserver.metrics_config import MetricsConfig
from pdserver.types import Declared, Measured, ModelRef
from pdserver.values import shown

_log = logging.getLogger("pdserver.metrics")
# Whatever the unit is: three bounds a decade.
_BOUNDS = tuple(m * 10.0**decade for decade in range(-3, 5) for m in (1.0, 2.5, 5.0))
_NAMES_PER_MODEL = 100
_VALUE_CHARACTERS = 128
_RESERVED = re.compile(r"(pd|ts|process|python)_|Requests[245]XX$")

Labels = tuple[tuple[str, str], ...]


class _Custom(msgspec.Struct, eq=False):
    """One metric; its series belong to the versions whose handlers measured them."""

    type: MetricType
    unit: str
    series: defaultdict[ModelRef, dict[Labels, float | Histogram]] = msgspec.field(
        default_factory=lambda: defaultdict(dict)
    )


class _Unacceptable(Exception):
    def __init__(self, reason: str, words: str) -> None:
        super().__init__(words)
        self.reason = reason


class CustomMetrics:
    """`reserved`: names of the server's own metrics, which handlers can't have."""

    def __init__(
        self, config: MetricsConfig, *, auto_detect: bool, series_limit: int, hostname: str, reserved: frozenset[str]
    ) -> None:
        self._declared = config.model
        self._auto_detect = auto_detect
        self._series_limit = series_limit
        self._hostname = hostname
        self._reserved = reserved
        self._metrics: dict[str, _Custom] = {}
        self._dropped: defaultdict[ModelRef, dict[str, int]] = defaultdict(dict)

    def accept(self, ref: ModelRef, measured: Sequence[Measured]) -> Iterator[Measured]:
        """What is left of them: by names and labels that Prometheus allows, as declared; the rest is counted."""
        for given in measured:
            try:
                yield self._accepted(ref, given)
            except _Unacceptable as why:
                self._drop(ref, given, why.reason, str(why))

    def add(self, ref: ModelRef, measured: Measured) -> None:
        """Count what `accept` gave."""
        metric = self._metrics.get(measured.name)
        if metric is None:
            if sum(ref in other.series for other in self._metrics.values()) >= _NAMES_PER_MODEL:
                self._drop(ref, measured, "series_limit", f"it has {_NAMES_PER_MODEL} metrics")
                return
            metric = self._metrics[measured.name] = _Custom(measured.type, measured.unit)
        if metric.type != measured.type:
            self._drop(ref, measured, "type", f"it is a {metric.type}, not a {measured.type}")
            return
        series = metric.series[ref]
        labels = tuple(measured.dimensions.items())
        if labels not in series and len(series) >= self._series_limit:
            self._drop(ref, measured, "series_limit", f"it has {self._series_limit} different sets of dimensions")
        elif measured.type == "histogram":
            histogram = series.setdefault(labels, Histogram(_BOUNDS))
            assert isinstance(histogram, Histogram)  # noqa: S101 - of this type
            histogram.observe(measured.value)
        elif measured.type == "gauge":
            series[labels] = measured.value
        else:
            before = series.get(labels, 0.0)
            assert isinstance(before, float)  # noqa: S101 - of this type
            series[labels] = before + measured.value

    def forget(self, ref: ModelRef) -> None:
        """Drop the series of a version."""
        self._dropped.pop(ref, None)
        for name, metric in list(self._metrics.items()):
            metric.series.pop(ref, None)
            if not metric.series:
                del self._metrics[name]

    def families(self) -> Iterator[Family]:
        for name, metric in list(self._metrics.items()):
            family = Family(name, f"Measured by handlers, unit: {metric.unit or 'none'}.", metric.type, metric.unit)
            for by_labels in list(metric.series.values()):
                for labels, value in list(by_labels.items()):
                    family.add(dict(labels), value)
            yield family

    def dropped(self) -> Iterator[tuple[ModelRef, str, int]]:
        """How many values were dropped, by version and reason."""
        for ref, by_reason in list(self._dropped.items()):
            for reason, count in list(by_reason.items()):
                yield ref, reason, count

    def _accepted(self, ref: ModelRef, given: Measured) -> Measured:
        """Raises _Unacceptable."""
        name = clean_name(given.name)
        declared = self._declared.get(given.name)
        if name in self._reserved or _RESERVED.match(name):
            raise _Unacceptable("reserved", "the name is the server's own")
        if declared is None and not self._auto_detect:
            raise _Unacceptable("undeclared", "metrics.yaml doesn't declare it, and model_metrics_auto_detect is off")
        kind = declared.type if declared else given.type
        if not math.isfinite(given.value) or (kind == "counter" and given.value < 0):
            raise _Unacceptable("value", f"{given.value} is nothing to add to a {kind}")
        unit = declared.unit if declared else clean_value(given.unit)
        return Measured(name, float(given.value), unit, kind, self._labels(ref, given, declared), given.request_id)

    def _labels(self, ref: ModelRef, given: Measured, declared: Declared | None) -> dict[str, str]:
        """TorchServe's, with the version behind them: two versions of a model are two series."""
        known = {"ModelName": ref.name, "Level": "Model", **given.dimensions}
        names = [
            name for name in (declared.dimensions if declared else given.dimensions or known) if name != "Hostname"
        ]
        for name in names:
            if name not in known:
                raise _Unacceptable(
                    "dimensions", f"metrics.yaml declares the dimension {shown(name)}, which is missing"
                )
        labels = {clean_label(name): clean_value(known[name]) for name in names}
        return labels | {"Hostname": self._hostname, "ModelVersion": ref.version}

    def _drop(self, ref: ModelRef, measured: Measured, reason: str, words: str) -> None:
        """Count it, and log the first of its kind."""
        by_reason = self._dropped[ref]
        if reason not in by_reason:
            _log.warning("%s: metric %s is dropped: %s", ref, shown(measured.name), words)
        by_reason[reason] = by_reason.get(reason, 0) + 1


@lru_cache(maxsize=4096)
def clean_name(name: str) -> str:
    """A metric's name in the characters that Prometheus allows."""
    name = re.sub(r"[^a-zA-Z0-9_]", "_", name[:_VALUE_CHARACTERS])
    return name if name[:1].isalpha() or name[:1] == "_" else f"_{name}"


@lru_cache(maxsize=4096)
def clean_label(name: str) -> str:
    """A label's name likewise; two leading underscores are Prometheus's own, and `le` a histogram's."""
    name = re.sub(r"^__+", "_", clean_name(name))
    return "le_" if name == "le" else name


def clean_value(value: str) -> str:
    """A label's value, not endless."""
    return value if len(value) <= _VALUE_CHARACTERS else value[: _VALUE_CHARACTERS - 1] + "…"
