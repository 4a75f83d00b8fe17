"""What the server and its models are, as JSON: metadata, and Triton's model configuration and statistics.

Source: the Open Inference Protocol, and Triton's model_config.proto, whose JSON has the fields' own names, scalars even
when they have their default, and no message that is not set.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from pdserver import __version__
from pdserver.configuration.model import ModelSpec, QueuePolicy
from pdserver.dtypes import DATATYPES
from pdserver.engine.catalogue import Catalogue, InferenceEngine, ServedModel, ServedVersion, interface_of
from pdserver.metrics.counters import BatchTimes, Totals
from pdserver.types import Interface, ModelRef, Port, engine_names

Json = dict[str, Any]

PLATFORM = "paddle"
EXTENSIONS = (
    "classification",
    "sequence",
    "model_repository",
    "model_repository(unload_dependents)",
    "schedule_policy",
    "model_configuration",
    "system_shared_memory",
    "binary_tensor_data",
    "parameters",
    "statistics",
    "trace",
    "logging",
)
_CONFIG_TYPES = {"BYTES": "TYPE_STRING"}


def in_order(versions: Iterable[ServedVersion]) -> list[ServedVersion]:
    """By the models' names, then by the numbers or names of the versions."""
    return sorted(versions, key=lambda served: (served.spec.name, _order(served.spec.version)))


def server_metadata(server_id: str) -> Json:
    """`server_id` is what the server calls itself."""
    return {"name": server_id, "version": __version__, "extensions": list(EXTENSIONS)}


def model_metadata(catalogue: Catalogue, served: ServedVersion, version: str | None = None) -> Json:
    """The metadata of a version. `version` is the one that the client named; None: it named none, and is told of all
    that are ready.

    Raises Unavailable until the model has been loaded.
    """
    interface = interface_of(served)
    name = served.spec.name
    return {
        "name": name,
        "versions": [version] if version else _ready_versions(catalogue.model(name)),
        "platform": _platform(served),
        "inputs": [_tensor_metadata(port) for port in interface.inputs],
        "outputs": [_tensor_metadata(port) for port in interface.outputs],
    }


def model_config(served: ServedVersion) -> Json:
    """Triton's ModelConfig. If the model came with one, it is that, with the present values of what can be changed
    while the model is served.

    Raises Unavailable until the model has been loaded.
    """
    interface = interface_of(served)
    spec = served.spec
    if given := spec.manifest.get("modelConfig"):
        return _as_it_is_now(given, served, interface)
    config: Json = {
        "name": spec.name,
        "platform": PLATFORM,
        "backend": PLATFORM,
        "runtime": "",
        "max_batch_size": spec.batch_size if interface.batched else 0,
        "input": [_input(port, interface) for port in interface.inputs],
        "output": [_output(port, interface) for port in interface.outputs],
        "batch_input": [],
        "batch_output": [],
        "instance_group": [_instance_group(served)],
        "default_model_filename": str(spec.manifest.get("model", {}).get("serializedFile") or ""),
        "cc_model_filenames": {},
        "metric_tags": {},
        "parameters": {},
        "model_warmup": [],
    }
    if spec.sequence_batching:
        config["sequence_batching"] = _sequence_batching(spec)
    elif interface.batched and spec.batch_size > 1:
        config["dynamic_batching"] = _dynamic_batching(spec)
    if spec.response_cache:
        config["response_cache"] = {"enable": True}
    if accelerators := [{"name": name, "parameters": {}} for name in _accelerators(interface)]:
        config["optimization"] = {"execution_accelerators": {"cpu_execution_accelerator": accelerators}}
    return config


def model_stats(engine: InferenceEngine, versions: Iterable[ServedVersion]) -> Json:
    """Triton's statistics, since the versions were loaded: how many requests, rows and runs, and the time they took.

    {"model_stats": […]}; times are nanoseconds, `last_inference` milliseconds since the epoch (0: never).
    """
    refs = [served.spec.ref for served in in_order(versions)]
    return {"model_stats": [_model_stats(ref, engine.statistics(ref)) for ref in refs]}


def _ready_versions(model: ServedModel) -> list[str]:
    """In the order of their numbers, or of their names."""
    return sorted((version for version, served in model.versions.items() if served.is_ready), key=_order)


def _order(version: str) -> tuple[int, int, str]:
    return (0, int(version), "") if version.isdecimal() else (1, 0, version)


def _platform(served: ServedVersion) -> str:
    given = served.spec.manifest.get("modelConfig") or {}
    return given.get("platform") or given.get("backend") or PLATFORM


