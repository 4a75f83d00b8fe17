"""Writes small real models of unusual shapes: `python odd_models.py FOLDER`."""

from __future__ import annotations

import sys
from pathlib import Path

import paddle
from paddle import nn
from paddle.static import InputSpec

from pdarchiver.signature import PREDICTORS_DTYPES


class Constant(nn.Layer):  # type: ignore[misc]  # paddle has no types
    """Takes nothing."""

    def forward(self) -> paddle.Tensor:
        return paddle.arange(6).reshape([2, 3]).cast("float32")


class Leaky(nn.Layer):  # type: ignore[misc]
    """Crashes in Paddle 3.3 when it is loaded with oneDNN."""

    def __init__(self) -> None:
        super().__init__()
        self.convolution = nn.Conv2D(3, 2, 3)
        self.convolution.weight.set_value(paddle.full([2, 3, 3, 3], -0.5))

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        return nn.functional.leaky_relu(self.convolution(x))


def save_dtypes(path: Path) -> None:
    """An input of each type that Paddle's predictor takes, and an output of the same one minus it."""
    paddle.enable_static()
    program = paddle.static.Program()
    with paddle.static.program_guard(program):
        inputs = [paddle.static.data(f"in_{dtype}", [-1, 3], dtype) for dtype in sorted(PREDICTORS_DTYPES)]
        outputs = [paddle.cast(1 - paddle.cast(given, "float32"), given.dtype) for given in inputs]
        executor = paddle.static.Executor()
        paddle.static.save_inference_model(str(path), inputs, outputs, executor, program=program)


def save(path: Path, layer: nn.Layer, *spec: InputSpec) -> None:
    layer.eval()
    paddle.jit.save(paddle.jit.to_static(layer, input_spec=list(spec), full_graph=True), str(path))


if __name__ == "__main__":
    folder = Path(sys.argv[1])
    save(folder / "constant", Constant())
    save(folder / "leaky", Leaky(), InputSpec([None, 3, 4, 4], "float32", "x"))
    save_dtypes(folder / "dtypes")
