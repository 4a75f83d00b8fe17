"""`inference.yml`: what PaddleClas and PaddleX say of the pictures that an exported classifier takes, and its answers.

Its format: ppcls/data/preprocess, ppcls/data/postprocess and deploy/python of PaddlePaddle/PaddleClas.
"""

from __future__ import annotations

from typing import Any

from pdserver.errors import ConfigError
from pdserver.formats.values import listed, shown
from pdserver.handlers.vision import exports
from pdserver.handlers.vision.exports import Step
from pdserver.handlers.vision.image_settings import IMAGENET

_ANSWERS = {
    "Topk": {"topk", "label_list"},
    "ThreshOutput": {"threshold", "default_label_index", "label_0", "label_1", "label_list"},
    "MultiLabelThreshOutput": {"threshold", "label_list"},
}
"""The steps of `PostProcess` that say what is answered, and what they may say."""
_NOT_THE_ANSWERS = {"class_id_map_file", "class_ids", "delimiter"}
"""A file on the machine that the model was trained on; labels come from label_list and index_to_name.json."""


def image_settings(config: dict[str, Any], file: str) -> dict[str, Any]:
    """The steps of `PreProcess` as keys of ClassifierSettings; {} for a file without it. Raises ConfigError."""
    preprocess = config.get("PreProcess")
    if not preprocess:
        return {}
    operations = preprocess.get("transform_ops") if isinstance(preprocess, dict) else None
    if not isinstance(operations, list):
        raise ConfigError(f"{file}: PreProcess: expected a list called transform_ops")
    # A list of names and of one-key mappings: name → parameters.
    steps = [
        (name, parameters if isinstance(parameters, dict) else {})
        for operation in operations
        for name, parameters in (operation if isinstance(operation, dict) else {operation: None}).items()
    ]
    return {"resize": None, "crop": None, **exports.image_settings(steps, _STEPS, file)}


def answers(config: dict[str, Any], file: str) -> tuple[dict[str, Any], list[str] | None]:
    """What `PostProcess` says as keys of ClassifierSettings, and its labels by class.

    Raises ConfigError for what is not known here: another answer would be a wrong one.
    """
    postprocess = config.get("PostProcess")
    if not postprocess:
        return {}, None
    name, given = _answer(postprocess, file)
    labels = given.get("label_list")
    threshold = given.get("threshold", 0.5)
    settings: dict[str, Any] = {"threshold": threshold}
    if name == "Topk":
        settings = {"top_k": given["topk"]} if "topk" in given else {}
    elif name == "ThreshOutput":
        settings["otherwise"] = given.get("default_label_index", 0)
        labels = labels or ([given.get("label_0", "0"), given.get("label_1", "1")] if "label_1" in given else None)
    return settings, [str(label) for label in labels] if isinstance(labels, list) else None


def _answer(postprocess: Any, file: str) -> tuple[str, dict[str, Any]]:
    """The one step that says what is answered, and its parameters."""
    steps = postprocess if isinstance(postprocess, dict) else {str(postprocess): None}
    main = steps.get("main_indicator")
    # SavePreLabel copies pictures into folders.
    names = [name for name in steps if name not in ("main_indicator", "SavePreLabel") and main in (None, "", name)]
    if len(names) != 1 or names[0] not in _ANSWERS:
        raise ConfigError(
            f"{file}: PostProcess: expected one of {', '.join(_ANSWERS)}, found {listed(names)}; for another "
            "answer, take it out of the file and pack a handler of your own"
        )
    (name,) = names
    given = steps[name] or {}
    if not isinstance(given, dict) or (unknown := given.keys() - _ANSWERS[name] - _NOT_THE_ANSWERS):
        wrong = shown(given) if not isinstance(given, dict) else listed(unknown)
        raise ConfigError(f"{file}: PostProcess: {name}: {wrong} is unknown (known: {listed(_ANSWERS[name])})")
    return name, given


def _resize(step: dict[str, Any]) -> dict[str, Any]:
    # `size` is width and height; one number stands for both, unlike resize_short.
    size = step.get("size")
    resize = step.get("resize_short") or (size if isinstance(size, list) else [size, size])
    backend = str(step.get("backend") or "cv2").lower()
    # PaddleX writes LINEAR, PaddleClas bilinear; and Pillow's name for areas is box.
    interpolation = str(step.get("interpolation") or "linear").lower().removeprefix("bi")
    if backend == "pil" and interpolation in ("box", "area"):
        interpolation = "area" if interpolation == "box" else "box"
    return {"resize": resize, "interpolation": interpolation, "backend": backend}


def _normalize(step: dict[str, Any]) -> dict[str, Any]:
    said = {"scale": 1 / 255, **IMAGENET} | {key: value for key, value in step.items() if value is not None}
    if said.get("channel_num", 3) != 3:
        raise ValueError("channel_num is not 3")
    return {key: said[key] for key in ("scale", "mean", "std")}


_STEPS: dict[str, Step] = {
    "DecodeImage": lambda step: {"color": "rgb" if step.get("to_rgb", True) else "bgr"},
    "ResizeImage": _resize,
    "CropImage": lambda step: {"crop": step.get("size", 224)},
    "NormalizeImage": _normalize,
    "ToCHWImage": lambda step: {},
    "KeepKeys": lambda step: {},
}
