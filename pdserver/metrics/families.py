"""The server's counters as metric families: the pd_ metrics, and TorchServe's with its names, labels and units."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence

from pdserver.errors import Kind
from pdserver.metrics.counters import Histogram, ModelMetrics, PoolGauges
from pdserver.metrics.exposition import Family
from pdserver.metrics.shared import FrontEndGauges
from pdserver.types import Measured, ModelRef

LEGACY = frozenset(
    {"ts_inference_requests_total", "ts_inference_latency_microseconds", "ts_queue_latency_microseconds"}
)
"""The metrics that stay on the endpoint with metrics_mode=legacy, as with TorchServe."""
TORCHSERVE_NAMES = LEGACY | {
    "Requests2XX", "Requests4XX", "Requests5XX", "QueueTime", "WorkerThreadTime", "WorkerLoadTime", "HandlerTime",
    "PredictionTime", "CPUUtilization", "MemoryUsed", "MemoryAvailable", "MemoryUtilization", "DiskUsage",
    "DiskAvailable", "DiskUtilization", "GPUUtilization", "GPUMemoryUsed", "GPUMemoryUtilization",
}  # fmt: skip
_SYSTEM_HELP = {
    "CPUUtilization": "Share of the machine's CPU time in use.",
    "MemoryUsed": "Memory of the machine in use.",
    "MemoryAvailable": "Memory of the machine that can be had.",
    "MemoryUtilization": "Share of the machine's memory in use.",
    "DiskUsage": "Space in use on the root file system.",
    "DiskAvailable": "Space left on the root file system.",
    "DiskUtilization": "Share of the root file system in use.",
    "GPUUtilization": "Share of time in which the GPU computed.",
    "GPUMemoryUsed": "Memory of the GPU in use.",
    "GPUMemoryUtilization": "Share of the GPU's memory in use.",
}


def server_families(
    responses: Mapping[int, int],
    models: Mapping[ModelRef, ModelMetrics],
    pools: Sequence[PoolGauges],
    dropped: Iterable[tuple[ModelRef, str, int]],
    loop_lag_seconds: Histogram,
) -> Iterator[Family]:
    """The pd_ metrics."""
    http = Family("pd_http_responses_total", "HTTP answers by status.", "counter")
    for status in sorted(responses):
        http.add({"status": str(status)}, responses[status])
    yield http
    yield from _model_families(models)
    yield from _pool_families(pools)
    dropped_values = Family("pd_model_metrics_dropped_total", "Values of handlers' metrics by why dropped.", "counter")
    for ref, reason, count in dropped:
        dropped_values.add(_labels(ref) | {"reason": reason}, count)
    yield dropped_values
    lag = Family("pd_event_loop_lag_seconds", "How late the front end gets to what is due.", "histogram")
    lag.add({}, loop_lag_seconds)
    yield lag


def forwarded_family(forwarded: Mapping[tuple[str, str], int]) -> Family:
    family = Family(
        "pd_forwarded_total", "Requests that were passed on to other servers, by what came of it.", "counter"
    )
    for (node, outcome), count in sorted(forwarded.items()):
        family.add({"peer": node, "outcome": outcome}, count)
    return family


_REASONS = {
    **dict.fromkeys((Kind.OVERLOADED, Kind.DEADLINE, Kind.UNAVAILABLE), "REJECTED"),
    **dict.fromkeys((Kind.HANDLER, Kind.WORKER_DIED, Kind.LOAD_FAILED, Kind.OUT_OF_MEMORY), "BACKEND"),
}
"""Failure → Triton's reason. Other failures are OTHER. Requests that a client cancelled are not counted."""


