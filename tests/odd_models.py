"""Writes small real models of unusual shapes: `python odd_models.py FOLDER`. The class says what is odd."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import paddle
from paddle import nn
from paddle.static import InputSpec

from pdarchiver.dtypes import PREDICTORS_DTYPES

SIX = InputSpec([None, 6], "float32", "x")


class Constant(nn.Layer):  # type: ignore[misc]  # paddle has no types
    """Takes nothing."""

    def forward(self) -> Any:
        return paddle.arange(6).reshape([2, 3]).cast("float32")


class Leaky(nn.Layer):  # type: ignore[misc]
    """Crashes in Paddle 3.3 when it is loaded with oneDNN."""

    def __init__(self) -> None:
        super().__init__()
        self.convolution = nn.Conv2D(3, 2, 3)
        self.convolution.weight.set_value(paddle.full([2, 3, 3, 3], -0.5))

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        return nn.functional.leaky_relu(self.convolution(x))


def save_dtypes(path: Path, dtypes: Iterable[str]) -> None:
    """An input of each type, and an output of the same one minus it."""
    paddle.enable_static()
    program = paddle.static.Program()
    with paddle.static.program_guard(program):
        inputs = [paddle.static.data(f"in_{dtype}", [-1, 3], dtype) for dtype in sorted(dtypes)]
        outputs = [paddle.cast(1 - paddle.cast(given, "float32"), given.dtype) for given in inputs]
        executor = paddle.static.Executor()
        paddle.static.save_inference_model(str(path), inputs, outputs, executor, program=program)


class Nonzero(nn.Layer):  # type: ignore[misc]
    """How many rows it gives depends on what it is given."""

    def forward(self, x: Any) -> Any:
        return paddle.nonzero(x > 0)


class Selected(nn.Layer):  # type: ignore[misc]
    """The same; and what it gives for two requests can't be told from what it gives for each by itself."""

    def forward(self, x: Any) -> Any:
        return paddle.masked_select(x, x > 0)


class Beside(nn.Layer):  # type: ignore[misc]
    """Rows, and beside them something else."""

    def forward(self, x: Any) -> Any:
        return x * 2, paddle.nonzero(x > 0), x.sum()


class Neighbours(nn.Layer):  # type: ignore[misc]
    """As many rows as it is given, each of which depends on the others."""

    def forward(self, x: Any) -> Any:
        return x - x.mean(axis=0), nn.functional.softmax(x, axis=0)


class Places(nn.Layer):  # type: ignore[misc]
    """The place of a row in the batch is in what comes of it."""

    def forward(self, x: Any) -> Any:
        return x + paddle.arange(0, paddle.shape(x)[0]).cast("float32").unsqueeze(1)


class Learns(nn.Layer):  # type: ignore[misc]
    """Takes the statistics of the batch although it is not trained any more, so that each row depends on the others."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1D(6, use_global_stats=False)

    def forward(self, x: Any) -> Any:
        return self.norm(x)


class Decides(nn.Layer):  # type: ignore[misc]
    """One decision for all rows."""

    def forward(self, x: Any) -> Any:
        y = x + 1
        if x.sum() > 3:  # noqa: SIM108 - for Paddle to make an operation of
            y = y * 2
        else:
            y = y - 1
        return y


class Turned(nn.Layer):  # type: ignore[misc]
    """The rows are along another axis."""

    def forward(self, x: Any) -> Any:
        return x.t()


class Scaled(nn.Layer):  # type: ignore[misc]
    """An input without axes, and one whose first axis is no batch."""

    def forward(self, x: Any, factor: Any, shift: Any) -> Any:
        return x * factor + shift


class Pairs(nn.Layer):  # type: ignore[misc]
    """Two rows and no fewer, which depend on each other."""

    def forward(self, x: Any) -> Any:
        return x - x.mean(axis=0)


class Words(nn.Layer):  # type: ignore[misc]
    """Numbers of an embedding's rows."""

    def __init__(self) -> None:
        super().__init__()
        self.words, self.types = nn.Embedding(100, 4), nn.Embedding(2, 4)

    def forward(self, ids: Any, types: Any) -> Any:
        return (self.words(ids) + self.types(types.reshape([0, -1]))).sum(1)


class Pictures(nn.Layer):  # type: ignore[misc]
    """Scores of pictures, which depend on the other pictures."""

    def forward(self, image: Any) -> Any:
        means = image.mean([2, 3])
        return means - means.mean(axis=0) + means.mean(axis=1, keepdim=True)


def save(path: Path, layer: nn.Layer, *spec: InputSpec) -> None:
    layer.eval()
    paddle.jit.save(paddle.jit.to_static(layer, input_spec=list(spec), full_graph=True), str(path))


def main(folder: Path) -> None:
    paddle.seed(7)
    save(folder / "constant", Constant())
    save(folder / "leaky", Leaky(), InputSpec([None, 3, 4, 4], "float32", "x"))
    for layer in (Nonzero, Selected, Beside, Neighbours, Places, Learns, Decides, Turned):
        save(folder / layer.__name__.lower(), layer(), SIX)
    factor, shift = InputSpec([], "float32", "factor"), InputSpec([6], "float32", "shift")
    save(folder / "scaled", Scaled(), SIX, factor, shift)
    save(folder / "pairs", Pairs(), InputSpec([2, 6], "float32", "x"))
    ids = [InputSpec([None, None], "int64", name) for name in ("ids", "types")]
    save(folder / "words", Words(), *ids)
    save(folder / "pictures", Pictures(), InputSpec([None, 3, 8, 8], "float32", "image"))
    save_dtypes(folder / "dtypes", PREDICTORS_DTYPES)
    save_dtypes(folder / "typed", PREDICTORS_DTYPES - {"float16", "bfloat16"})  # they have no contents in gRPC


if __name__ == "__main__":
    main(Path(sys.argv[1]))
