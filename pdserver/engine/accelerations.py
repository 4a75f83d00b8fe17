"""A model without the accelerations that are on by default: some graphs make Paddle crash with them.

A worker that crashes before it has answered anything is replaced by one without accelerations. If that one crashes as
well, the cause is something else, and the next workers have all accelerations again.
"""

from __future__ import annotations

import dataclasses

from pdserver.configuration.model import ModelSpec

_ON_BY_DEFAULT = ("onednn", "memory_optim")
"""Keys of `predictor` that are "auto" unless the model's YAML says otherwise."""


def without(spec: ModelSpec) -> tuple[ModelSpec, str] | None:
    """The same model without them, and the settings that turn them off; None when none is on by default."""
    section = spec.model_config.get("predictor") or {}
    described = spec.manifest.get("model") or {}
    if not isinstance(section, dict) or not described.get("serializedFile"):
        return None
    off = {key: False for key in _ON_BY_DEFAULT if section.get(key, "auto") == "auto"}
    if not off:
        return None
    plain = dataclasses.replace(spec, model_config={**spec.model_config, "predictor": {**section, **off}})
    return plain, ", ".join(f"{key}: false" for key in off)
