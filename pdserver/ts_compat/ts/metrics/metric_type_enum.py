"""`ts.metrics.metric_type_enum`."""

from __future__ import annotations

from enum import Enum


class MetricTypes(Enum):
    """How a metric's values are combined: added up, only the last one kept, or counted by size."""

    COUNTER = "counter"
    GAUGE = "gauge"
    HISTOGRAM = "histogram"
