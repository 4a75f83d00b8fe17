"""Make Paddle twins of the models that TensorFlow Serving is tested with: x * 0.5 + 2, and as a later version, + 3.

    python examples/half_plus_two/make.py --output build/half_plus_two

writes `123/model.json` and `123/model.pdiparams`: they take `x`, float32 of shape [-1], and give one
output of the same shape.
`--version 124 --plus 3` writes the other model beside it.
"""

from __future__ import annotations

import argparse
import os
import shutil
import warnings
from pathlib import Path

os.environ.setdefault("GLOG_minloglevel", "2")  # what paddle warns of here concerns nobody who makes this
warnings.filterwarnings("ignore", message="No ccache")

import paddle  # noqa: E402


class HalfPlus(paddle.nn.Layer):
    """x * 0.5 + `plus`, with weights as in a trained model."""

    def __init__(self, plus: float) -> None:
        super().__init__()
        constant = paddle.nn.initializer.Constant
        self.a = self.create_parameter([1], default_initializer=constant(0.5))
        self.b = self.create_parameter([1], default_initializer=constant(plus))

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        return x * self.a + self.b


def main() -> None:
    parser = argparse.ArgumentParser(description="Make one version of the half_plus_two example.")
    parser.add_argument("--output", type=Path, default=Path("build/half_plus_two"), help="its base path (%(default)s)")
    parser.add_argument("--version", type=int, default=123, help="the version's number (%(default)s)")
    parser.add_argument("--plus", type=float, default=2.0, help="what it adds to the half (%(default)s)")
    given = parser.parse_args()

    spec = paddle.static.InputSpec([None], "float32", "x")
    static = paddle.jit.to_static(HalfPlus(given.plus), input_spec=[spec], full_graph=True)
    folder = given.output / str(given.version)
    staged = given.output / f"{given.version}.made"  # a server may watch the base path: a version is there whole
    paddle.jit.save(static, str(staged / "model"))
    shutil.rmtree(folder, ignore_errors=True)
    staged.rename(folder)
    print(f"x * 0.5 + {given.plus:g}; see {folder}")


if __name__ == "__main__":
    main()
