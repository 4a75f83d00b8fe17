"""`infer_cfg.yml`: what PaddleDetection says of the pictures that an exported model takes.

Its format: deploy/README.md and deploy/python/preprocess.py of PaddlePaddle/PaddleDetection.
"""

from __future__ import annotations

from typing import Any

from pdserver.handlers.vision import exports
from pdserver.handlers.vision.exports import Step
from pdserver.handlers.vision.image_settings import IMAGENET

_INTERPOLATIONS = ("nearest", "linear", "cubic", "area", "lanczos")
"""By OpenCV's number."""


def image_settings(config: dict[str, Any], file: str) -> dict[str, Any]:
    """The steps of `Preprocess` as keys of ImageSettings. Raises ConfigError."""
    return exports.image_settings(exports.typed_steps(config.get("Preprocess"), "Preprocess", file), _STEPS, file)


def _resize(step: dict[str, Any]) -> dict[str, Any]:
    target = step["target_size"]
    height, width = target if isinstance(target, list) else (target, target)
    return {
        "resize": [width, height],
        "fit": "inside" if step.get("keep_ratio", True) else "stretch",
        "interpolation": _INTERPOLATIONS[step.get("interp", 1)],
    }


def _normalize(step: dict[str, Any]) -> dict[str, Any]:
    scale = 1 / 255 if step.get("is_scale", True) else 1.0
    if step.get("norm_type", "mean_std") == "none":
        return {"scale": scale}
    return {"scale": scale, "mean": step.get("mean", IMAGENET["mean"]), "std": step.get("std", IMAGENET["std"])}


def _pad(step: dict[str, Any]) -> dict[str, Any]:
    height, width = step["size"]
    fill = step.get("fill_value", 114.0)
    return {"pad": [width, height], "pad_value": fill if isinstance(fill, list) else [fill]}


def _pad_stride(step: dict[str, Any]) -> dict[str, Any]:
    return {"pad_to_multiple": max(1, step.get("stride") or step.get("pad_to_stride") or 1)}


_STEPS: dict[str, Step] = {
    "Resize": _resize,
    "NormalizeImage": _normalize,
    "Pad": _pad,
    "PadStride": _pad_stride,
    "PadBatch": _pad_stride,
    "Permute": lambda step: {},
    "Decode": lambda step: {},
}
