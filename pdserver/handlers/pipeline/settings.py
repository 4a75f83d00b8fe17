"""What config.yml says of models and of the server → this server's own settings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

from pdserver.errors import ConfigError
from pdserver.handlers.pipeline.config import TENSORRT, ModelKeys, OpConfig, ServiceConfig
from pdserver.handlers.runtime.predictor_settings import PredictorSettings, TensorRtSettings

_TENSORRT_WORKSPACE_BYTES = 1 << 20
_TENSORRT_BATCH_SIZE = 32
"""Both are those of Paddle Serving's LocalPredictor."""
_PRECISIONS: Mapping[str, Literal["float32", "float16", "int8"]] = {"fp16": "float16", "int8": "int8"}


def predictor(keys: ModelKeys, shapes: Mapping[str, Mapping[str, list[int]]]) -> PredictorSettings:
    """`shapes` is an Op's `dynamic_shape_info`. Raises ConfigError if it lacks one of its three."""
    return PredictorSettings(
        onednn="auto" if keys.use_mkldnn is None else keys.use_mkldnn,
        threads=keys.thread_num,
        onednn_cache_shapes=keys.mkldnn_cache_capacity,
        ir_optim=keys.ir_optim,
        memory_optim="auto" if keys.mem_optim else False,
        tensorrt=_tensorrt(keys, shapes) if keys.device_type == TENSORRT else None,
    )


def is_separate(service: ServiceConfig, *, jumps: bool) -> bool:
    """Whether each Op has workers of its own. `jumps`: whether one has `jump_to_ops`.

    All Ops in one worker are fastest while all want the same number of workers on the same GPUs: nothing passes between
    processes, and a batch stays one from the first Op to the last. Else each would have what the greediest wants.
    """
    if service.each_worker or jumps:
        return False
    configs = service.ops.values()
    devices = {config.model.devices for config in configs if config.model and config.model.on_gpu}
    return len({config.keys.concurrency for config in configs}) > 1 or len(devices) > 1


def of_model(service: ServiceConfig) -> dict[str, Any]:
    """The settings of the model that the service is to this server, as its own YAML has them. Raises ConfigError."""
    ops = service.ops.values()
    timeouts = [op.keys.timeout_seconds for op in ops if op.model]
    return {
        **_common([*ops]),
        "minWorkers": service.workers,
        **_placement(service),
        **({"responseTimeout": sum(timeouts)} if timeouts and all(timeouts) else {}),
    }


def of_op(config: OpConfig) -> dict[str, Any]:
    """The same for an Op with workers of its own."""
    timeout = config.keys.timeout_seconds
    on_gpu = config.model is not None and config.model.on_gpu
    return {
        **_common([config]),
        "minWorkers": config.keys.concurrency,
        **({"deviceType": "gpu", "deviceIds": list(config.model.devices)} if config.model and on_gpu else {}),
        **({"responseTimeout": timeout} if timeout else {}),
    }


def _common(ops: Sequence[OpConfig]) -> dict[str, Any]:
    threads = max([op.model.thread_num for op in ops if op.model], default=1)
    return {
        "batchSize": max(op.keys.batch_size for op in ops),
        "maxBatchDelay": round(max(op.keys.auto_batching_timeout_seconds for op in ops) * 1000),
        **({"predictor": {"threads": threads}} if threads > 1 else {}),
    }


def _tensorrt(keys: ModelKeys, shapes: Mapping[str, Mapping[str, list[int]]]) -> TensorRtSettings:
    names = [f"{which}_input_shape" for which in ("min", "max", "opt")]
    if shapes and (missing := [name for name in names if name not in shapes]):
        raise ConfigError(f"dynamic_shape_info: {', '.join(missing)} missing: set_dynamic_shape_info sets all three")
    shortest, longest, usual = (dict(shapes.get(name, {})) for name in names)
    return TensorRtSettings(
        precision=_PRECISIONS.get(keys.precision, "float32"),
        min_graph_size=keys.min_subgraph_size,
        workspace_bytes=_TENSORRT_WORKSPACE_BYTES,
        max_batch_size=_TENSORRT_BATCH_SIZE,
        min_shapes=shortest,
        max_shapes=longest,
        opt_shapes=usual,
    )


def _placement(service: ServiceConfig) -> dict[str, Any]:
    """A worker has one GPU at most, which the models of all its Ops share."""
    devices = {name: op.model.devices for name, op in service.ops.items() if op.model and op.model.on_gpu}
    if not devices:
        return {}
    if len(set(devices.values())) > 1:
        said = "; ".join(f"op.{name}: {','.join(map(str, numbers)) or 'none'}" for name, numbers in devices.items())
        raise ConfigError(
            f"devices: {said}: here, a worker runs all Ops (build_dag_each_worker, jump_to_ops), on one GPU: give all"
            " that use GPUs the same ones"
        )
    return {"deviceType": "gpu", "deviceIds": list(next(iter(devices.values())))}
