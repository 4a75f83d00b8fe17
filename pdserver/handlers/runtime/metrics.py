"""`context.metrics`: what a handler measures, kept until the server takes it with the batch's answers.

Names and signatures are those of TorchServe's metrics API (`ts.metrics.metric_cache_abstract`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, cast

from pdserver.formats.values import nearest
from pdserver.types import Declared, Measured

MetricType = Literal["counter", "gauge", "histogram"]
UNITS = {
    "ms": "Milliseconds",
    "s": "Seconds",
    "percent": "Percent",
    "count": "Count",
    "B": "Bytes",
    "kB": "Kilobytes",
    "MB": "Megabytes",
    "GB": "Gigabytes",
    "": "unit",
}
"""As handlers abbreviate them, as metrics are written."""
_TYPES = ("counter", "gauge", "histogram")

Dimensions = Mapping[str, str] | Sequence[Any]
"""Labels by name, or objects with `name` and `value` such as `ts.metrics.dimension.Dimension`."""


class Metric:
    """One metric, by name; `add_or_update` measures it."""

    def __init__(
        self, metrics: Metrics, name: str, unit: str, dimension_names: Sequence[str], kind: MetricType
    ) -> None:
        self.metric_name, self.unit, self.metric_type = str(name), str(unit), kind
        self.dimension_names = list(map(str, dimension_names))
        self._metrics = metrics

    def add_or_update(self, value: float, dimension_values: Sequence[str] = (), request_id: str = "") -> None:
        """Raises ValueError for another number of values than the metric has dimensions."""
        if len(dimension_values) != len(self.dimension_names):
            raise ValueError(
                f"{self.metric_name}: {len(dimension_values)} values for the dimensions {self.dimension_names}"
            )
        dimensions = dict(zip(self.dimension_names, map(str, dimension_values), strict=True))
        self._metrics.keep(
            Measured(self.metric_name, float(value), self.unit, self.metric_type, dimensions, str(request_id))
        )

    update = add_or_update


class Metrics:
    """`model_name` is the first label of each value; `request_id` gives that of the batch's request `idx`."""

    def __init__(self, model_name: str, request_id: Callable[[int], str]) -> None:
        self._labels = {"ModelName": model_name, "Level": "Model"}
        self._request_id = request_id
        self._cache: dict[tuple[str, MetricType], Metric] = {}
        self._measured: list[Measured] = []

    def add_metric(
        self,
        name: str,
        value: float,
        unit: str,
        idx: int | None = None,
        dimensions: Dimensions = (),
        metric_type: Any = "counter",
    ) -> None:
        """Measure `name`, for the batch's request `idx` if that is given.

        `metric_type` is "counter", "gauge" or "histogram", or an enumeration's member of that value. Raises ValueError
        for another, and for a value that is no number.
        """
        labels = self._labels | _labels(dimensions)
        request_id = "" if idx is None else self._request_id(idx)
        unit = str(UNITS.get(unit, unit))
        self.keep(Measured(str(name), float(value), unit, _type(metric_type), labels, request_id))

    def add_counter(self, name: str, value: float, idx: int | None = None, dimensions: Dimensions = ()) -> None:
        self.add_metric(name, value, "count", idx, dimensions)

    def add_time(
        self,
        name: str,
        value: float,
        idx: int | None = None,
        unit: str = "ms",
        dimensions: Dimensions = (),
        metric_type: Any = "gauge",
    ) -> None:
        """`unit` is ms or s."""
        self.add_metric(name, value, _one_of(unit, ("ms", "s")), idx, dimensions, metric_type)

    def add_size(
        self,
        name: str,
        value: float,
        idx: int | None = None,
        unit: str = "MB",
        dimensions: Dimensions = (),
        metric_type: Any = "gauge",
    ) -> None:
        """`unit` is B, kB, MB or GB."""
        self.add_metric(name, value, _one_of(unit, ("B", "kB", "MB", "GB")), idx, dimensions, metric_type)

    def add_percent(
        self,
        name: str,
        value: float,
        idx: int | None = None,
        dimensions: Dimensions = (),
        metric_type: Any = "gauge",
    ) -> None:
        self.add_metric(name, value, "percent", idx, dimensions, metric_type)

    def add_error(self, name: str, value: float = 1, dimensions: Dimensions = ()) -> None:
        """Count an error."""
        self.add_metric(name, value, "", None, dimensions)

    def add_metric_to_cache(
        self, metric_name: str, unit: str, dimension_names: Sequence[str] = (), metric_type: Any = "counter"
    ) -> Metric:
        """A metric to be measured later, by its `add_or_update`; its dimensions are those named and no others."""
        kind = _type(metric_type)
        metric = Metric(self, metric_name, UNITS.get(unit, unit), dimension_names, kind)
        return self._cache.setdefault((metric_name, kind), metric)

    def declare(self, declared: Sequence[Declared]) -> None:
        """Let `get_metric` find these."""
        for metric in declared:
            self.add_metric_to_cache(metric.name, metric.unit, metric.dimensions, metric.type)

    def get_metric(self, metric_name: str, metric_type: Any = "counter") -> Metric:
        """What metrics.yaml declares, or `add_metric_to_cache` made. Raises KeyError when there is none."""
        metric = self._cache.get((metric_name, _type(metric_type)))
        if metric is None:
            hint = nearest(metric_name, [name for name, _ in self._cache])
            known = "is declared in metrics.yaml or was added to the cache"
            raise KeyError(f"no {_type(metric_type)} called {metric_name} {known}{hint}")
        return metric

    def keep(self, measured: Measured) -> None:
        self._measured.append(measured)

    @property
    def count(self) -> int:
        """Of values that were measured since the last time."""
        return len(self._measured)

    def drop(self, count: int) -> None:
        """Forget all but the first `count` of them: what they were measured for is done again."""
        del self._measured[count:]

    def take(self) -> list[Measured]:
        """All that was measured since the last time: called by the server, after each batch."""
        taken, self._measured = self._measured, []
        return taken


def _labels(dimensions: Dimensions) -> dict[str, str]:
    if isinstance(dimensions, Mapping):
        return {str(name): str(value) for name, value in dimensions.items()}
    return {str(dimension.name): str(dimension.value) for dimension in dimensions}


def _type(given: Any) -> MetricType:
    name = getattr(given, "value", given)
    return cast("MetricType", _one_of(name, _TYPES))


def _one_of(given: str, known: Sequence[str]) -> str:
    if given not in known:
        raise ValueError(f"{given!r}: expected one of {', '.join(known)}")
    return given
