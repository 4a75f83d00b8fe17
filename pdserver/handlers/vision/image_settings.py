"""How an image classifier wants its images: from its own YAML, its `inference.yml`, or the custom of ImageNet."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec

from pdserver.errors import ConfigError
from pdserver.formats.values import listed, shown
from pdserver.handlers.runtime import exported
from pdserver.handlers.runtime.ranking import Softmax, TopK
from pdserver.handlers.vision.pixel_settings import IMAGENET, MAX_LENGTH, PixelSettings


class ImageSettings(PixelSettings, frozen=True, kw_only=True):
    """The section `image` of a model's own YAML, for image_classifier."""

    resize: int | tuple[int, int] | None = 256
    """One number: the shorter side gets this length. Two: exactly this width and height."""
    crop: int | tuple[int, int] | None = 224
    """From the centre: width and height, one number for both."""
    backend: Literal["cv2", "pil"] = "cv2"
    """What resizes; Pillow's results differ when pictures become smaller."""
    top_k: TopK = 5
    softmax: Softmax = "auto"
    """auto: also not for several labels, whose probabilities do not add up to 1."""
    threshold: float | list[float] | None = None
    """Every label of at least this probability is answered; a list has one for each class."""
    otherwise: Annotated[int, msgspec.Meta(ge=0)] | None = None
    """With it, one label is answered: the likeliest if it exceeds `threshold`, else this class. Of two classes, the
    other one if it has at least `threshold`."""

    def __post_init__(self) -> None:
        # Not as constraints of the type: msgspec 0.22 corrupts memory over a bounded int in a union with a tuple.
        for key, value in (("resize", self.resize), ("crop", self.crop)):
            lengths = value if isinstance(value, tuple) else (value,)
            if not all(length is None or 1 <= length <= MAX_LENGTH for length in lengths):
                raise ValueError(f"{key}: {value}: expected lengths from 1 to {MAX_LENGTH}")

        if self.otherwise is not None and not isinstance(self.threshold, float):
            raise ValueError(f"otherwise: {self.otherwise}: needs a threshold that is one number")

    @property
    def multi_label(self) -> bool:
        return self.threshold is not None and self.otherwise is None

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
    if postprocess := config.get("PostProcess"):
        answered, labels = _answer(postprocess, path)
        settings |= answered
    return settings, [str(label) for label in labels] if isinstance(labels, list) else None


_ANSWERS = {
    "Topk": {"topk", "label_list"},
    "ThreshOutput": {"threshold", "default_label_index", "label_0", "label_1", "label_list"},
    "MultiLabelThreshOutput": {"threshold", "label_list"},
}
"""The steps of `PostProcess` that say what is answered, and what they may say. Source: ppcls/data/postprocess and
deploy/python/postprocess.py of PaddlePaddle/PaddleClas."""
_NOT_THE_ANSWERS = {"class_id_map_file", "class_ids", "delimiter"}
"""A file on the machine that the model was trained on; labels come from label_list and index_to_name.json."""


def _answer(postprocess: Any, path: Path) -> tuple[dict[str, Any], Any]:
    """Settings and labels. Raises ConfigError for what is not known here: another answer would be a wrong one."""
    steps = postprocess if isinstance(postprocess, dict) else {postprocess: None}
    main = steps.get("main_indicator")
    # SavePreLabel copies pictures into folders.
    names = [name for name in steps if name not in ("main_indicator", "SavePreLabel") and main in (None, "", name)]
    if len(names) != 1 or names[0] not in _ANSWERS:
        raise ConfigError(
            f"{path.name}: PostProcess: expected one of {', '.join(_ANSWERS)}, found {listed(names)}; for another "
            "answer, take it out of the file and pack a handler of your own"
        )
    (name,) = names
    given = steps[name] or {}
    if not isinstance(given, dict) or (unknown := given.keys() - _ANSWERS[name] - _NOT_THE_ANSWERS):
        wrong = shown(given) if not isinstance(given, dict) else listed(unknown)
        raise ConfigError(f"{path.name}: PostProcess: {name}: {wrong} is unknown (known: {listed(_ANSWERS[name])})")
    labels = given.get("label_list")
    if name == "Topk":
        return ({"top_k": given["topk"]} if "topk" in given else {}), labels
    threshold = given.get("threshold", 0.5)
    settings: dict[str, Any] = {"threshold": threshold}
    if name == "ThreshOutput":
        settings["otherwise"] = given.get("default_label_index", 0)
        labels = labels or ([given.get("label_0", "0"), given.get("label_1", "1")] if "label_1" in given else None)
    return settings, labels


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
        backend = str(parameters.get("backend") or "cv2").lower()
        # PaddleX writes LINEAR, PaddleClas bilinear; and Pillow's name for areas is box.
        interpolation = str(parameters.get("interpolation") or "linear").lower().removeprefix("bi")
        if backend == "pil" and interpolation in ("box", "area"):
            interpolation = "area" if interpolation == "box" else "box"
        return {"resize": resize, "interpolation": interpolation, "backend": backend}
    if name == "CropImage":
        return {"crop": parameters.get("size", 224)}
    if name == "NormalizeImage":
        normalize = {"scale": 1 / 255, **IMAGENET} | {k: v for k, v in parameters.items() if v is not None}
        if normalize.get("channel_num", 3) != 3:
            raise ConfigError(f"{path.name}: NormalizeImage: channel_num is not 3")
        return {key: normalize[key] for key in ("scale", "mean", "std")}
    if name == "DecodeImage":
        return {"color": "rgb" if parameters.get("to_rgb", True) else "bgr"}
    if name in ("ToCHWImage", "KeepKeys"):
        return {}
    raise ConfigError(
        f"{path.name}: PreProcess: {shown(name)} is not a step of image classification; known are DecodeImage, "
        "ResizeImage, CropImage, NormalizeImage, ToCHWImage"
    )
