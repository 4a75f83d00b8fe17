"""`ts.service`."""

from __future__ import annotations

from collections.abc import Iterable


def emit_metrics(metrics: Iterable[object]) -> None:
    """Write each metric to the worker's log."""
    for metric in metrics:
        print(f"[METRICS]{metric}")  # noqa: T201 - a worker's stdout is its log