def triton_families(models: Mapping[ModelRef, ModelMetrics], pools: Sequence[PoolGauges]) -> Iterator[Family]:
    """Triton's nv_inference_ metrics. Durations are in microseconds, summed over successful requests."""
    success = Family("nv_inference_request_success", "Requests that succeeded.", "counter")
    failure = Family("nv_inference_request_failure", "Requests that failed, by reason.", "counter")
    rows = Family("nv_inference_count", "Rows of batches that the model was run for.", "counter")
    executions = Family("nv_inference_exec_count", "Runs of the model.", "counter")
    durations = {
        name: Family(f"nv_inference_{name}_duration_us", f"Microseconds {words}, summed over requests.", "counter")
        for name, words in _DURATIONS.items()
    }
    cache = {name: Family(f"nv_cache_{name}_per_model", words, "counter") for name, words in _CACHE.items()}
    for ref, model in models.items():
        labels = {"model": ref.name, "version": ref.version}
        seen = model.statistics
        cache["num_hits"].add(labels, seen.cache_hits)
        cache["num_misses"].add(labels, seen.cache_misses)
        cache["hit_duration"].add(labels, seen.cache_hit_seconds * 1e6)
        cache["miss_duration"].add(labels, seen.cache_miss_seconds * 1e6)
        success.add(labels, model.succeeded)
        reasons = dict.fromkeys(("REJECTED", "CANCELED", "BACKEND", "OTHER"), 0)
        for kind, count in model.failed.items():
            reasons[_REASONS.get(kind, "OTHER")] += count
        for reason, count in reasons.items():
            failure.add(labels | {"reason": reason}, count)
        rows.add(labels, seen.rows)
        executions.add(labels, seen.executions)
        for name, seconds in (
            ("request", model.latency_seconds.total),
            ("queue", model.queue_seconds.total),
            ("compute_input", seen.input_seconds),
            ("compute_infer", seen.infer_seconds),
            ("compute_output", seen.output_seconds),
        ):
            durations[name].add(labels, seconds * 1e6)
    pending = Family("nv_inference_pending_request_count", "Requests that wait for a worker.", "gauge")
    for pool in pools:
        pending.add({"model": pool.ref.name, "version": pool.ref.version}, pool.queue_length)
    yield from (success, failure, rows, executions, *durations.values(), *cache.values(), pending)


_CACHE = {
    "num_hits": "Requests that were answered from the cache.",
    "num_misses": "Requests whose answer was not in the cache.",
    "hit_duration": "Microseconds of finding answers in the cache.",
    "miss_duration": "Microseconds of finding that answers are not in the cache.",
}
_DURATIONS = {
    "request": "from arrival to answer",
    "queue": "in the queue",
    "compute_input": "of reading inputs",
    "compute_infer": "of the model or its handler",
    "compute_output": "of writing answers",
}


def _model_families(models: Mapping[ModelRef, ModelMetrics]) -> Iterator[Family]:
    requests = Family("pd_requests_total", "Requests by result: succeeded, or the kind of failure.", "counter")
    latency = Family("pd_request_latency_seconds", "Time from arrival to answer of successful requests.", "histogram")
    queue = Family("pd_queue_seconds", "Time in the queue of successful requests.", "histogram")
    retried = Family("pd_requests_retried_total", "Requests run once more, as their worker died.", "counter")
    handler = Family("pd_handler_seconds", "Time of a batch in its worker.", "histogram")
    batch = Family("pd_batch_size", "Requests in a batch.", "histogram")
    for ref, model in models.items():
        labels = _labels(ref)
        requests.add(labels | {"result": "succeeded"}, model.succeeded)
        for kind, count in model.failed.items():
            if count:
                requests.add(labels | {"result": kind.value}, count)
        retried.add(labels, model.retried)
        latency.add(labels, model.latency_seconds)
        queue.add(labels, model.queue_seconds)
        handler.add(labels, model.handler_seconds)
        batch.add(labels, model.batch_size)
    yield from (requests, retried, latency, queue, handler, batch)


def _pool_families(pools: Sequence[PoolGauges]) -> Iterator[Family]:
    queue_length = Family("pd_queue_length", "Requests that wait for a worker.", "gauge")
    workers = Family("pd_workers", "Workers by state.", "gauge")
    restarts = Family("pd_worker_restarts_total", "Workers that were started in place of one that died.", "counter")
    engines = Family("pd_model_engine_info", "What runs the model.", "gauge")
    for pool in pools:
        labels = _labels(pool.ref)
        queue_length.add(labels, pool.queue_length)
        for engine in pool.engines:
            engines.add(labels | {"engine": engine}, 1)
        for state, count in pool.workers.items():
            workers.add(labels | {"state": state}, count)
        restarts.add(labels, pool.worker_restarts)
    yield from (queue_length, workers, restarts, engines)


