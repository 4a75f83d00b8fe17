"""A completed model configuration → the settings and the model's own YAML that this server serves a model by."""

from __future__ import annotations

from typing import Any, NamedTuple

import orjson

from pdserver.configuration.model import (
    MAX_BATCH_SIZE,
    MAX_LEVELS,
    MAX_QUEUE_SIZE,
    MAX_WORKERS,
    PartialSettings,
    QueuePolicy,
)
from pdserver.errors import ConfigError
from pdserver.formats.values import shown
from pdserver.system.devices import gpu_count
from pdserver.triton.accelerators import predictor_settings
from pdserver.triton.complete import is_set, reshapes
from pdserver.triton.model_config import DTYPES, data_type, name_of

WARM_UP_FOLDER = "warmup"
_MICROSECONDS = 1_000_000


class Placement(NamedTuple):
    """Where the workers of a version run."""

    workers: int
    devices: tuple[str, tuple[int, ...]]
    """deviceType and deviceIds."""


def settings(config: Any, where: str) -> tuple[PartialSettings, list[str]]:
    """Workers and batching, and what in the configuration has no effect. Raises ConfigError."""
    if config.max_batch_size > MAX_BATCH_SIZE:
        raise ConfigError(f"{where}: max_batch_size: {config.max_batch_size}: at most {MAX_BATCH_SIZE}")
    placed = placement(config.instance_group, where)
    warnings = [
        f"{where}: instance_group.{field} has no effect"
        for field in ("profile", "rate_limiter", "host_policy")
        if any(is_set(group, field) for group in config.instance_group)
    ]
    dynamic = config.dynamic_batching
    if dynamic.preserve_ordering:
        warnings.append("preserve_ordering has no effect: answers keep the order of a connection's requests anyway")
    policy = _policy(dynamic.default_queue_policy, f"{where}: default_queue_policy")
    _check_levels(dynamic, where)
    return {
        "min_workers": placed.workers,
        "device_type": placed.devices[0],
        "device_ids": placed.devices[1],
        "batch_size": max(1, config.max_batch_size),
        "preferred_batch_sizes": _preferred(dynamic.preferred_batch_size, config.max_batch_size, where),
        "max_batch_delay_seconds": dynamic.max_queue_delay_microseconds / _MICROSECONDS,
        "queue_size": MAX_QUEUE_SIZE,  # Triton's queues have no limit
        "queue_policy": policy if config.HasField("dynamic_batching") else QueuePolicy(),
        "priority_levels": dynamic.priority_levels,
        "default_priority": dynamic.default_priority_level,
        "priority_queue_policies": {
            level: _policy(own, f"{where}: priority_queue_policy {level}")
            for level, own in dynamic.priority_queue_policy.items()
        },
        "response_cache": config.response_cache.enable,
    }, warnings


def model_yaml(config: Any, labels: dict[str, list[str]], where: str) -> tuple[dict[str, Any], list[str]]:
    """The sections that handlers read, and what has no effect. `labels` are those of outputs. Raises ConfigError."""
    predictor, warnings = predictor_settings(config, where)
    if reshape := reshapes(config):
        predictor["reshape"] = reshape
    parameters = {name: value.string_value for name, value in config.parameters.items()}
    padding = parameters.pop("padding", None)
    batched = config.max_batch_size > 0
    sections: dict[str, Any] = {
        "interface": {"batched": batched, "labels": labels},
        "predictor": predictor,
        "warmup": [_sample(sample, batched) for sample in config.model_warmup],
        "parameters": parameters,
    }
    if padding is not None:
        sections["padding"] = _padding(padding, where)
    return sections, warnings


