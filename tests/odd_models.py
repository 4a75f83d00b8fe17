"""Writes small real models of unusual shapes: `python odd_models.py FOLDER`."""

from __future__ import annotations

import sys
from pathlib import Path

import paddle
from paddle import nn
from paddle.static import InputSpec


class Constant(nn.Layer):  # type: ignore[misc]  # paddle has no types
    """Takes nothing."""

    def forward(self) -> paddle.Tensor:
        return paddle.arange(6).reshape([2, 3]).cast("float32")


def save(path: Path, layer: nn.Layer, *spec: InputSpec) -> None:
    layer.eval()
    paddle.jit.save(paddle.jit.to_static(layer, input_spec=list(spec), full_graph=True), str(path))


if __name__ == "__main__":
    folder = Path(sys.argv[1])
    save(folder / "constant", Constant())
