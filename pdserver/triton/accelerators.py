"""Translates the execution accelerators of Triton's Paddle backend, and of FastDeploy's, to the section `predictor` of
a model's settings.

Source: the backends' READMEs, and src/paddle.cc and src/fastdeploy_runtime.cc. The first one's documentation calls the
GPU's accelerator "config", its code "tensorrt"; both are accepted. So are the names of TensorRT's parameters in
Triton's other backends, which old configurations use.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
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
    "cache_file": "what TensorRT has prepared is not kept",
    "use_paddle": "TensorRT is used through Paddle anyway",
    "use_paddle_log": "Paddle's own log is off",
    "is_clone": "each worker has the model in a process of its own",
    "num_streams": "a worker runs one batch at a time: instance_group has the number of workers",
}
_REFUSED = {"encryption_key": "a key has no place in it: name its file by modelKeyFile (model_key_file for all models)"}
_OF_OTHERS = {
    "auto_mixed_precision": "expected 'tensorrt' with the parameter precision, which is trt_fp16",
    "onnxruntime": "ONNX Runtime runs models on CPUs here; expected 'paddle' or 'tensorrt'",
}
"""Accelerators of other backends that are none here → what to say instead. FastDeploy's "paddle" needs no word: Paddle
runs models on GPUs anyway."""
_PRECISIONS = {"trt_fp32": "float32", "trt_fp16": "float16", "trt_int8": "int8"}


def predictor_settings(config: Any, where: str) -> tuple[dict[str, Any], list[str]]:
    """The section's keys, and warnings for what has no effect. Raises ConfigError."""
    accelerators = config.optimization.execution_accelerators
    warnings: list[str] = []
    settings = _on_cpu(accelerators.cpu_execution_accelerator, f"{where}: cpu_execution_accelerator", warnings)
    gpu = {accelerator.name: accelerator.parameters for accelerator in accelerators.gpu_execution_accelerator}
    return settings | _on_gpu(gpu, f"{where}: gpu_execution_accelerator", warnings), warnings


def _on_cpu(accelerators: Iterable[Any], where: str, warnings: list[str]) -> dict[str, Any]:
    settings: dict[str, Any] = {}
    for accelerator in accelerators:
        name, at = accelerator.name, f"{where} {shown(accelerator.name)!r}"
        if name == "ort":
            warnings.append(f"{at} has no effect: the fastest of the engines that read the model runs it")
            continue
        if name in _ENGINES:
            if "engine" in settings:
                raise ConfigError(f"{at}: one engine runs a model, and {settings['engine']!r} is named already")
            settings["engine"] = name
        elif name in _ONEDNN:
            settings["onednn"] = True
        else:
            names = (*_ONEDNN, *_ENGINES)
            raise ConfigError(f"{at}: expected one of {', '.join(names)}{nearest(name, names)}")
        settings |= _read(_CPU[name], _with_effect(accelerator.parameters, at, warnings), at)
    return settings


def _on_gpu(gpu: Mapping[str, Mapping[str, str]], where: str, warnings: list[str]) -> dict[str, Any]:
    there = gpu_count() > 0
    if gpu and not there:
        warnings.append(f"{where} has no effect: this machine has no GPU")
    for name in gpu:
        if name in _OF_OTHERS and there:
            raise ConfigError(f"{where} {name!r}: {_OF_OTHERS[name]}")
        if name not in (*_TENSORRT, *_SHAPES, *_OF_OTHERS, "paddle"):
            names = ", ".join((*_TENSORRT, *_SHAPES, "paddle"))
            raise ConfigError(f"{where} {shown(name)!r}: expected one of {names}")
    return {"tensorrt": _tensorrt(gpu, where, warnings)} if gpu.keys() & {*_TENSORRT, *_SHAPES} else {}


def _tensorrt(given: Mapping[str, Mapping[str, str]], where: str, warnings: list[str]) -> dict[str, Any]:
    settings: dict[str, Any] = {}
    for name in _TENSORRT:
        if name in given:
            at = f"{where} {name!r}"
            settings |= _read(_GPU, _with_effect(given[name], at, warnings), at)
    shapes = [name for name in _SHAPES if name in given]
    if shapes and len(shapes) < len(_SHAPES):
        raise ConfigError(f"{where}: {', '.join(shapes)} alone: name {', '.join(_SHAPES)}, each with every input")
    for name in shapes:
        settings[f"{name}s"] = {
            tensor: _lengths(text, f"{where} {name!r}: {shown(tensor)}") for tensor, text in given[name].items()
        }
    return settings


def _with_effect(parameters: Mapping[str, str], where: str, warnings: list[str]) -> dict[str, str]:
    """The parameters that have one. Raises ConfigError for one that must not be here."""
    for name in parameters.keys() & _REFUSED.keys():
        raise ConfigError(f"{where}: {name}: {_REFUSED[name]}")
    ignored = parameters.keys() & _WITHOUT_EFFECT.keys()
    warnings += [f"{where}: {name} has no effect: {_WITHOUT_EFFECT[name]}" for name in sorted(ignored)]
    return {name: text for name, text in parameters.items() if name not in ignored}


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
_THREADS: Known = {"cpu_threads": ("threads", whole("threads", 1, 1024))}
_OF_ONEDNN: Known = {
    **_THREADS,
    "capacity": ("onednn_cache_shapes", whole("shapes", 0, 1_000_000)),
    "use_int8": ("precision", _int8),
}
_CPU: Mapping[str, Known] = {
    **dict.fromkeys(_ONEDNN, _OF_ONEDNN),
    **dict.fromkeys(_ENGINES, _THREADS),
    "paddle": {**_OF_ONEDNN, "use_mkldnn": ("onednn", _truth)},
}
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
