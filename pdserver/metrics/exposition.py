"""Metric families, and the text that Prometheus reads (exposition format 0.0.4).

prometheus_client measures this process, but does not write the text. For counters without _total in their names, like
TorchServe's Requests2XX and Triton's nv_inference_count, it announces another name than their samples have, and
OpenMetrics allows no such names at all. It also leaves out the comma after the last label, which the format allows,
TorchServe writes, and its users' checks look for. So every scraper gets this one format.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import accumulate
from typing import Literal

import msgspec
from prometheus_client import CollectorRegistry, GCCollector, PlatformCollector, ProcessCollector

from pdserver.metrics.counters import Histogram

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
MetricType = Literal["counter", "gauge", "histogram"]


class Sample(msgspec.Struct, frozen=True, gc=False):
    """One number. `name` is the family's, for histograms with the suffix _bucket, _count or _sum."""

    name: str
    labels: Mapping[str, str]
    value: float


class Family(msgspec.Struct):
    """All samples of one metric."""

    name: str
    help: str
    type: MetricType
    unit: str = ""
    """The unit in TorchServe's metric logs, if they have this metric."""
    samples: list[Sample] = []
    bound_format: str = ""
    """How the bounds of histograms are written; empty: as all numbers are."""

    def add(self, labels: Mapping[str, str], value: float | Histogram) -> None:
        if not isinstance(value, Histogram):
            self.samples.append(Sample(self.name, labels, value))
            return
        counts = list(value.counts)
        for bound, count in zip((*value.bounds, math.inf), accumulate(counts), strict=True):
            le = format(bound, self.bound_format) if self.bound_format and bound < math.inf else _number(bound)
            self.samples.append(Sample(f"{self.name}_bucket", {**labels, "le": le}, count))
        self.samples.append(Sample(f"{self.name}_count", labels, sum(counts)))
        self.samples.append(Sample(f"{self.name}_sum", labels, value.total))


class ProcessMetrics:
    """prometheus_client's metrics of this process: CPU time, memory, descriptors, garbage collections."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        ProcessCollector(registry=self._registry)
        PlatformCollector(registry=self._registry)
        GCCollector(registry=self._registry)

    def families(self) -> Iterator[Family]:
        for metric in self._registry.collect():
            kind: MetricType = "counter" if metric.type == "counter" else "gauge"
            # prometheus_client leaves out _total in the names of counters, but not in those of their samples.
            name = f"{metric.name}_total" if kind == "counter" else metric.name
            samples = [Sample(sample.name, sample.labels, sample.value) for sample in metric.samples]
            yield Family(name, metric.documentation, kind, samples=samples)


def render(families: Iterable[Family], names: Sequence[str] = ()) -> bytes:
    """The text of the families. With `names`, only metrics or samples with these names."""
    wanted = set(names)
    lines: list[str] = []
    for family in families:
        samples = family.samples
        if wanted and family.name not in wanted:
            samples = [sample for sample in samples if sample.name in wanted]
        if samples:
            lines.append(f"# HELP {family.name} {_escape(family.help)}\n# TYPE {family.name} {family.type}\n")
            lines += map(_line, samples)
    return "".join(lines).encode(errors="replace")


def _line(sample: Sample) -> str:
    labels = "".join(f'{name}="{_escape(value, quote=True)}",' for name, value in sample.labels.items())
    return f"{sample.name}{f'{{{labels}}}' if labels else ''} {_number(sample.value)}\n"


def _number(value: float) -> str:
    return "+Inf" if value == math.inf else repr(float(value))


def _escape(text: str, quote: bool = False) -> str:
    text = text.replace("\\", r"\\").replace("\n", r"\n")
    return text.replace('"', r"\"") if quote else text
