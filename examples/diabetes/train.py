"""Train a regression on the diabetes study of Efron et al. (2004), 442 patients, and export it for inference.

    python examples/diabetes/train.py --output build/diabetes

writes `model.json` and `model.pdiparams`, which take `features`, float32 of shape [-1, 10], each scaled to mean 0 and
standard deviation 1, and give the disease's progression after a year, shape [-1, 1], in the study's own unit (25 to
346). `scaling.json` beside them says, for each feature in order, how to scale it: the handler reads that.
"""

from __future__ import annotations

import argparse
import json
import os
import warnings
from pathlib import Path

import numpy as np
from data import FEATURES, SEED, load
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import track

os.environ.setdefault("GLOG_minloglevel", "2")  # what paddle warns of here concerns nobody who trains this
warnings.filterwarnings("ignore", message="No ccache")

import paddle  # noqa: E402
from paddle import nn  # noqa: E402

STEPS = 400


class Progression(nn.Layer):  # type: ignore[misc]  # paddle has no types
    """One small hidden layer; `mean` and `std` bring its answer to the unit of the study."""

    def __init__(self, mean: float, std: float) -> None:
        super().__init__()
        self.hidden = nn.Sequential(nn.Linear(10, 16), nn.Tanh(), nn.Dropout(0.2), nn.Linear(16, 1))
        self.mean, self.std = mean, std

    def forward(self, features: paddle.Tensor) -> paddle.Tensor:
        return self.hidden(features) * self.std + self.mean


def train(model: Progression, features: paddle.Tensor, targets: paddle.Tensor, console: Console) -> None:
    optimizer = paddle.optimizer.AdamW(0.01, parameters=model.parameters(), weight_decay=0.1)
    model.train()
    for _ in track(range(STEPS), "Training", console=console, disable=not console.is_terminal):
        loss = nn.functional.mse_loss(model(features), targets) / model.std**2
        loss.backward()
        optimizer.step()
        optimizer.clear_grad()
    model.eval()


def export(model: Progression, scaling: dict[str, dict[str, float]], output: Path) -> None:
    output.mkdir(parents=True, exist_ok=True)
    spec = paddle.static.InputSpec([None, len(FEATURES)], "float32", "features")
    paddle.jit.save(paddle.jit.to_static(model, input_spec=[spec], full_graph=True), str(output / "model"))
    (output / "scaling.json").write_text(json.dumps(scaling, indent=2) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description="Train the diabetes example and export it for inference.")
    parser.add_argument("--output", type=Path, default=Path("build/diabetes"), help="folder to write (%(default)s)")
    output = parser.parse_args().output
    console = Console()

    known, held_out = load()
    mean, std = known.features.mean(axis=0), known.features.std(axis=0)

    def to_input(features: NDArray[np.float64]) -> paddle.Tensor:
        return paddle.to_tensor(((features - mean) / std).astype(np.float32))

    paddle.seed(SEED)
    model = Progression(float(known.progression.mean()), float(known.progression.std()))
    targets = paddle.to_tensor(known.progression[:, None].astype(np.float32))
    train(model, to_input(known.features), targets, console)
    scaling = {name: {"mean": m, "std": s} for name, m, s in zip(FEATURES, mean.tolist(), std.tolist(), strict=True)}
    export(model, scaling, output)

    errors = model(to_input(held_out.features)).numpy()[:, 0] - held_out.progression
    r2 = 1 - (errors**2).mean() / held_out.progression.var()
    console.print(
        f"Off by {np.abs(errors).mean():.0f} on average on {len(errors)} held-out patients (R² {r2:.2f}); see {output}"
    )


if __name__ == "__main__":
    main()
