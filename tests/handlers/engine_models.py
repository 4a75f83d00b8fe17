"""Writes the same small models as .pdmodel and as .onnx: `python -m tests.handlers.engine_models FOLDER`, with
FLAGS_enable_pir_api=0.

Both have one set of weights. `doubled` is in bfloat16. Beside each of the others lies an .npz: what the layer
itself answered.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import paddle
from numpy.typing import NDArray
from paddle import nn
from paddle.static import InputSpec

from tests.handlers.engine_files import INPUTS
from tests.handlers.models import Digits, save
from tests.handlers.onnx_writer import write


class Doubled(nn.Layer):  # type: ignore[misc]  # paddle has no types
    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        return x + x


class Words(nn.Layer):  # type: ignore[misc]
    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(10, 4)

    def forward(self, ids: paddle.Tensor, flag: paddle.Tensor, weight: paddle.Tensor) -> tuple[paddle.Tensor, ...]:
        return self.embedding(ids) * weight.unsqueeze([1, 2]), flag.astype("int64"), weight.astype("bool")


def main(folder: Path) -> None:
    paddle.seed(3)
    linear(folder)
    digits(folder)
    words(folder)
    save(folder / "doubled", Doubled(), InputSpec([None, 3], "bfloat16", "x"))
    write(
        folder / "doubled.onnx",
        [
            ("Cast", ["x"], ["wide"], {"to": 1}),
            ("Add", ["wide", "wide"], ["sum"], {}),
            ("Cast", ["sum"], ["y"], {"to": 16}),
        ],
        {"x": ("bfloat16", ["n", 3])},
        {"y": ("bfloat16", ["n", 3])},
        {},
    )


def linear(folder: Path) -> None:
    layer = nn.Linear(13, 1)
    save_answers(folder / "linear", layer)
    save(folder / "linear", layer, InputSpec([None, 13], "float32", "x"))
    write(
        folder / "linear.onnx",
        [("Gemm", ["x", "weight", "bias"], ["y"], {})],
        {"x": ("float32", ["n", 13])},
        {"y": ("float32", ["n", 1])},
        held(layer),
    )


def digits(folder: Path) -> None:
    layer = Digits(softmax=True)
    save_answers(folder / "digits", layer)
    save(folder / "digits", layer, InputSpec([None, 1, 8, 8], "float32", "image"))
    write(
        folder / "digits.onnx",
        [
            ("Conv", ["image", "conv.weight", "conv.bias"], ["convolved"], {"pads": [1, 1, 1, 1]}),
            ("Relu", ["convolved"], ["positive"], {}),
            ("Flatten", ["positive"], ["flat"], {"axis": 1}),
            ("Gemm", ["flat", "scores.weight", "scores.bias"], ["scores"], {}),
            ("Softmax", ["scores"], ["y"], {"axis": 1}),
        ],
        {"image": ("float32", ["n", 1, 8, 8])},
        {"y": ("float32", ["n", 10])},
        held(layer),
    )


def words(folder: Path) -> None:
    """Inputs and outputs of three types."""
    layer = Words()
    ids, flag = InputSpec([None, None], "int64", "ids"), InputSpec([None], "bool", "flag")
    save_answers(folder / "words", layer)
    save(folder / "words", layer, ids, flag, InputSpec([None], "float32", "weight"))
    write(
        folder / "words.onnx",
        [
            ("Gather", ["embedding.weight", "ids"], ["vectors"], {}),
            ("Unsqueeze", ["weight", "axes"], ["wide"], {}),
            ("Mul", ["vectors", "wide"], ["words"], {}),
            ("Cast", ["flag"], ["number"], {"to": 7}),
            ("Cast", ["weight"], ["truth"], {"to": 9}),
        ],
        {"ids": ("int64", ["n", "length"]), "flag": ("bool", ["n"]), "weight": ("float32", ["n"])},
        {"words": ("float32", ["n", "length", 4]), "number": ("int64", ["n"]), "truth": ("bool", ["n"])},
        {**held(layer), "axes": np.array([1, 2])},
    )


def save_answers(path: Path, layer: nn.Layer) -> None:
    found = layer(*map(paddle.to_tensor, INPUTS[path.name].values()))
    np.savez(path, *[output.numpy() for output in (found if isinstance(found, tuple) else [found])])


def held(layer: nn.Layer) -> dict[str, NDArray[Any]]:
    return {name: value.numpy() for name, value in layer.state_dict().items()}


if __name__ == "__main__":
    main(Path(sys.argv[1]))
