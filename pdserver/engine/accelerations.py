"""A model without what makes it faster and is on by itself: some graphs have Paddle crash with it.

A worker that dies of a crash before it has answered anything is started again without. If that one crashes as well, it
was something else, and the next have all again.
"""

from __future__ import annotations

import msgspec

from pdserver.types import ModelSpec

_BY_THEMSELVES = ("onednn", "memory_optim")
"""Keys of `predictor` that are "auto" unless the model's YAML says otherwise."""


def without(spec: ModelSpec) -> tuple[ModelSpec, str] | None:
    """The same model without them, and the settings that say so; None when it has none that are on by themselves."""
    section = spec.model_config.get("predictor") or {}
    described = spec.manifest.get("model") or {}
    if not isinstance(section, dict) or not described.get("serializedFile"):
        return None
    off = {key: False for key in _BY_THEMSELVES if section.get(key, "auto") == "auto"}
    if not off:
        return None
    plain = msgspec.structs.replace(spec, model_config={**spec.model_config, "predictor": {**section, **off}})
    return plain, ", ".join(f"{key}: false" for key in off)
