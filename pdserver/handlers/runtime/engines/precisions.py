"""In which precisions the engines may compute on the CPU: as the settings say, and as far as the processor and the
model can."""

from __future__ import annotations

import re
from pathlib import Path

from pdserver.errors import ConfigError
from pdserver.handlers.runtime.engines.base import EngineName, Precision
from pdserver.handlers.runtime.predictor_settings import PredictorSettings
from pdserver.system.devices import cpu_flags

ABLE: dict[EngineName, tuple[Precision, ...]] = {
    "paddle": ("float32", "bfloat16", "int8"),
    "onnxruntime": ("float32", "int8"),
    "openvino": ("float32", "bfloat16", "float16", "int8"),
}
"""What each engine computes in."""
_NEEDS: dict[Precision, frozenset[str]] = {
    "bfloat16": frozenset({"avx512_bf16", "amx_bf16"}),
    "float16": frozenset({"avx512_fp16", "amx_fp16"}),
}
"""One of these instructions: without them, an engine is slower, or computes in another precision than it was told."""
_QUANTIZED = re.compile(
    rb'(?:"#":"\d+\.|\x1a[\x06-\x40])(?:(?:de)?quantize_linear|fake_\w*quantize)'
    rb"|\x22[\x06-\x40](?:\w*QuantizeLinear|QLinear|ConvInteger|MatMulInteger)"
)
"""An operation's type in quantized models: in PIR's JSON, in .pdmodel's protobuf and in ONNX's (a field and its length
each)."""


def has_instructions(precision: Precision) -> bool:
    """Whether this CPU computes in it."""
    needs = _NEEDS.get(precision)
    return needs is None or bool(cpu_flags() & needs)


def wanted(settings: PredictorSettings, model_file: Path, device_id: int | None) -> tuple[Precision, ...]:
    """Those that may be tried, float32 first if it is among them. Raises ConfigError for one that can't be."""
    precision = settings.precision
    if precision == "float32":
        return (precision,)
    at = f"predictor.precision: {precision}"
    if device_id is not None:
        raise ConfigError(f"{at}: on CPUs only; on GPUs, predictor.tensorrt.precision says it")
    if precision == "auto":
        lower: tuple[Precision, ...] = ("bfloat16", "float16", "int8")
        return ("float32", *(each for each in lower if not _problem(each, model_file)))
    if problem := _problem(precision, model_file):
        raise ConfigError(f"{at}: {problem}")
    if precision != "float16" and settings.onednn is False and settings.engine in ("auto", "paddle"):
        raise ConfigError(f"{at}: Paddle needs oneDNN for it: leave predictor.onednn out, or say float32")
    return (precision,)


def _problem(precision: Precision, model_file: Path) -> str:
    """Why this model can't be computed in it on this machine; "" if it can."""
    if precision == "int8":
        if _QUANTIZED.search(model_file.read_bytes()):
            return ""
        return (
            f"{model_file.name} is not quantized: quantize it before it is exported, with PaddleSlim for example, "
            "or say float32 or bfloat16"
        )
    if has_instructions(precision):
        return ""
    missing = " or ".join(sorted(_NEEDS[precision]))
    return f"this CPU has no instructions for it ({missing}), so it would only be slower: say float32"
