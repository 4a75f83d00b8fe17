"""Which engines may run a model, in which order they are tried, and how each loads it."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from pdarchiver.manifest import Signature
from pdserver.errors import ConfigError, LoadFailed
from pdserver.handlers.runtime.engines.base import Candidate, Engine, EngineName, Precision
from pdserver.handlers.runtime.predictor_settings import PredictorSettings
from pdserver.system.devices import cpu_flags

_READS: dict[EngineName, tuple[str, ...]] = {
    "paddle": (".json", ".pdmodel", ""),
    "onnxruntime": (".onnx",),
    "openvino": (".onnx", ".pdmodel"),
}
"""The suffixes of what each engine reads, in the order in which `auto` tries them. "" is __model__ of Paddle 1."""
_PRECISIONS: dict[EngineName, tuple[Precision, ...]] = {
    "paddle": ("float32", "bfloat16"),
    "onnxruntime": ("float32",),
    "openvino": ("float32", "bfloat16"),
}
"""On CPUs."""
_BFLOAT16_FLAGS = frozenset({"avx512_bf16", "amx_bf16"})
_REFUSED = {
    "float16": "no engine computes in it on CPUs here: say float32 or bfloat16 (for TensorRT on GPUs, "
    "predictor.tensorrt.precision)",
    "int8": "a model computes in int8 if it was quantized before it was saved, and needs no setting for that (Paddle: "
    "predictor.onednn_int8): say float32 or bfloat16 for what is not quantized",
}
_LARGE_PARAMS_BYTES = 256 * 1024
_CONVOLUTION = re.compile(rb'"#":"\d+\.\w*conv[23]d|\x1a[\x06-\x20]\w*conv[23]d')
"""An operation's type in the two formats: in PIR's JSON, and in .pdmodel's protobuf (field 3 and its length)."""


@dataclass(frozen=True)
class Way:
    """One way to load a model."""

    candidate: Candidate
    onednn: bool = False
    """Paddle's, as `convolutions` is: whether the model has some."""
    convolutions: bool = False

    def load(self, settings: PredictorSettings, device_id: int | None) -> Engine:
        """Raises what the engine raises, and ModuleNotFoundError when it isn't installed."""
        # Imported here, so that a worker imports no engine but its own.
        if self.candidate.engine == "onnxruntime":
            from pdserver.handlers.runtime.engines import onnxruntime

            return onnxruntime.load(self.candidate, settings.threads)
        if self.candidate.engine == "openvino":
            from pdserver.handlers.runtime.engines import openvino

            return openvino.load(self.candidate, settings.threads)
        from pdserver.handlers.runtime.engines import paddle

        return paddle.load(self.candidate, settings, device_id, onednn=self.onednn, convolutions=self.convolutions)


@dataclass(frozen=True)
class Converted:
    """The model in ONNX's form, made from the original before it was packed."""

    model_file: Path
    signature: Signature
    """With the names that inputs and outputs have there as sources."""


def candidates(
    model_file: Path,
    params_file: Path | None,
    signature: Signature,
    settings: PredictorSettings,
    device_id: int | None,
    converted: Converted | None = None,
) -> list[Candidate]:
    """How the settings allow the model to be run, the first choice first; at least one.

    After Paddle, whose answers are right, come engines that have to be tried before they are used.

    Raises ConfigError for an engine or a precision that can't be, LoadFailed when no engine for it is installed.
    """
    precision = _precision(settings, device_id)
    suffixes = {model_file.suffix} if converted is None else {model_file.suffix, converted.model_file.suffix}
    reading = [engine for engine, able in _READS.items() if suffixes.intersection(able)]
    if settings.engine != "auto":
        _check(settings.engine, reading, model_file, precision, device_id)
        names: Sequence[EngineName] = [settings.engine]
    elif "paddle" in reading:
        names = ["paddle", *(_others(reading, settings, precision) if device_id is None else ())]
    else:
        if device_id is not None:
            raise ConfigError(f"{model_file.name}: .onnx models run on CPUs: set deviceType to cpu")
        names = [name for name in reading if find_spec(name) and precision in _PRECISIONS[name]]
    if not names:
        wanted = " and ".join(name for name in reading if precision in _PRECISIONS[name])
        raise LoadFailed(
            f"{model_file.name}: no engine that reads it{_in(precision)} is installed ({wanted}): "
            f"pip install 'pdserver[{wanted.partition(' ')[0]}]'"
        )
    found = []
    for name in names:
        if converted is None or model_file.suffix in _READS[name]:
            found.append(Candidate(name, model_file, params_file, signature, precision))
        else:
            found.append(Candidate(name, converted.model_file, None, converted.signature, precision))
    return found


