"""Writes the same small models as .pdmodel and as .onnx: `python -m tests.handlers.engine_models FOLDER`, with
FLAGS_enable_pir_api=0.

Both have one set of weights. Beside them lies an .npz: what the layer itself answered. `doubled` is in bfloat16, and
there is only an .onnx of it.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import paddle
from numpy.typing import NDArray
from paddle import nn
from paddle.static import InputSpec

from tests.handlers.engine_files import INPUTS
from tests.handlers.models import Digits, save
from tests.onnx_files import BFLOAT16, BOOL, FLOAT, INT64, Value, attribute, model, node, weights


class Words(nn.Layer):  # type: ignore[misc]  # paddle has no types
    """Inputs and outputs of three types."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(10, 4)

    def forward(self, ids: paddle.Tensor, flag: paddle.Tensor, weight: paddle.Tensor) -> tuple[paddle.Tensor, ...]:
        return self.embedding(ids) * weight.unsqueeze([1, 2]), flag.astype("int64"), weight.astype("bool")


def main(folder: Path) -> None:
    paddle.seed(3)
    linear(folder)
    layers(folder)
    digits(folder)
    words(folder)
    doubled(folder)


def linear(folder: Path) -> None:
    layer = nn.Linear(13, 1)
    save(folder / "linear", layer, InputSpec([None, 13], "float32", "x"))
    write(
        folder / "linear",
        layer,
        [node("Gemm", ["x", "weight", "bias"], ["y"])],
        [("x", FLOAT, ["n", 13])],
        [("y", FLOAT, ["n", 1])],
    )


def layers(folder: Path) -> None:
    layer = nn.Sequential(nn.Linear(13, 8), nn.ReLU(), nn.Linear(8, 3), nn.Softmax(-1))
    save(folder / "layers", layer, InputSpec([None, 13], "float32", "x"))
    nodes = [
        node("Gemm", ["x", "0.weight", "0.bias"], ["hidden"]),
        node("Relu", ["hidden"], ["positive"]),
        node("Gemm", ["positive", "2.weight", "2.bias"], ["scores"]),
        node("Softmax", ["scores"], ["y"], attribute("axis", 1)),
    ]
    write(folder / "layers", layer, nodes, [("x", FLOAT, ["n", 13])], [("y", FLOAT, ["n", 3])])


def digits(folder: Path) -> None:
    layer = Digits(softmax=True)
    save(folder / "digits", layer, InputSpec([None, 1, 8, 8], "float32", "image"))
    write(
        folder / "digits",
        layer,
        [
            node("Conv", ["image", "conv.weight", "conv.bias"], ["convolved"], attribute("pads", [1, 1, 1, 1])),
            node("Relu", ["convolved"], ["positive"]),
            node("Flatten", ["positive"], ["flat"], attribute("axis", 1)),
            node("Gemm", ["flat", "scores.weight", "scores.bias"], ["scores"]),
            node("Softmax", ["scores"], ["y"], attribute("axis", 1)),
        ],
        [("image", FLOAT, ["n", 1, 8, 8])],
        [("y", FLOAT, ["n", 10])],
    )


def words(folder: Path) -> None:
    layer = Words()
    ids, flag = InputSpec([None, None], "int64", "ids"), InputSpec([None], "bool", "flag")
    save(folder / "words", layer, ids, flag, InputSpec([None], "float32", "weight"))
    write(
        folder / "words",
        layer,
        [
            node("Gather", ["embedding.weight", "ids"], ["vectors"]),
            node("Unsqueeze", ["weight", "axes"], ["wide"]),
            node("Mul", ["vectors", "wide"], ["words"]),
            node("Cast", ["flag"], ["number"], attribute("to", INT64)),
            node("Cast", ["weight"], ["truth"], attribute("to", BOOL)),
        ],
        [("ids", INT64, ["n", "length"]), ("flag", BOOL, ["n"]), ("weight", FLOAT, ["n"])],
        [("words", FLOAT, ["n", "length", 4]), ("number", INT64, ["n"]), ("truth", BOOL, ["n"])],
        axes=np.array([1, 2]),
    )


def doubled(folder: Path) -> None:
    nodes = [
        node("Cast", ["x"], ["wide"], attribute("to", FLOAT)),
        node("Add", ["wide", "wide"], ["sum"]),
        node("Cast", ["sum"], ["y"], attribute("to", BFLOAT16)),
    ]
    (folder / "doubled.onnx").write_bytes(model([("x", BFLOAT16, ["n", 3])], [("y", BFLOAT16, ["n", 3])], nodes))


def write(
    path: Path,
    layer: nn.Layer,
    nodes: Sequence[bytes],
    inputs: Sequence[Value],
    outputs: Sequence[Value],
    **constants: NDArray[Any],
) -> None:
    """The .onnx with the layer's weights, and what the layer answers to INPUTS."""
    held = {name: value.numpy() for name, value in layer.state_dict().items()} | constants
    initializers = [weights(name, array) for name, array in held.items()]
    path.with_suffix(".onnx").write_bytes(model(inputs, outputs, nodes, initializers))
    found = layer(*map(paddle.to_tensor, INPUTS[path.name].values()))
    np.savez(path, *[output.numpy() for output in (found if isinstance(found, tuple) else [found])])


if __name__ == "__main__":
    main(Path(sys.argv[1]))
