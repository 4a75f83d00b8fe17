"""How each engine loads a model."""

from __future__ import annotations

import re
from dataclasses import dataclass

from pdserver.handlers.runtime.engines.base import Candidate, Engine
from pdserver.handlers.runtime.predictor_settings import PredictorSettings
from pdserver.handlers.runtime.rows import Arrays

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
    """Load a candidate in the first way that works, for the first run as well. Raises what the last one raises."""
    return _FirstThatRuns(ways(candidate, settings, device_id), settings, device_id)


class _FirstThatRuns:
    """A candidate in the first way that loads it and answers."""

    def __init__(self, found: list[Way], settings: PredictorSettings, device_id: int | None) -> None:
        self._left = found
        """The ways to try, until one has run."""
        self._settings, self._device_id = settings, device_id
        self._engine = self._next()

    def run(self, inputs: Arrays) -> Arrays:
        """As Engine says."""
        while self._left:
            try:
                outputs = self._engine.run(inputs)
            except Exception:  # noqa: BLE001 - each engine has errors of its own
                self._engine.close()
                self._engine = self._next()
            else:
                self._left = []
                return outputs
        return self._engine.run(inputs)

    def close(self) -> None:
        """As Engine says."""
        self._engine.close()

    def _next(self) -> Engine:
        while True:
            way = self._left.pop(0)
            try:
                return way.load(self._settings, self._device_id)
            except Exception:
                if not self._left:
                    raise
