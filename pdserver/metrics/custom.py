"""The metrics that handlers measure: accepted by the rules of metrics.yaml, counted up to a limit of series."""

from __future__ import annotations

import logging
import math
import re
from collections import defaultdict
from collections.abc import Iterator, Sequence
from functools import lru_cache

import msgspec

from pdserver.formats.values import shown
from pdserver.metrics.counters import Histogram
from pdserver.metrics.declared import MetricsConfig
from pdserver.metrics.exposition import Family, MetricType
from pdserver.types import Declared, Measured, ModelRef

_log = logging.getLogger("pdserver.metrics")
# Three bounds for each decade, whatever the unit is.
_BOUNDS = tuple(m * 10.0**decade for decade in range(-3, 5) for m in (1.0, 2.5, 5.0))
_NAMES_PER_MODEL = 100
_VALUE_CHARACTERS = 128
_RESERVED = re.compile(r"(pd|ts|nv|process|python)_")

Labels = tuple[tuple[str, str], ...]


class _Custom(msgspec.Struct, eq=False):
    """One metric. Its series belong to the versions whose handlers measured them."""

    given: str
    """The handler's name for it, which may have characters that Prometheus does not allow."""
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
    """The metrics of handlers. `reserved`: names of the server's own metrics, which handlers can't use."""

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

    def accept(self, ref: ModelRef, measured: Sequence[Measured]) -> Iterator[tuple[str, Measured]]:
        """The acceptable values, each with the handler's name for it. They have names and labels that Prometheus
        allows, as declared. The rejected values are counted."""
        for given in measured:
            try:
                yield given.name, self._accepted(ref, given)
            except _Unacceptable as why:
                self._drop(ref, given.name, why)

    def add(self, ref: ModelRef, given: str, measured: Measured) -> None:
        """Count a value that `accept` returned."""
        try:
            self._count(ref, self._metric(ref, given, measured), measured)
        except _Unacceptable as why:
            self._drop(ref, given, why)

    def admit(self, ref: ModelRef, given: str, measured: Measured) -> bool:
        """Whether `add` would accept the metric. For callers that count elsewhere."""
        try:
            self._metric(ref, given, measured).series[ref]  # from now on, the name is this version's
        except _Unacceptable as why:
            self._drop(ref, given, why)
            return False
        return True

    def _metric(self, ref: ModelRef, given: str, measured: Measured) -> _Custom:
        """Raises _Unacceptable."""
        metric = self._metrics.get(measured.name) or self._new(ref, given, measured)
        if metric.given != given:
            words = f"Prometheus would take it for {shown(metric.given)}: both are {measured.name}"
            raise _Unacceptable("name", words)
        if metric.type != measured.type:
            raise _Unacceptable("type", f"it is a {metric.type}, not a {measured.type}")
        return metric

    def _new(self, ref: ModelRef, given: str, measured: Measured) -> _Custom:
        """Raises _Unacceptable."""
        if sum(ref in other.series for other in self._metrics.values()) >= _NAMES_PER_MODEL:
            raise _Unacceptable("series_limit", f"it has {_NAMES_PER_MODEL} metrics")
        names = _sample_names(measured.name, measured.type)
        for name, other in self._metrics.items():
            if names & _sample_names(name, other.type):
                raise _Unacceptable("name", f"{shown(other.given)}, a {other.type}, has samples of the same name")
        metric = self._metrics[measured.name] = _Custom(given, measured.type, measured.unit)
        return metric

    def _count(self, ref: ModelRef, metric: _Custom, measured: Measured) -> None:
        """Raises _Unacceptable."""
        series = metric.series[ref]
        labels = tuple(measured.dimensions.items())
        if labels not in series and len(series) >= self._series_limit:
            raise _Unacceptable("series_limit", f"it has {self._series_limit} different sets of dimensions")
        if measured.type == "histogram":
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
            if family.samples:
                yield family

    def dropped(self) -> Iterator[tuple[ModelRef, str, int]]:
        """The numbers of dropped values, by version and reason."""
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
        """TorchServe's labels, followed by the version, so that two versions of a model are two series."""
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
        if len(labels) < len({*names}):
            raise _Unacceptable("dimensions", "Prometheus takes two of its dimensions as one label")
        return labels | {"Hostname": self._hostname, "ModelVersion": ref.version}

    def _drop(self, ref: ModelRef, name: str, why: _Unacceptable) -> None:
        """Count a dropped value, and log the first one for each reason."""
        by_reason = self._dropped[ref]
        if why.reason not in by_reason:
            _log.warning("%s: metric %s is dropped: %s", ref, shown(name), why)
        by_reason[why.reason] = by_reason.get(why.reason, 0) + 1


def _sample_names(name: str, kind: MetricType) -> set[str]:
    """The names that Prometheus sees: a histogram has four."""
    return {name, *(f"{name}_{part}" for part in ("bucket", "count", "sum") if kind == "histogram")}


@lru_cache(maxsize=4096)
def clean_name(name: str) -> str:
    """A metric's name in the characters that Prometheus allows."""
    name = re.sub(r"[^a-zA-Z0-9_]", "_", name[:_VALUE_CHARACTERS])
    return name if name[:1].isalpha() or name[:1] == "_" else f"_{name}"


@lru_cache(maxsize=4096)
def clean_label(name: str) -> str:
    """A label's name in the characters that Prometheus allows. Two leading underscores and `le` are reserved."""
    name = re.sub(r"^__+", "_", clean_name(name))
    return "le_" if name == "le" else name


def clean_value(value: str) -> str:
    """A label's value, cut to a maximum length."""
    return value if len(value) <= _VALUE_CHARACTERS else value[: _VALUE_CHARACTERS - 1] + "…"