def front_end_families(front_ends: Sequence[FrontEndGauges]) -> Iterator[Family]:
    """How the front ends are, where there are several."""
    alive = Family("pd_front_ends", "Front ends that answer.", "gauge")
    if front_ends:
        alive.add({}, sum(each.alive for each in front_ends))
    restarts = Family("pd_front_end_restarts_total", "Front ends started in place of one that died.", "counter")
    connections = Family("pd_front_end_connections", "Connections that a front end has.", "gauge")
    cpu = Family("pd_front_end_cpu_seconds_total", "CPU time of a front end since it was started.", "counter")
    for each in front_ends:
        labels = {"front_end": str(each.number)}
        restarts.add(labels, each.restarts)
        connections.add(labels, each.connections)
        cpu.add(labels, each.cpu_seconds)
    yield from (alive, restarts, connections, cpu)


def torchserve_counters(
    hostname: str, responses: Mapping[int, int], models: Mapping[ModelRef, ModelMetrics]
) -> Iterator[Family]:
    for digit in (2, 4, 5):
        family = Family(f"Requests{digit}XX", f"HTTP answers with a status of {digit}xx.", "counter", "Count")
        count = sum(responses[status] for status in responses if status // 100 == digit)
        family.add({"Level": "Host", "Hostname": hostname}, count)
        yield family
    requests = Family("ts_inference_requests_total", "Requests that were answered or refused.", "counter", unit="Count")
    latency = Family(
        "ts_inference_latency_microseconds",
        "Time from arrival to answer, summed over successful requests.",
        "counter",
        unit="Microseconds",
    )
    queue = Family(
        "ts_queue_latency_microseconds",
        "Time in the queue, summed over successful requests.",
        "counter",
        unit="Microseconds",
    )
    for ref, model in models.items():
        labels = _labels(ref) | {"hostname": hostname}
        requests.add(labels, model.succeeded + sum(model.failed.values()))
        latency.add(labels, model.latency_seconds.total * 1e6)
        queue.add(labels, model.queue_seconds.total * 1e6)
    yield from (requests, latency, queue)


def torchserve_last_times(
    hostname: str,
    host_times: Mapping[str, float],
    models: Mapping[ModelRef, ModelMetrics],
) -> Iterator[Family]:
    """Gauges of the last batch. `host_times`: QueueTime and WorkerThreadTime, milliseconds."""
    helps = {
        "QueueTime": "Time in the queue of the last request that left it.",
        "WorkerThreadTime": "Time of the last batch from the queue to its answer, without the handler's.",
    }
    for name, milliseconds in host_times.items():
        family = Family(name, helps[name], "gauge", "Milliseconds")
        family.add({"Level": "Host", "Hostname": hostname}, milliseconds)
        yield family
    for name in ("HandlerTime", "PredictionTime"):
        family = Family(name, "Time of the last batch in its worker.", "gauge", "ms")
        for ref, model in models.items():
            if model.last_handler_seconds is not None:
                family.add(model_labels(ref, hostname), model.last_handler_seconds * 1e3)
        yield family


def torchserve_worker_loads(hostname: str, pools: Sequence[PoolGauges]) -> Family:
    family = Family("WorkerLoadTime", "Time in which the worker loaded its model.", "gauge", "Milliseconds")
    for pool in pools:
        for number, seconds in pool.load_seconds.items():
            name = f"W-{number}-{pool.ref.name}_{pool.ref.version}"
            family.add({"WorkerName": name, "Level": "Host", "Hostname": hostname}, seconds * 1e3)
    return family


def system_families(hostname: str, measured: Iterable[Measured]) -> Iterator[Family]:
    families: dict[str, Family] = {}
    for gauge in measured:
        name = gauge.name
        family = families.setdefault(name, Family(name, _SYSTEM_HELP[name], "gauge", gauge.unit))
        family.add(gauge.dimensions | {"Hostname": hostname}, gauge.value)
    yield from families.values()


def model_labels(ref: ModelRef, hostname: str) -> dict[str, str]:
    """TorchServe's labels of a model, followed by the version, so that two versions are two series."""
    return {"ModelName": ref.name, "Level": "Model", "Hostname": hostname, "ModelVersion": ref.version}


def _labels(ref: ModelRef) -> dict[str, str]:
    return {"model_name": ref.name, "model_version": ref.version}
