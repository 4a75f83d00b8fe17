"""Triton's statistics of models, as JSON: how many requests, rows and runs, and what they took, since it was loaded."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from pdserver.dialects.oip.models import in_order
from pdserver.engine.catalogue import InferenceEngine, ServedVersion
from pdserver.metrics.counters import BatchTimes, Totals
from pdserver.types import ModelRef

Json = dict[str, Any]


def model_stats(engine: InferenceEngine, versions: Iterable[ServedVersion]) -> Json:
    """{"model_stats": […]}; times are nanoseconds, `last_inference` milliseconds since the epoch (0: never)."""
    refs = [served.spec.ref for served in in_order(versions)]
    return {"model_stats": [_model(ref, engine.statistics(ref)) for ref in refs]}


def _model(ref: ModelRef, metrics: Totals) -> Json:
    seen = metrics.statistics
    succeeded = metrics.succeeded
    computed = succeeded - seen.cache_hits
    return {
        "name": ref.name,
        "version": ref.version,
        "last_inference": round(seen.last_inference * 1e3),
        "inference_count": seen.rows,
        "execution_count": seen.executions,
        "inference_stats": {
            "success": _duration(succeeded, metrics.latency_seconds),
            "fail": _duration(metrics.failed, metrics.failed_seconds),
            "queue": _duration(succeeded, metrics.queue_seconds),
            "compute_input": _duration(computed, seen.input_seconds),
            "compute_infer": _duration(computed, seen.infer_seconds),
            "compute_output": _duration(computed, seen.output_seconds),
            "cache_hit": _duration(seen.cache_hits, seen.cache_hit_seconds),
            "cache_miss": _duration(seen.cache_misses, seen.cache_miss_seconds),
        },
        "response_stats": {},
        "batch_stats": [_batch(rows, seen.batches[rows]) for rows in sorted(seen.batches)],
        "memory_usage": [],
    }


def _batch(rows: int, times: BatchTimes) -> Json:
    return {
        "batch_size": rows,
        "compute_input": _duration(times.count, times.input_seconds),
        "compute_infer": _duration(times.count, times.infer_seconds),
        "compute_output": _duration(times.count, times.output_seconds),
    }


def _duration(count: int, seconds: float) -> Json:
    return {"count": count, "ns": round(seconds * 1e9)}
