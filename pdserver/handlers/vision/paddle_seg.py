"""`deploy.yaml`: what PaddleSeg says of the pictures that an exported model takes.

Its format: tools/export.py and paddleseg/transforms of PaddlePaddle/PaddleSeg.
"""

from __future__ import annotations

from typing import Any

from pdserver.handlers.vision import exports
from pdserver.handlers.vision.exports import Step
from pdserver.handlers.vision.image_settings import MAX_LENGTH


def image_settings(config: dict[str, Any], file: str) -> dict[str, Any]:
    """The `transforms` of `Deploy` as keys of ImageSettings. Raises ConfigError."""
    deploy = config.get("Deploy")
    transforms = (deploy.get("transforms") or []) if isinstance(deploy, dict) else None
    return exports.image_settings(exports.typed_steps(transforms, "transforms in Deploy", file), _STEPS, file)


def _resize(step: dict[str, Any]) -> dict[str, Any]:
    if step.get("size_divisor"):
        raise ValueError("size_divisor is not supported")
    return {
        "resize": step.get("target_size", [512, 512]),
        "fit": "inside" if step.get("keep_ratio") else "stretch",
        # As the file's word for Lanczos is OpenCV's.
        "interpolation": str(step.get("interp", "LINEAR")).lower().removesuffix("4"),
    }


def _resize_by_short(step: dict[str, Any]) -> dict[str, Any]:
    return {"resize": [step["short_size"], step.get("max_size") or MAX_LENGTH], "fit": "inside"}


def _limit_long(step: dict[str, Any]) -> dict[str, Any]:
    if step.get("min_long") is not None:
        raise ValueError("min_long is not supported")
    return {"resize": [step["max_long"]] * 2, "fit": "shrink"}


def _pad(step: dict[str, Any]) -> dict[str, Any]:
    value = step.get("im_padding_value", 127.5)
    return {"pad": step["target_size"], "pad_value": value if isinstance(value, list) else [value]}


_STEPS: dict[str, Step] = {
    "Resize": _resize,
    "ResizeByLong": lambda step: {"resize": [step["long_size"]] * 2, "fit": "inside"},
    "ResizeByShort": _resize_by_short,
    "LimitLong": _limit_long,
    "Padding": _pad,
    "Normalize": lambda step: {
        "scale": 1 / 255,
        "mean": step.get("mean", [0.5]),
        "std": step.get("std", [0.5]),
    },
}
