"""Completes a model configuration with what the model's files say.

The model fills in what the configuration leaves out. If both say something, the configuration wins for shapes, because
a model is often exported with other shapes than it is used with. Names and dtypes must agree.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from pdarchiver.manifest import Signature, TensorSpec
from pdserver.errors import ConfigError
from pdserver.formats.values import nearest, shown
from pdserver.triton.model_config import DATA_TYPES, DTYPES, data_type, set_data_type

BACKEND = "paddle"
ONNX_BACKEND, ONNX_PLATFORM = "onnxruntime", "onnxruntime_onnx"
"""What Triton calls the backend of `.onnx` models. Here, the trial of engines chooses what runs them."""
_KNOWN = {"backend": ("", BACKEND, "fastdeploy", ONNX_BACKEND), "platform": ("", BACKEND, "fastdeploy", ONNX_PLATFORM)}
PYTHON = "python"
"""The backend whose models are code. Here, code is a handler in an archive."""
_PACK_IT = (
    "pack the code as a handler with pd-model-archiver, and put the archive into the version's folder: model.pdar"
)
_DEFAULT_BATCH_SIZE = 4
"""Triton's `default-max-batch-size`, for a model without a configuration of its inputs."""
_REFUSED = {
    "sequence_batching": "sequences are kept by a handler here: pack the model, with sequenceBatching in its YAML",
    "batch_input": "a Paddle model takes its inputs whole: give the lengths as an input of its own",
    "batch_output": "a Paddle model's outputs are cut along their first axis",
    "model_repository_agents": "agents are not run: check or unpack the model before it is put here",
    "model_operations": "libraries of operations are not loaded: pack the model with a handler that imports them",
}
"""Fields that change the answers. They are refused, because ignoring them would give wrong answers."""
_IGNORED = {
    "metric_tags": "metrics have the model's name and version",
    "model_metrics": "histograms have fixed bounds",
    "cc_model_filenames": "there is one file for all GPUs",
}
_ODD_INPUTS = {
    "optional": "a Paddle model needs all of its inputs",
    "allow_ragged_batch": "rows of different lengths share a run when the parameter `padding` says how",
    "is_shape_tensor": "it is an input like others",
}


def check_name(config: Any, name: str, where: str) -> None:
    """Raises ConfigError for a configuration of another model."""
    if config.name not in ("", name):
        raise ConfigError(f"{where}: name: {shown(config.name)!r}, in the folder {name!r}: they must be the same")


def check(config: Any, name: str, where: str) -> list[str]:
    """Warnings for fields of the model's configuration that have no effect. Raises ConfigError for unsupported ones."""
    check_name(config, name, where)
    for field, known in _KNOWN.items():
        said = getattr(config, field)
        if said == PYTHON:
            raise ConfigError(f"{where}: {field}: {said!r}: {_PACK_IT}")
        if said not in known:
            raise ConfigError(
                f"{where}: {field}: {shown(said)!r} is not served here; expected {BACKEND!r}, or {known[-1]!r} for an "
                ".onnx model"
            )
    return check_supported(config, where)


def check_supported(config: Any, where: str) -> list[str]:
    """The part of `check` that also holds for models of other kinds."""
    for field, why in _REFUSED.items():
        if is_set(config, field):
            raise ConfigError(f"{where}: {field}: {why}")
    if config.model_transaction_policy.decoupled:
        raise ConfigError(f"{where}: model_transaction_policy.decoupled: a Paddle model gives one answer to a request")
    return [f"{where}: {field} has no effect: {why}" for field, why in _IGNORED.items() if is_set(config, field)]


def complete(
    config: Any, name: str, signature: Signature, where: str, *, is_onnx: bool, works_row_by_row: Callable[[], bool]
) -> tuple[Any, list[str]]:
    """A completed copy of a checked configuration, and warnings where it differs from the model. Raises ConfigError.

    `is_onnx`: whether the model is an .onnx file, and not Paddle's. `works_row_by_row` is called if the configuration
    says nothing of batches.
    """
    if not is_onnx and ONNX_BACKEND in (config.backend, config.platform.removesuffix("_onnx")):
        raise ConfigError(
            f"{where}: {ONNX_BACKEND!r}, but the model is Paddle's, which it cannot read; expected {BACKEND!r}"
        )
    full = type(config)()
    full.CopyFrom(config)
    full.name = name
    full.backend, full.platform = (ONNX_BACKEND, ONNX_PLATFORM) if is_onnx else (BACKEND, "")
    if not full.input and full.max_batch_size == 0 and _is_batched(signature) and works_row_by_row():
        full.max_batch_size = _DEFAULT_BATCH_SIZE
        if not full.HasField("dynamic_batching"):
            full.dynamic_batching.SetInParent()
    if full.max_batch_size < 0:
        raise ConfigError(f"{where}: max_batch_size: {full.max_batch_size}: expected 0, for no batching, or more")
    batched = full.max_batch_size > 0
    if batched and not all(spec.shape for spec in signature.inputs):
        raise ConfigError(f"{where}: max_batch_size: {full.max_batch_size}, but the model has an input without axes")
    warnings = _complete_side(full.input, signature.inputs, batched, f"{where}: input", all_of_them=True)
    warnings += _complete_side(full.output, signature.outputs, batched, f"{where}: output", all_of_them=False)
    full.version_policy.CopyFrom(version_policy(full))
    return full, warnings


