"""Translates the execution accelerators of Triton's Paddle backend to the section `predictor` of a model's settings.

Source: the backend's README and src/paddle.cc. Its documentation calls the GPU's accelerator "config", its code
"tensorrt"; both are accepted. So are the names of TensorRT's parameters in Triton's other backends, which old
configurations use.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from pdserver.errors import ConfigError
from pdserver.formats.values import as_number, nearest, shown, whole
from pdserver.system.devices import gpu_count

_ONEDNN = ("mkldnn", "onednn")
_ENGINES = ("openvino", "onnxruntime", "paddle")
"""Those of FastDeploy's backend; "openvino" is one of Triton's as well."""
_TENSORRT = ("tensorrt", "config")
_SHAPES = ("min_shape", "max_shape", "opt_shape")
_WITHOUT_EFFECT = {
    "is_dynamic": "shapes are dynamic when min_shape, max_shape and opt_shape are given",
    "disenable_trt_tune": "shapes are not tuned at run time",
}
_OF_OTHERS = {"auto_mixed_precision": "'tensorrt' with the parameter precision, which is trt_fp16"}
"""Accelerators of Triton's other backends → the nearest one here."""
_PRECISIONS = {"trt_fp32": "float32", "trt_fp16": "float16", "trt_int8": "int8"}


def predictor_settings(config: Any, where: str) -> tuple[dict[str, Any], list[str]]:
    """The section's keys, and warnings for what has no effect. Raises ConfigError."""
    accelerators = config.optimization.execution_accelerators
    settings: dict[str, Any] = {}
    warnings: list[str] = []
    for accelerator in accelerators.cpu_execution_accelerator:
        at = f"{where}: cpu_execution_accelerator {shown(accelerator.name)!r}"
        if accelerator.name == "ort":
            warnings.append(f"{at} has no effect: Paddle's own engine runs the model")
            continue
        if accelerator.name in _ENGINES:
            if "engine" in settings:
                raise ConfigError(f"{at}: one engine runs a model, and {settings['engine']!r} is named already")
            settings["engine"] = accelerator.name
            settings |= _read(_CPU if accelerator.name == "paddle" else _OTHER_CPU, accelerator.parameters, at)
            continue
        if accelerator.name not in _ONEDNN:
            known = (*_ONEDNN, *_ENGINES)
            raise ConfigError(f"{at}: expected one of {', '.join(known)}{nearest(accelerator.name, known)}")
        settings["onednn"] = True
        settings |= _read(_CPU, accelerator.parameters, at)
    gpu = {accelerator.name: accelerator.parameters for accelerator in accelerators.gpu_execution_accelerator}
    if gpu and not gpu_count():
        warnings.append(f"{where}: gpu_execution_accelerator has no effect: this machine has no GPU")
    for name in gpu:
        if name in _OF_OTHERS and gpu_count():
            raise ConfigError(f"{where}: gpu_execution_accelerator {name!r}: expected {_OF_OTHERS[name]}")
        if name not in (*_TENSORRT, *_SHAPES, *_OF_OTHERS):
            raise ConfigError(
                f"{where}: gpu_execution_accelerator {shown(name)!r}: expected one of {', '.join(_TENSORRT + _SHAPES)}"
            )
    if gpu.keys() - _OF_OTHERS:
        settings["tensorrt"] = _tensorrt(gpu, f"{where}: gpu_execution_accelerator", warnings)
    return settings, warnings


def _tensorrt(given: Mapping[str, Mapping[str, str]], where: str, warnings: list[str]) -> dict[str, Any]:
    settings: dict[str, Any] = {}
    for name in _TENSORRT:
        if name in given:
            ignored = given[name].keys() & _WITHOUT_EFFECT.keys()
            warnings += [f"{where}: {key} has no effect: {_WITHOUT_EFFECT[key]}" for key in sorted(ignored)]
            parameters = {key: text for key, text in given[name].items() if key not in ignored}
            settings |= _read(_GPU, parameters, f"{where} {name!r}")
    shapes = [name for name in _SHAPES if name in given]
    if shapes and len(shapes) < len(_SHAPES):
        raise ConfigError(f"{where}: {', '.join(shapes)} alone: name {', '.join(_SHAPES)}, each with every input")
    for name in shapes:
        settings[f"{name}s"] = {
            tensor: _lengths(text, f"{where} {name!r}: {shown(tensor)}") for tensor, text in given[name].items()
        }
    return settings


def _lengths(text: str, where: str) -> list[int]:
    lengths = [as_number(word) for word in text.split()]
    if not lengths or not all(isinstance(length, int) and length >= 0 for length in lengths):
        raise ConfigError(f'{where}: {shown(text)}: expected lengths such as "1 3 224 224"')
    return [length for length in lengths if isinstance(length, int)]


def _truth(text: object) -> bool:
    if text in (0, 1):
        return text == 1
    if isinstance(text, str) and text.lower() in ("true", "false"):
        return text.lower() == "true"
    raise ValueError("expected 1, 0, true or false")


def _int8(text: object) -> str:
    return "int8" if _truth(text) else "float32"


def _precision(text: object) -> str:
    if isinstance(text, str) and (name := f"trt_{text.lower().removeprefix('trt_')}") in _PRECISIONS:
        return _PRECISIONS[name]
    raise ValueError(f"expected one of {', '.join(_PRECISIONS)}")


Known = Mapping[str, tuple[str, Callable[[object], object]]]
_CPU: Known = {
    "cpu_threads": ("threads", whole("threads", 1, 1024)),
    "capacity": ("onednn_cache_shapes", whole("shapes", 0, 1_000_000)),
    "use_int8": ("precision", _int8),
}
_OTHER_CPU: Known = {"cpu_threads": _CPU["cpu_threads"]}
_GPU: Known = {
    "precision": ("precision", _precision),
    "precision_mode": ("precision", _precision),
    "min_graph_size": ("min_graph_size", whole("operations", 1, 100_000)),
    "minimum_segment_size": ("min_graph_size", whole("operations", 1, 100_000)),
    "workspace_size": ("workspace_bytes", whole("bytes", 0, 2**40)),
    "max_workspace_size_bytes": ("workspace_bytes", whole("bytes", 0, 2**40)),
    "max_batch_size": ("max_batch_size", whole("rows", 1, 100_000)),
    "enable_tensorrt_oss": ("oss", _truth),
}


def _read(known: Known, parameters: Mapping[str, str], where: str) -> dict[str, Any]:
    settings: dict[str, Any] = {}
    for name, text in parameters.items():
        if name not in known:
            raise ConfigError(f"{where}: unknown parameter {shown(name)!r}{nearest(name, known)}")
        key, parse = known[name]
        try:
            settings[key] = parse(as_number(text))
        except ValueError as problem:
            raise ConfigError(f"{where}: {name}: {shown(text)!r}: {problem}") from None
    return settings