def _others(reading: Sequence[EngineName], settings: PredictorSettings, precision: Precision) -> Iterator[EngineName]:
    """Engines other than Paddle that may run one of its models. What is only Paddle's to do stays with it."""
    if settings.engine_trial and precision == "float32" and settings.reshape is None and not settings.onednn_int8:
        yield from (name for name in reading if name != "paddle" and find_spec(name))


def ways(candidate: Candidate, settings: PredictorSettings, device_id: int | None) -> list[Way]:
    """How to load a candidate, the first choice first: Paddle with oneDNN where that helps, and without it."""
    if candidate.engine != "paddle":
        return [Way(candidate)]
    if device_id is not None:
        return [Way(candidate)]
    convolutions = _CONVOLUTION.search(candidate.model_file.read_bytes()) is not None
    onednn = settings.onednn
    if onednn == "auto":
        large = candidate.params_file is not None and candidate.params_file.stat().st_size >= _LARGE_PARAMS_BYTES
        onednn = convolutions or large or candidate.precision == "bfloat16"
    plain = Way(candidate, onednn=False, convolutions=convolutions)
    return [Way(candidate, onednn=True, convolutions=convolutions), plain] if onednn else [plain]


def load_any(candidate: Candidate, settings: PredictorSettings, device_id: int | None) -> Engine:
    """Load a candidate in the first way that works. Raises what the last one raises."""
    *before, last = ways(candidate, settings, device_id)
    for way in before:
        with contextlib.suppress(Exception):
            return way.load(settings, device_id)
    return last.load(settings, device_id)


def _precision(settings: PredictorSettings, device_id: int | None) -> Precision:
    wanted = settings.precision
    if wanted == "float32":
        return wanted
    at = f"predictor.precision: {wanted}"
    if device_id is not None:
        raise ConfigError(f"{at}: on CPUs only; on GPUs, predictor.tensorrt.precision says it")
    if wanted != "bfloat16":
        raise ConfigError(f"{at}: {_REFUSED[wanted]}")
    if not cpu_flags() & _BFLOAT16_FLAGS:
        raise ConfigError(
            f"{at}: this CPU has no instructions for it ({' or '.join(sorted(_BFLOAT16_FLAGS))}), so it would only be "
            "slower: say float32"
        )
    if settings.onednn is False and settings.engine in ("auto", "paddle"):
        raise ConfigError(f"{at}: Paddle needs oneDNN for it: leave predictor.onednn out, or say float32")
    return wanted


def _check(
    engine: EngineName, reading: Sequence[str], model_file: Path, precision: Precision, device_id: int | None
) -> None:
    """Raises ConfigError and LoadFailed for an engine that the settings name."""
    at = f"predictor.engine: {engine}"
    if engine == "paddle" and engine in reading:
        return
    if engine not in reading:
        reads = ", ".join(suffix for suffix in _READS[engine] if suffix)
        fix = f"; say {' or '.join(reading)}, or auto" if reading else ""
        raise ConfigError(f"{at}: it reads {reads}, and the model is {model_file.name}{fix}")
    if device_id is not None:
        raise ConfigError(f"{at}: it runs on CPUs here: set deviceType to cpu, or leave predictor.engine out")
    if precision not in _PRECISIONS[engine]:
        able = ", ".join(other for other in reading if precision in _PRECISIONS[other])  # type: ignore[index]
        raise ConfigError(f"{at}: it does not compute{_in(precision)} on CPUs{f'; {able} does' if able else ''}")
    if not find_spec(engine):
        raise LoadFailed(f"{at}: it is not installed: pip install 'pdserver[{engine}]'")


def _in(precision: Precision) -> str:
    return "" if precision == "float32" else f" in {precision}"
