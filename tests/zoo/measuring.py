"""Measures itself, under TorchServe's names for that."""

from typing import Any


def handle(data: list[dict[str, Any]] | None, context: Any) -> Any:
    if data is None:
        return None
    context.metrics.add_counter("Fish", len(data))
    context.metrics.add_time("NetTime", 12.5, unit="ms")
    return ["ok"] * len(data)