def placement(groups: Any, where: str) -> Placement:
    """Of a configuration's `instance_group`; one that says nothing is one worker, or one on each GPU there is.

    Raises ConfigError.
    """
    gpus = gpu_count()
    workers = {"cpu": 0, "gpu": 0}
    devices: list[int] = []
    for group in groups:
        kind = name_of(group.DESCRIPTOR.fields_by_name["kind"], group.kind)
        if kind == "KIND_MODEL" or group.secondary_devices or group.passive:
            raise ConfigError(f"{where}: instance_group {shown(group.name)!r}: only KIND_CPU and KIND_GPU are served")
        device = "gpu" if kind == "KIND_GPU" or (kind == "KIND_AUTO" and (group.gpus or gpus)) else "cpu"
        copies = (len(group.gpus) or max(1, gpus)) if device == "gpu" else 1
        workers[device] += max(1, group.count) * copies
        devices += [gpu for gpu in group.gpus if gpu not in devices and device == "gpu"]
    if workers["cpu"] and workers["gpu"]:
        raise ConfigError(f"{where}: instance_group: workers of a model run all on the CPU, or all on GPUs")
    if sum(workers.values()) > MAX_WORKERS:
        raise ConfigError(f"{where}: instance_group: {sum(workers.values())} instances: at most {MAX_WORKERS}")
    if not groups:
        workers["gpu" if gpus else "cpu"] = max(1, gpus)
    device = "gpu" if workers["gpu"] else "cpu"
    return Placement(workers[device], (device, tuple(devices)))


def _padding(text: str, where: str) -> dict[str, Any]:
    """The section `padding`, which Triton does not have: it stands among the parameters, as JSON."""
    try:
        section = orjson.loads(text)
    except orjson.JSONDecodeError:
        section = None
    if not isinstance(section, dict):
        raise ConfigError(f'{where}: parameters: padding: {shown(text)}: expected JSON such as {{"value": 0}}')
    return section


def _preferred(sizes: Any, max_batch_size: int, where: str) -> tuple[int, ...]:
    for size in sizes:
        if not 0 < size <= max_batch_size:
            raise ConfigError(
                f"{where}: preferred_batch_size: {size}: expected 1 to max_batch_size, which is {max_batch_size}"
            )
    return tuple(sorted(set(sizes)))


def _check_levels(dynamic: Any, where: str) -> None:
    levels, default = dynamic.priority_levels, dynamic.default_priority_level
    if levels > MAX_LEVELS:
        raise ConfigError(f"{where}: priority_levels: {levels}: at most {MAX_LEVELS}")
    if default > levels or (levels and not default):
        raise ConfigError(
            f"{where}: default_priority_level: {default}: expected 1 to priority_levels, which is {levels}"
        )
    for level in dynamic.priority_queue_policy:
        if not 1 <= level <= levels:
            raise ConfigError(f"{where}: priority_queue_policy: {level}: expected 1 to priority_levels, {levels}")


def _policy(policy: Any, where: str) -> QueuePolicy:
    action = name_of(policy.DESCRIPTOR.fields_by_name["timeout_action"], policy.timeout_action)
    if action not in ("REJECT", "DELAY"):
        raise ConfigError(f"{where}: timeout_action: {action}: expected REJECT or DELAY")
    return QueuePolicy(
        max_queue_size=policy.max_queue_size,
        timeout_seconds=policy.default_timeout_microseconds / _MICROSECONDS,
        timeout_action="delay" if action == "DELAY" else "reject",
        allow_timeout_override=policy.allow_timeout_override,
    )


def _sample(sample: Any, batched: bool) -> dict[str, Any]:
    """One of `model_warmup`, as the section `warmup` has it."""
    inputs = {}
    for name, given in sample.inputs.items():
        kind = given.WhichOneof("input_data_type")
        inputs[name] = {
            "dtype": DTYPES.get(data_type(given), ""),
            "shape": [*([max(1, sample.batch_size)] if batched else []), *given.dims],
            **(
                {"file": f"{WARM_UP_FOLDER}/{given.input_data_file}"}
                if kind == "input_data_file"
                else {"data": "random" if kind == "random_data" else "zero"}
            ),
        }
    return {"name": sample.name, "inputs": inputs, "count": max(1, sample.count)}