def version_policy(config: Any) -> Any:
    """The version policy. The default is the latest version."""
    policy = type(config.version_policy)()
    policy.CopyFrom(config.version_policy)
    if not config.HasField("version_policy"):
        policy.latest.num_versions = 1
    return policy


def signature_of(config: Any, signature: Signature) -> Signature:
    """The model's signature with the shapes of a completed configuration, and only the outputs that it names."""
    batched = config.max_batch_size > 0
    return Signature(_specs(config.input, signature.inputs, batched), _specs(config.output, signature.outputs, batched))


def reshapes(config: Any) -> dict[str, dict[str, list[int]]]:
    """The tensors with `reshape`, as the predictor's settings: the new shapes of inputs and outputs. 0 is the batch."""
    batch = [0] if config.max_batch_size > 0 else []
    sides = {
        "inputs": {each.name: [*batch, *each.reshape.shape] for each in config.input if each.HasField("reshape")},
        "outputs": {each.name: [*batch, *each.dims] for each in config.output if each.HasField("reshape")},
    }
    return {side: shapes for side, shapes in sides.items() if shapes}


def is_set(config: Any, field: str) -> bool:
    """Whether the field of a message is set."""
    value = getattr(config, field)
    return len(value) > 0 if hasattr(value, "__len__") else config.HasField(field)


def _is_batched(signature: Signature) -> bool:
    """Whether every input and output begins with an axis of any length."""
    return all(spec.shape[:1] == (-1,) for spec in (*signature.inputs, *signature.outputs))


def _complete_side(
    tensors: Any, specs: Sequence[TensorSpec], batched: bool, where: str, *, all_of_them: bool
) -> list[str]:
    if not tensors:
        for spec in specs:
            tensor = tensors.add(name=spec.name, dims=spec.shape[1:] if batched else spec.shape)
            set_data_type(tensor, _data_type(spec, where))
        return []
    by_name = {spec.name: spec for spec in specs}
    warnings = []
    for tensor in tensors:
        if tensor.name not in by_name:
            known = ", ".join(by_name)
            raise ConfigError(
                f"{where}: the model has no {shown(tensor.name)!r}{nearest(tensor.name, by_name)}; it has {known}"
            )
        warnings += _check_tensor(tensor, by_name[tensor.name], batched, f"{where} {tensor.name!r}")
    missing = by_name.keys() - {tensor.name for tensor in tensors}
    if len(tensors) > len(by_name) or (all_of_them and missing):
        raise ConfigError(f"{where}: {len(tensors)} are configured, but the model has {', '.join(by_name)}")
    return warnings


def _check_tensor(tensor: Any, spec: TensorSpec, batched: bool, where: str) -> list[str]:
    given, wanted = data_type(tensor), _data_type(spec, where)
    if given == "TYPE_INVALID":
        set_data_type(tensor, wanted)
    elif given != wanted:
        raise ConfigError(f"{where}: data_type: {given}, but the model has {wanted}")
    own = spec.shape[1:] if batched else spec.shape
    shape = tuple(tensor.reshape.shape) if tensor.HasField("reshape") else tuple(tensor.dims)
    if len(shape) != len(own):
        asked = "reshape" if tensor.HasField("reshape") else "dims"
        axis = " after the batch axis" if batched else ""
        raise ConfigError(f"{where}: {asked}: {list(shape)}, but the model has {list(own)}{axis}")
    odd = [field for field in _ODD_INPUTS if getattr(tensor, field, False)]
    warnings = [f"{where}: {field} has no effect: {_ODD_INPUTS[field]}" for field in odd]
    if any(-1 != length != at > 0 for length, at in zip(own, shape, strict=True)):
        warnings.append(f"{where}: dims: {list(shape)}, where the model's file says {list(own)}")
    return warnings


def _data_type(spec: TensorSpec, where: str) -> str:
    if spec.dtype not in DATA_TYPES:
        raise ConfigError(f"{where} {spec.name!r}: Triton has no data type for {spec.dtype}")
    return DATA_TYPES[spec.dtype]


def _specs(tensors: Any, specs: Sequence[TensorSpec], batched: bool) -> tuple[TensorSpec, ...]:
    by_name = {spec.name: spec for spec in specs}
    found = []
    for tensor in tensors:
        spec = by_name[tensor.name]
        axis = spec.shape[:1] if batched else ()
        found.append(replace(spec, dtype=DTYPES[data_type(tensor)], shape=(*axis, *tensor.dims)))
    return tuple(found)
