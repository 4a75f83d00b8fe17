"""Measures itself, under TorchServe's names for that."""

from typing import Any

from pdserver.handlers.runtime.parts import opened


def handle(data: list[dict[str, Any]] | None, context: Any) -> Any:
    if data is None:
        return None
    context.metrics.add_counter("Fish", len(data))
    context.metrics.add_time("NetTime", 12.5, unit="ms")
    for row in data:
        body = opened(row.get("body"))
        for series in body.get("series", ()) if isinstance(body, dict) else ():
            metric = context.metrics.add_metric_to_cache(f"Many{series // 100}", "count", ["series"], "histogram")
            metric.add_or_update(series, [str(series)])
    return ["ok"] * len(data)
