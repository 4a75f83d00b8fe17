"""`ts.metrics.metric_type_enum`."""

from __future__ import annotations

from enum import Enum


class MetricTypes(Enum):
    """What becomes of a metric's values: added up, the last one kept, or counted by size."""

    COUNTER = "counter"
    GAUGE = "gauge"
    HISTOGRAM = "histogram"
