"""A model without the accelerations that are on by default: some graphs make Paddle crash with them, or other engines.

A worker that crashes before it has answered anything is replaced by one without accelerations. If that one crashes as
well, the cause is something else, and the next workers have all accelerations again.
"""

from __future__ import annotations

import dataclasses

from pdserver.configuration.model import ModelSpec

_PLAIN: dict[str, bool | str] = {"onednn": False, "memory_optim": False, "engine": "paddle"}
"""Keys of `predictor` that are "auto" unless the model's YAML says otherwise, and what they are without."""
_PLAIN_ONNX: dict[str, bool | str] = {"engine_trial": False}
"""The same for .onnx models: without a trial, the engine that is the reference runs them."""


def without(spec: ModelSpec) -> tuple[ModelSpec, str] | None:
    """The same model without them, and the settings that turn them off; None when none is on by default."""
    section = spec.model_config.get("predictor") or {}
    described = spec.manifest.get("model") or {}
    file = described.get("serializedFile")
    if not isinstance(section, dict) or not file:
        return None
    precision = section.get("precision", "float32")
    if not file.endswith(".onnx"):
        off = {key: plain for key, plain in _PLAIN.items() if section.get(key, "auto") == "auto"}
    elif section.get("engine", "auto") == "auto" and section.get("engine_trial", True):
        off = dict(_PLAIN_ONNX)
    else:
        return None
    if precision == "auto":
        off["precision"] = "float32"
    elif precision != "float32":
        off.pop("onednn", None)  # Paddle needs it for other precisions
    if not off:
        return None
    plain = dataclasses.replace(spec, model_config={**spec.model_config, "predictor": {**section, **off}})
    return plain, ", ".join(f"{key}: {str(value).lower()}" for key, value in off.items())
