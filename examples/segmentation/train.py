"""Train the segmentation example's model, and draw a picture to send.

    python examples/segmentation/train.py --output build/segmentation

writes `model.json` and `model.pdiparams`, which take `image`, float32 of shape [-1, 3, 64, 64], and give for each pixel
the chances of background, lemon, leaf and plum, [-1, 4, 64, 64]; `table.jpg`; and `table_mask.png`, which has the
number of each pixel's class.
"""

from __future__ import annotations

import argparse
import os
import warnings
from pathlib import Path

import cv2
import numpy as np
from data import CLASSES, SEED, scene
from numpy.typing import NDArray
from steps import SIDE, to_input

os.environ.setdefault("GLOG_minloglevel", "2")  # what paddle warns of here concerns nobody who trains this
warnings.filterwarnings("ignore", message="No ccache|When training, we now always")

import paddle  # noqa: E402
from paddle import nn  # noqa: E402
from paddle.nn import functional  # noqa: E402

WIDTHS = (16, 24, 48, 64)
SCENES, STEPS, BATCH_SIZE, LEARNING_RATE = 120, 80, 8, 2e-2


def layer(channels: int, filters: int, stride: int = 1) -> nn.Layer:
    return nn.Sequential(
        nn.Conv2D(channels, filters, 3, stride, 1, bias_attr=False), nn.BatchNorm2D(filters), nn.ReLU()
    )


class Segmenter(nn.Layer):  # type: ignore[misc]  # paddle has no types
    """Like U-Net: what was seen coarsely is joined with what was seen finely. Gives logits."""

    def __init__(self) -> None:
        super().__init__()
        down = zip((3, *WIDTHS), WIDTHS, strict=False)
        self.down = nn.LayerList([layer(channels, filters, 2) for channels, filters in down])
        up = zip(WIDTHS[:0:-1], WIDTHS[-2::-1], strict=True)
        self.up = nn.LayerList([layer(coarse + fine, fine) for coarse, fine in up])
        self.twice = nn.Upsample(scale_factor=2, mode="bilinear")
        self.classify = nn.Conv2D(WIDTHS[0], len(CLASSES), 1)

    def forward(self, image: paddle.Tensor) -> paddle.Tensor:
        seen = [image]
        for layer in self.down:
            seen.append(layer(seen[-1]))
        found = seen.pop()
        for layer in self.up:
            found = layer(paddle.concat([self.twice(found), seen.pop()], axis=1))
        return self.twice(self.classify(found))


def train(rng: np.random.Generator) -> Segmenter:
    drawn = [scene(rng) for _ in range(SCENES)]
    images = np.concatenate([to_input(picture) for picture, _ in drawn])
    masks = np.stack([_small(mask) for _, mask in drawn]).astype(np.int64)
    model = Segmenter()
    schedule = paddle.optimizer.lr.CosineAnnealingDecay(LEARNING_RATE, T_max=STEPS)
    optimizer = paddle.optimizer.AdamW(schedule, parameters=model.parameters())
    for _ in range(STEPS):
        picked = rng.integers(0, SCENES, BATCH_SIZE)
        logits = model(paddle.to_tensor(images[picked]))
        loss = functional.cross_entropy(logits, paddle.to_tensor(masks[picked][:, None]), axis=1)
        loss.backward()
        optimizer.step()
        optimizer.clear_grad()
        schedule.step()
    model.eval()
    return model


def _small(mask: NDArray[np.uint8]) -> NDArray[np.uint8]:
    return np.asarray(cv2.resize(mask, (SIDE, SIDE), interpolation=cv2.INTER_NEAREST), np.uint8)


def right(model: Segmenter, rng: np.random.Generator) -> float:
    """The share of the pixels of new pictures whose class is recognised."""
    drawn = [scene(rng) for _ in range(40)]
    with paddle.no_grad():
        found = model(paddle.to_tensor(np.concatenate([to_input(picture) for picture, _ in drawn]))).numpy().argmax(1)
    return float((found == np.stack([_small(mask) for _, mask in drawn])).mean())


def main() -> None:
    parser = argparse.ArgumentParser(description="Train the segmentation example and export it for inference.")
    parser.add_argument("--output", type=Path, default=Path("build/segmentation"), help="(%(default)s)")
    output = parser.parse_args().output

    paddle.seed(SEED)
    rng = np.random.default_rng(SEED)
    model = train(rng)
    output.mkdir(parents=True, exist_ok=True)
    served = nn.Sequential(model, nn.Softmax(axis=1))
    spec = paddle.static.InputSpec([None, 3, SIDE, SIDE], "float32", "image")
    paddle.jit.save(paddle.jit.to_static(served, input_spec=[spec], full_graph=True), str(output / "model"))
    picture, mask = scene(np.random.default_rng(SEED + 5))
    cv2.imwrite(str(output / "table.jpg"), picture)
    cv2.imwrite(str(output / "table_mask.png"), mask)
    print(f"{right(model, rng):.1%} of the pixels of new pictures are recognised; see {output}")


if __name__ == "__main__":
    main()
