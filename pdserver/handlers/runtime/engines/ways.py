"""How each engine loads a model."""

from __future__ import annotations

import contextlib
import re
from dataclasses import dataclass

from pdserver.handlers.runtime.engines.base import Candidate, Engine
from pdserver.handlers.runtime.predictor_settings import PredictorSettings

_LARGE_PARAMS_BYTES = 256 * 1024
_CONVOLUTION = re.compile(rb'"#":"\d+\.\w*conv[23]d|\x1a[\x06-\x20]\w*conv[23]d')
"""An operation's type in the two formats: in PIR's JSON, and in .pdmodel's protobuf (field 3 and its length)."""


@dataclass(frozen=True)
class Way:
    """One way to load a model."""

    candidate: Candidate
    onednn: bool = False
    """Paddle's, as `convolutions` is: whether the model has some."""
    convolutions: bool = False

    def load(self, settings: PredictorSettings, device_id: int | None) -> Engine:
        """Raises what the engine raises, and ModuleNotFoundError when it isn't installed."""
        # Imported here, so that a worker imports no engine but its own.
        if self.candidate.engine == "onnxruntime":
            from pdserver.handlers.runtime.engines import onnxruntime

            return onnxruntime.load(self.candidate, settings.threads)
        if self.candidate.engine == "openvino":
            from pdserver.handlers.runtime.engines import openvino

            return openvino.load(self.candidate, settings.threads, settings.engine_shapes)
        from pdserver.handlers.runtime.engines import paddle

        return paddle.load(self.candidate, settings, device_id, onednn=self.onednn, convolutions=self.convolutions)


def ways(candidate: Candidate, settings: PredictorSettings, device_id: int | None) -> list[Way]:
    """How to load a candidate, the first choice first: Paddle with oneDNN where that helps, and without it."""
    if candidate.engine != "paddle":
        return [Way(candidate)]
    if device_id is not None:
        return [Way(candidate)]
    convolutions = _CONVOLUTION.search(candidate.model_file.read_bytes()) is not None
    onednn = settings.onednn
    if onednn == "auto":
        large = candidate.params_file is not None and candidate.params_file.stat().st_size >= _LARGE_PARAMS_BYTES
        onednn = convolutions or large or candidate.precision != "float32"
    plain = Way(candidate, onednn=False, convolutions=convolutions)
    fast = Way(candidate, onednn=True, convolutions=convolutions)
    if candidate.precision != "float32":
        return [fast]  # without oneDNN, it would be computed in float32
    return [fast, plain] if onednn else [plain]


def load_any(candidate: Candidate, settings: PredictorSettings, device_id: int | None) -> Engine:
    """Load a candidate in the first way that works. Raises what the last one raises."""
    *before, last = ways(candidate, settings, device_id)
    for way in before:
        with contextlib.suppress(Exception):
            return way.load(settings, device_id)
    return last.load(settings, device_id)
