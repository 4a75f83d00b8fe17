"""`python -m bench.make_model NAME FOLDER`: a model, a request for it and the answer to that, as files."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import paddle

from bench import model

_JPEG_BYTES = 100_000
LARGE_FLOATS = 2_500_000
"""10 MB of float32."""


class _Scale(paddle.nn.Layer):  # type: ignore[misc]
    def forward(self, x: Any) -> Any:
        return x * 1.5 + 0.25


def _layer(name: str) -> tuple[Any, list[int | None]]:
    if name == "fit":
        return paddle.nn.Linear(13, 1), [None, 13]
    if name == "large":
        return _Scale(), [None, LARGE_FLOATS]
    if name == "resnet50":
        return paddle.vision.models.resnet50(), [None, 3, 224, 224]
    return _decided(paddle.vision.models.mobilenet_v3_small()), [None, 3, 224, 224]


def _decided(network: Any) -> Any:
    """Random weights give all classes nearly the same score; apart, rounding does not change which five come first."""
    network.eval()
    scores = network(paddle.to_tensor(model.image_row(_photograph())[None]))
    last = network.classifier[-1]
    for weights in (last.weight, last.bias):
        weights.set_value(weights * (2 / float(scores.std())))
    return network


def _body(name: str) -> tuple[str, bytes]:
    """The request's file name and bytes."""
    random = np.random.default_rng(7)
    if name == "fit":
        return "request.json", orjson.dumps({"x": [round(value, 4) for value in random.normal(size=13).tolist()]})
    if name == "image":
        return "request.jpg", _photograph()
    shape = (LARGE_FLOATS,) if name == "large" else (3, 224, 224)
    return "request.npy", model.write_npy(random.normal(size=shape).astype(np.float32))


def _photograph() -> bytes:
    """A real one, 640×427, in about 100 kB."""
    import cv2
    from sklearn.datasets import load_sample_image

    pixels = load_sample_image("china.jpg")[:, :, ::-1]
    qualities = range(95, 10, -1)
    encoded = (cv2.imencode(".jpg", pixels, [cv2.IMWRITE_JPEG_QUALITY, quality])[1].tobytes() for quality in qualities)
    return next(data for data in encoded if len(data) <= _JPEG_BYTES)


def main(name: str, folder: Path) -> None:
    paddle.seed(7)
    layer, shape = _layer(name)
    layer.eval()
    spec = [paddle.static.InputSpec(shape, "float32", "x")]
    paddle.jit.save(paddle.jit.to_static(layer, input_spec=spec), str(folder / "model"))
    file, body = _body(name)
    (folder / file).write_bytes(body)
    loaded = model.load(name, folder)
    (folder / "answer").write_bytes(loaded.answers([loaded.row(body)])[0])


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
