"""`infer_cfg.yml`: what PaddleDetection says of the pictures that an exported model takes.

Its format: deploy/README.md and deploy/python/preprocess.py of PaddlePaddle/PaddleDetection.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from pdserver.errors import ConfigError
from pdserver.formats.values import shown
from pdserver.handlers.vision.pixel_settings import IMAGENET

_INTERPOLATIONS = ("nearest", "linear", "cubic", "area", "lanczos")
"""By OpenCV's number."""


def picture_settings(config: dict[str, Any], file: str) -> dict[str, Any]:
    """The steps of `Preprocess` as keys of PictureSettings. A step that is not listed is not done.

    Raises ConfigError for steps and parameters that are not known here, or come twice.
    """
    steps = config.get("Preprocess")
    if not isinstance(steps, list) or not all(isinstance(step, dict) for step in steps):
        raise ConfigError(f"{file}: expected a list of steps called Preprocess")
    return {"scale": 1.0, "mean": [0.0], "std": [1.0], **merged(steps, _STEPS, file)}


def merged(
    steps: list[dict[str, Any]], known: dict[str, Callable[[dict[str, Any]], dict[str, Any]]], file: str
) -> dict[str, Any]:
    """The settings of all steps, each a mapping with a `type`."""
    settings: dict[str, Any] = {}
    for step in steps:
        name = step.get("type")
        if name not in known:
            raise ConfigError(f"{file}: {shown(name)} is not a known step; known are {', '.join(known)}")
        try:
            found = known[name](step)
        except (KeyError, TypeError, ValueError, IndexError) as error:
            raise ConfigError(f"{file}: {name}: {type(error).__name__}: {error}") from None
        if twice := settings.keys() & found.keys():
            raise ConfigError(f"{file}: {name}: an earlier step says {min(twice)} already; pictures take one of each")
        settings |= found
    return settings


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


_STEPS: dict[str, Callable[[dict[str, Any]], dict[str, Any]]] = {
    "Resize": _resize,
    "NormalizeImage": _normalize,
    "Pad": _pad,
    "PadStride": _pad_stride,
    "PadBatch": _pad_stride,
    "Permute": lambda step: {},
    "Decode": lambda step: {},
}
