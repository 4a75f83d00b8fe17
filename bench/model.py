"""The models as every server but ours runs them: it decodes bodies, runs a batch, and encodes answers.

It is imported in each peer's own environment, so it needs only numpy, OpenCV, orjson and paddle. The predictor has the
settings that our server chooses for these models: one thread, oneDNN where it helps.
"""

from __future__ import annotations

import io
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import cv2
import numpy as np
import orjson
from numpy.typing import NDArray
from paddle import inference

from bench import OUTPUT

Array = NDArray[Any]

_FACTORS = [
    (np.float32(1 / 255 / std), np.float32(-mean / std))
    for mean, std in zip((0.485, 0.456, 0.406), (0.229, 0.224, 0.225), strict=True)
]

cv2.setNumThreads(1)


class Model:
    """Tensors as .npy files in and JSON out: `resnet50`, and the base of the others."""

    onednn: ClassVar[bool] = True

    def __init__(self, folder: Path) -> None:
        config = inference.Config(str(folder / "model.json"), str(folder / "model.pdiparams"))
        config.disable_gpu()
        config.set_cpu_math_library_num_threads(1)
        if self.onednn:
            config.enable_mkldnn()
        else:
            config.disable_mkldnn()
        config.switch_ir_optim(True)
        config.disable_glog_info()
        self._predictor = inference.create_predictor(config)
        self._input = self._predictor.get_input_handle(self._predictor.get_input_names()[0])
        self._output = self._predictor.get_output_handle(self._predictor.get_output_names()[0])

    def row(self, body: Any) -> Any:
        """One request's body (or the parsed JSON of it, where a server parses it) as a row of the batch."""
        return read_npy(body)

    def answers(self, rows: Sequence[Any]) -> list[bytes]:
        """The answers' bodies."""
        return [orjson.dumps({OUTPUT: row}, option=orjson.OPT_SERIALIZE_NUMPY) for row in self.run(np.stack(rows))]

    def run(self, batch: Array) -> Array:
        """float32 of shape [n, …] in and out."""
        self._input.copy_from_cpu(np.ascontiguousarray(batch, np.float32))
        self._predictor.run()
        output: Array = self._output.copy_to_cpu()
        return output


class Fit(Model):
    """13 floats as JSON → 1."""

    onednn = False

    def row(self, body: Any) -> Any:
        return (body if isinstance(body, dict) else orjson.loads(body))["x"]

    def answers(self, rows: Sequence[Any]) -> list[bytes]:
        outputs = self.run(np.array(rows, np.float32))
        return [orjson.dumps({OUTPUT: row}, option=orjson.OPT_SERIALIZE_NUMPY) for row in outputs]


class Large(Model):
    """A tensor of 10 MB as .npy in and out."""

    onednn = False

    def answers(self, rows: Sequence[Any]) -> list[bytes]:
        # One row is the usual batch here; it is not worth a copy.
        batch = rows[0][None] if len(rows) == 1 else np.stack(rows)
        return [write_npy(row) for row in self.run(batch)]


class Image(Model):
    """JPEG → the five likeliest classes."""

    def row(self, body: Any) -> Any:
        return image_row(body)

    def answers(self, rows: Sequence[Any]) -> list[bytes]:
        scores = self.run(np.stack(rows))
        powers = np.exp(scores - scores.max(axis=1, keepdims=True))
        probabilities = powers / powers.sum(axis=1, keepdims=True)
        best = np.argsort(-probabilities, axis=1, kind="stable")[:, :5]
        return [
            orjson.dumps({str(i): row[i] for i in indices}, option=orjson.OPT_SERIALIZE_NUMPY)
            for row, indices in zip(probabilities, best.tolist(), strict=True)
        ]


MODELS: dict[str, type[Model]] = {"fit": Fit, "image": Image, "resnet50": Model, "large": Large}


def image_row(jpeg: bytes) -> Array:
    """float32 of shape [3, 224, 224]: the shorter side to 256, the centre, red first, ImageNet's mean and deviation."""
    pixels: Any = cv2.imdecode(np.frombuffer(jpeg, np.uint8), cv2.IMREAD_COLOR)
    height, width = pixels.shape[:2]
    ratio = 256 / min(height, width)
    width, height = round(width * ratio), round(height * ratio)
    pixels = cv2.resize(pixels, (width, height), interpolation=cv2.INTER_LINEAR)
    left, top = (width - 224) // 2, (height - 224) // 2
    planes = cv2.split(pixels[top : top + 224, left : left + 224])[::-1]
    row = np.empty((3, 224, 224), np.float32)
    for plane, channel, (factor, shift) in zip(planes, row, _FACTORS, strict=True):
        np.multiply(plane, factor, out=channel)
        channel += shift
    return row


def load(name: str, folder: Path) -> Model:
    return MODELS[name](folder)


def load_from_environment() -> Model:
    """The model that `peers.base.worker_environment` names."""
    return load(os.environ["BENCH_MODEL"], Path(os.environ["BENCH_MODEL_FOLDER"]))


def read_npy(body: bytes | bytearray) -> Array:
    """Read the array without a copy, as our server does."""
    stream = io.BytesIO(body)
    np.lib.format.read_magic(stream)
    shape, _, dtype = np.lib.format.read_array_header_1_0(stream)
    return np.frombuffer(body, dtype, offset=stream.tell()).reshape(shape)


def write_npy(array: Array) -> bytes:
    stream = io.BytesIO()
    np.save(stream, array)
    return stream.getvalue()
