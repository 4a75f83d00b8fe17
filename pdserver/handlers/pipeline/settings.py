"""What config.yml says of models and of the server → this server's own settings."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from pdserver.errors import ConfigError
from pdserver.handlers.pipeline.config import TENSORRT, ModelKeys, ServiceConfig
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


def of_model(service: ServiceConfig) -> dict[str, Any]:
    """The settings of the model that the service is to this server, as its own YAML has them. Raises ConfigError."""
    ops = service.ops.values()
    models = [op.model for op in ops if op.model]
    timeouts = [op.keys.timeout_seconds for op in ops if op.model]
    threads = max([model.thread_num for model in models], default=1)
    settings: dict[str, Any] = {
        "minWorkers": service.workers,
        "batchSize": max(op.keys.batch_size for op in ops),
        "maxBatchDelay": round(max(op.keys.auto_batching_timeout_seconds for op in ops) * 1000),
        **_placement(service),
    }
    if timeouts and all(timeouts):
        settings["responseTimeout"] = sum(timeouts)
    if threads > 1:
        settings["predictor"] = {"threads": threads}
    return settings


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
        raise ConfigError(f"devices: {said}: a worker runs all Ops, on one GPU: give all that use GPUs the same ones")
    return {"deviceType": "gpu", "deviceIds": list(next(iter(devices.values())))}