def _as_it_is_now(given: Json, served: ServedVersion, interface: Interface) -> Json:
    spec = served.spec
    config = {**given}
    if "ensemble_scheduling" not in given:  # an ensemble's models have instances
        config["instance_group"] = [_instance_group(served)]
    if "input" not in given:  # of a handler, which says it itself
        config["input"] = [_input(port, interface) for port in interface.inputs]
        config["output"] = [_output(port, interface) for port in interface.outputs]
    if interface.batched:
        config["max_batch_size"] = spec.batch_size
    if "dynamic_batching" in config:
        delay = round(spec.max_batch_delay_seconds * 1e6)
        config["dynamic_batching"] = config["dynamic_batching"] | {"max_queue_delay_microseconds": delay}
    return config


def _tensor_metadata(port: Port) -> Json:
    found = {"name": port.name, "datatype": DATATYPES.get(port.dtype, port.dtype), "shape": list(port.shape)}
    traits = {name: True for name in ("optional", "any_rank") if getattr(port, name)}
    return found | {"parameters": traits} if traits else found


def _input(port: Port, interface: Interface) -> Json:
    return {
        "name": port.name,
        "data_type": _data_type(port),
        "format": "FORMAT_NONE",
        "dims": _dims(port, interface),
        "is_shape_tensor": False,
        "allow_ragged_batch": False,
        "optional": port.optional,
        "is_non_linear_format_io": False,
    }


def _output(port: Port, interface: Interface) -> Json:
    return {
        "name": port.name,
        "data_type": _data_type(port),
        "dims": _dims(port, interface),
        "label_filename": "index_to_name.json" if port.labels else "",
        "is_shape_tensor": False,
        "is_non_linear_format_io": False,
    }


def _data_type(port: Port) -> str:
    datatype = DATATYPES.get(port.dtype, "INVALID")
    return _CONFIG_TYPES.get(datatype, f"TYPE_{datatype}")


def _dims(port: Port, interface: Interface) -> Sequence[int]:
    return list(port.shape[1:] if interface.batched else port.shape)


def _accelerators(interface: Interface) -> list[str]:
    """The engines of its models that Triton and FastDeploy have a name for, without their precision."""
    names = dict.fromkeys(name.partition(" ")[0] for name in engine_names(interface.engines))
    return [name for name in names if name != PLATFORM]


def _instance_group(served: ServedVersion) -> Json:
    spec = served.spec
    on_gpu = spec.device_type == "gpu"
    return {
        "name": spec.name,
        "kind": "KIND_GPU" if on_gpu else "KIND_CPU",
        "count": served.min_workers,
        "gpus": list(spec.device_ids) if on_gpu else [],
        "secondary_devices": [],
        "profile": [],
        "passive": False,
        "host_policy": "",
    }


def _dynamic_batching(spec: ModelSpec) -> Json:
    return {
        "preferred_batch_size": list(spec.preferred_batch_sizes) or [spec.batch_size],
        "max_queue_delay_microseconds": round(spec.max_batch_delay_seconds * 1e6),
        "preserve_ordering": False,
        "priority_levels": spec.priority_levels,
        "default_priority_level": spec.default_priority,
        "default_queue_policy": _queue_policy(spec.queue_policy, spec),
        "priority_queue_policy": {
            str(level): _queue_policy(policy, spec) for level, policy in spec.priority_queue_policies.items()
        },
    }


def _queue_policy(policy: QueuePolicy, spec: ModelSpec) -> Json:
    return {
        "timeout_action": policy.timeout_action.upper(),
        "default_timeout_microseconds": round((policy.timeout_seconds or spec.client_timeout_seconds) * 1e6),
        "allow_timeout_override": policy.allow_timeout_override,
        "max_queue_size": policy.max_queue_size or spec.queue_size,
    }


def _sequence_batching(spec: ModelSpec) -> Json:
    return {
        "max_sequence_idle_microseconds": round(spec.sequence_max_idle_seconds * 1e6),
        "control_input": [],
        "state": [],
        "iterative_sequence": False,
        "oldest": {
            "max_candidate_sequences": spec.max_sequences,
            "preferred_batch_size": [spec.batch_size],
            "max_queue_delay_microseconds": round(spec.max_batch_delay_seconds * 1e6),
            "preserve_ordering": False,
        },
    }


def _model_stats(ref: ModelRef, metrics: Totals) -> Json:
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
        "batch_stats": [_batch_stats(rows, seen.batches[rows]) for rows in sorted(seen.batches)],
        "memory_usage": [],
    }


def _batch_stats(rows: int, times: BatchTimes) -> Json:
    return {
        "batch_size": rows,
        "compute_input": _duration(times.count, times.input_seconds),
        "compute_infer": _duration(times.count, times.infer_seconds),
        "compute_output": _duration(times.count, times.output_seconds),
    }


def _duration(count: int, seconds: float) -> Json:
    return {"count": count, "ns": round(seconds * 1e9)}
