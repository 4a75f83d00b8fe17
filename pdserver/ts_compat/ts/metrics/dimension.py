"""`ts.metrics.dimension`."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass
class Dimension:
    """One label of a metric, with its value."""

    name: str
    value: str

    def __str__(self) -> str:
        return f"{self.name}:{self.value}"
