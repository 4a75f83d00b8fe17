"""Train the model of Paddle Serving's tutorials: 13 numbers about a town in, the price of its houses out.

    python examples/fit_a_line/train.py --output build/fit_a_line

writes `model.json` and `model.pdiparams`, which take `x`, float32 of shape [-1, 13], and give the price, shape [-1, 1].

The towns are made up, since the wheel of no library has the real ones: each of the 13 numbers is drawn between -0.5 and
0.5, as the tutorials scale them, and the price is BASE plus each number times its EFFECT, plus noise. With
`--data housing.data`, a file of the UCI repository with 14 numbers on each line, it trains on the real ones.
"""

from __future__ import annotations

import argparse
import os
import warnings
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

os.environ.setdefault("GLOG_minloglevel", "2")  # what paddle warns of here concerns nobody who trains this
warnings.filterwarnings("ignore", message="No ccache")

import paddle  # noqa: E402

SEED = 7
TOWNS = 506
BASE = 22.5
EFFECTS = np.array([-9.0, 4.5, 0.5, 2.5, -8.5, 20.0, 0.0, -16.0, 7.0, -6.5, -9.0, 3.5, -19.0])
NOISE = 2.0
KNOWN_SHARE = 0.8
STEPS = 400


def made_up() -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The towns, [n, 13], and the prices, [n, 1]."""
    rng = np.random.default_rng(SEED)
    towns = rng.uniform(-0.5, 0.5, (TOWNS, len(EFFECTS)))
    return towns, BASE + towns @ EFFECTS[:, None] + rng.normal(0, NOISE, (TOWNS, 1))


def real(file: Path) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The same from UCI's file, scaled as in the tutorials: mean 0, and 1 from the smallest to the largest."""
    rows = np.loadtxt(file)
    towns, prices = rows[:, :-1], rows[:, -1:]
    return (towns - towns.mean(0)) / np.ptp(towns, 0), prices


def train(towns: NDArray[np.float64], prices: NDArray[np.float64]) -> paddle.nn.Layer:
    paddle.seed(SEED)
    layer = paddle.nn.Linear(towns.shape[1], 1)
    layer.bias.set_value(prices.mean(0).astype(np.float32))
    optimizer = paddle.optimizer.Adam(0.5, parameters=layer.parameters())
    x, y = (paddle.to_tensor(array.astype(np.float32)) for array in (towns, prices))
    for _ in range(STEPS):
        loss = paddle.nn.functional.mse_loss(layer(x), y)
        loss.backward()
        optimizer.step()
        optimizer.clear_grad()
    layer.eval()
    return layer


def main() -> None:
    parser = argparse.ArgumentParser(description="Train the fit_a_line example and export it for inference.")
    parser.add_argument("--output", type=Path, default=Path("build/fit_a_line"), help="folder to write (%(default)s)")
    parser.add_argument("--data", type=Path, help="UCI's housing.data; without it, towns are made up")
    given = parser.parse_args()

    towns, prices = real(given.data) if given.data else made_up()
    order = np.random.default_rng(SEED).permutation(len(towns))
    known, held_out = np.split(order, [int(KNOWN_SHARE * len(order))])
    layer = train(towns[known], prices[known])

    given.output.mkdir(parents=True, exist_ok=True)
    spec = paddle.static.InputSpec([None, towns.shape[1]], "float32", "x")
    static = paddle.jit.to_static(layer, input_spec=[spec], full_graph=True)
    paddle.jit.save(static, str(given.output / "model"))
    off = np.abs(layer(paddle.to_tensor(towns[held_out].astype(np.float32))).numpy() - prices[held_out]).mean()
    print(f"Off by {off:.1f} on average on {len(held_out)} held-out towns; see {given.output}")


if __name__ == "__main__":
    main()
