"""What the nursery imports, so that the workers forked from it have it already.

Paddle's import costs a second and 150 MB, so it waits until a model comes that may need it.
"""

from __future__ import annotations

import gc
import importlib
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

from pdarchiver.handler import BUILT_IN_HANDLERS

FOR_ALL = ("numpy", "cv2", "pdserver.handlers.runtime.predictor", "pdserver.handlers.image_classifier")
FOR_PADDLE = ("paddle", "paddle.inference", "pdserver.handlers.runtime.engines.paddle")
_ENGINES = ("onnxruntime", "openvino")
"""Engines that do without Paddle. With another one, or several to choose from, Paddle may run the model."""


def preload(names: Sequence[str]) -> list[str]:
    """Import these modules. Returns what could not be imported, and why."""
    failed = []
    gc.disable()  # it would only look through thousands of modules, which all stay
    for name in names:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # paddle's, of compilers that nobody here needs
                importlib.import_module(name)
        except Exception as error:  # noqa: BLE001 - a broken wheel raises anything; handlers that don't need it still work
            if not (isinstance(error, ModuleNotFoundError) and error.name == "paddle"):  # a model that needs it says so
                failed.append(f"cannot import {name}: {type(error).__name__}: {error}")
    gc.enable()
    gc.collect()
    gc.freeze()  # keep collections in the workers from touching, and so copying, the shared pages
    return failed


def may_need_paddle(handler: str, manifest: Mapping[str, Any], model_config: Mapping[str, Any]) -> bool:
    """Whether a worker may import Paddle: code of the model's own may, and so may what runs a model of Paddle's."""
    described = manifest.get("model") or {}
    if handler not in BUILT_IN_HANDLERS or described.get("modelFile"):
        return True
    section = model_config.get("predictor")
    engine = section.get("engine") if isinstance(section, dict) else None
    return engine not in _ENGINES and not str(described.get("serializedFile")).endswith(".onnx")
