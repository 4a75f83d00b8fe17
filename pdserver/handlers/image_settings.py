"""How an image classifier wants its images: from its own YAML, its `inference.yml`, or the custom of ImageNet."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pdserver.errors import ConfigError
from pdserver.handlers import exported
from pdserver.handlers.pixel_settings import IMAGENET, MAX_LENGTH, PixelSettings
from pdserver.handlers.ranking import Softmax, TopK
from pdserver.values import shown


class ImageSettings(PixelSettings, frozen=True, kw_only=True):
    """The section `image` of a model's own YAML, for image_classifier."""

    resize: int | tuple[int, int] | None = 256
    """One number: the shorter side gets this length. Two: exactly this width and height."""
    crop: int | tuple[int, int] | None = 224
    """From the centre: width and height, one number for both."""
    top_k: TopK = 5
    softmax: Softmax = "auto"

    def __post_init__(self) -> None:
        # Not as constraints of the type: msgspec 0.22 corrupts memory over a bounded int in a union with a tuple.
        for key, value in (("resize", self.resize), ("crop", self.crop)):
            lengths = value if isinstance(value, tuple) else (value,)
            if not all(length is None or 1 <= length <= MAX_LENGTH for length in lengths):
                raise ValueError(f"{key}: {value}: expected lengths from 1 to {MAX_LENGTH}")

    @property
    def output_size(self) -> tuple[int, int] | None:
        """Width and height of what the model gets; None when they depend on the image."""
        if self.crop is not None:
            return self.crop if isinstance(self.crop, tuple) else (self.crop, self.crop)
        return self.resize if isinstance(self.resize, tuple) else None


def from_inference_yml(path: Path) -> tuple[dict[str, Any], list[str] | None]:
    """What an `inference.yml` of PaddleClas or PaddleX says, as settings; and its labels, by class.

    A step that it does not list is not done. Raises ConfigError for steps and parameters that are not known here.
    """
    config = exported.read(path)
    settings: dict[str, Any] = {}
    labels = None
    if preprocess := config.get("PreProcess"):
        settings |= {"resize": None, "crop": None, "scale": 1.0, "mean": [0.0], "std": [1.0]}
        for name, parameters in _operations(preprocess, path):
            settings |= _setting(name, parameters, path)
    top_k = (config.get("PostProcess") or {}).get("Topk")
    if isinstance(top_k, dict):
        settings |= {"top_k": top_k["topk"]} if "topk" in top_k else {}
        labels = top_k.get("label_list")
    return settings, [str(label) for label in labels] if isinstance(labels, list) else None


def _operations(preprocess: Any, path: Path) -> list[tuple[str, dict[str, Any]]]:
    """`transform_ops` is a list of names and of one-key mappings: name → parameters."""
    operations = preprocess.get("transform_ops") if isinstance(preprocess, dict) else None
    if not isinstance(operations, list):
        raise ConfigError(f"{path.name}: PreProcess: expected a list called transform_ops")
    return [
        (str(name), parameters if isinstance(parameters, dict) else {})
        for operation in operations
        for name, parameters in (operation if isinstance(operation, dict) else {operation: None}).items()
    ]


def _setting(name: str, parameters: dict[str, Any], path: Path) -> dict[str, Any]:
    if name == "ResizeImage":
        # `size` is width and height; one number stands for both, unlike resize_short.
        size = parameters.get("size")
        resize = parameters.get("resize_short") or (size if isinstance(size, list) else [size, size])
        # PaddleX writes LINEAR, PaddleClas bilinear.
        interpolation = str(parameters.get("interpolation") or "linear").lower().removeprefix("bi")
        return {"resize": resize, "interpolation": interpolation}
    if name == "CropImage":
        return {"crop": parameters.get("size", 224)}
    if name == "NormalizeImage":
        normalize = {"scale": 1 / 255, **IMAGENET} | parameters
        return {key: normalize[key] for key in ("scale", "mean", "std")}
    if name == "DecodeImage":
        return {"color": "rgb" if parameters.get("to_rgb", True) else "bgr"}
    if name in ("ToCHWImage", "KeepKeys"):
        return {}
    raise ConfigError(
        f"{path.name}: PreProcess: {shown(name)} is not a step of image classification; known are DecodeImage, "
        "ResizeImage, CropImage, NormalizeImage, ToCHWImage"
    )
