"""Train a small CNN on the handwritten digits and export it for inference.

    python examples/digits/train.py --output build/digits

writes `model.json` (the program, in Paddle's PIR format) and `model.pdiparams` (the weights). The exported model takes
`image`, float32 of shape [-1, 1, 8, 8] with ink between 0 and 1, and gives the ten probabilities.
"""

from __future__ import annotations

import argparse
import os
import warnings
from pathlib import Path

import numpy as np
from data import SEED, Digits, load
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import track

os.environ.setdefault("GLOG_minloglevel", "2")  # what paddle warns of here concerns nobody who trains this
warnings.filterwarnings("ignore", message="No ccache")

import paddle  # noqa: E402
from paddle import nn  # noqa: E402
from paddle.nn import functional  # noqa: E402

EPOCHS = 20
BATCH_SIZE = 64
LEARNING_RATE = 5e-3


class DigitsCnn(nn.Layer):  # type: ignore[misc]  # paddle has no types
    """Three convolutions and one linear layer, 19,000 parameters; gives logits."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2D(1, 16, 3, padding=1), nn.ReLU(),
            nn.Conv2D(16, 32, 3, padding=1), nn.ReLU(),
            nn.MaxPool2D(2),
            nn.Conv2D(32, 32, 3, padding=1), nn.ReLU(),
            nn.Flatten(),
        )  # fmt: skip
        self.classify = nn.Sequential(nn.Dropout(0.3), nn.Linear(32 * 4 * 4, 10))

    def forward(self, image: paddle.Tensor) -> paddle.Tensor:
        return self.classify(self.features(image))


def to_input(images: NDArray[np.uint8]) -> paddle.Tensor:
    """Scans [n, 8, 8] as the model takes them: the served model's configuration (`model-config.yaml`) does the same."""
    return paddle.to_tensor(images[:, None].astype(np.float32) / 255)


def shifted(images: NDArray[np.uint8], rng: np.random.Generator) -> NDArray[np.uint8]:
    """Each scan moved by at most one pixel along each axis, so that the model does not learn positions by heart."""
    padded = np.pad(images, ((0, 0), (1, 1), (1, 1)))
    tops, lefts = rng.integers(0, 3, (2, len(images)))
    moved = [scan[top : top + 8, left : left + 8] for scan, top, left in zip(padded, tops, lefts, strict=True)]
    return np.stack(moved)


def train(model: DigitsCnn, digits: Digits, console: Console) -> None:
    rng = np.random.default_rng(SEED)
    steps = EPOCHS * -(-len(digits.labels) // BATCH_SIZE)
    schedule = paddle.optimizer.lr.CosineAnnealingDecay(LEARNING_RATE, T_max=steps)
    optimizer = paddle.optimizer.AdamW(schedule, parameters=model.parameters())
    model.train()
    for _ in track(range(EPOCHS), "Training", console=console, disable=not console.is_terminal):
        order = rng.permutation(len(digits.labels))
        for start in range(0, len(order), BATCH_SIZE):
            picked = order[start : start + BATCH_SIZE]
            logits = model(to_input(shifted(digits.images[picked], rng)))
            loss = functional.cross_entropy(logits, paddle.to_tensor(digits.labels[picked]))
            loss.backward()
            optimizer.step()
            optimizer.clear_grad()
            schedule.step()


def accuracy(model: DigitsCnn, digits: Digits) -> float:
    model.eval()
    with paddle.no_grad():
        predicted = model(to_input(digits.images)).numpy().argmax(axis=1)
    return float((predicted == digits.labels).mean())


def export(model: DigitsCnn, output: Path) -> None:
    output.mkdir(parents=True, exist_ok=True)
    model.eval()
    served = nn.Sequential(model, nn.Softmax())
    spec = paddle.static.InputSpec([None, 1, 8, 8], "float32", "image")
    paddle.jit.save(paddle.jit.to_static(served, input_spec=[spec], full_graph=True), str(output / "model"))


def main() -> None:
    parser = argparse.ArgumentParser(description="Train the digits example and export it for inference.")
    parser.add_argument("--output", type=Path, default=Path("build/digits"), help="folder to write (%(default)s)")
    output = parser.parse_args().output
    console = Console()
    train_digits, held_out = load()
    paddle.seed(SEED)
    model = DigitsCnn()
    train(model, train_digits, console)
    export(model, output)
    console.print(
        f"{accuracy(model, held_out):.2%} of {len(held_out.labels)} held-out digits are recognised; see {output}"
    )


if __name__ == "__main__":
    main()
