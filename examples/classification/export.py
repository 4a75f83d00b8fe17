"""Export a network of ResNet50_vd's shape for inference, and draw a picture to send.

    python examples/classification/export.py --output build/classification

writes `model.json` and `model.pdiparams`, which take `inputs`, float32 of shape [-1, 3, 224, 224], and give the
probabilities of 1,000 classes, and `daisy.jpg`. The weights are random: what the model answers means nothing. It has
all layers of ResNet50_vd (He et al., "Bag of Tricks for Image Classification", 2018), each a quarter as wide;
`--width 64` makes them as wide as there.
"""

from __future__ import annotations

import argparse
import os
import warnings
from pathlib import Path

import cv2
import numpy as np

os.environ.setdefault("GLOG_minloglevel", "2")  # what paddle warns of here concerns nobody who exports this
warnings.filterwarnings("ignore", message="No ccache")

import paddle  # noqa: E402
from paddle import nn  # noqa: E402

SEED = 50
CLASSES = 1000
BLOCKS = (3, 4, 6, 3)
EXPANSION = 4
SIDE = 320


def convolution(channels: int, filters: int, size: int, stride: int = 1, scale: float = 1.0) -> nn.Layer:
    """A convolution with its normalisation, whose result is `scale` times as large as its input."""
    normalise = nn.BatchNorm2D(filters, weight_attr=paddle.ParamAttr(initializer=nn.initializer.Constant(scale)))
    convolve = nn.Conv2D(channels, filters, size, stride, size // 2, bias_attr=False,
                         weight_attr=paddle.ParamAttr(initializer=nn.initializer.KaimingNormal()))  # fmt: skip
    return nn.Sequential(convolve, normalise)


class Block(nn.Layer):  # type: ignore[misc]  # paddle has no types
    """A bottleneck. Its way around averages before it convolves, which is what "vd" adds to ResNet."""

    def __init__(self, channels: int, filters: int, stride: int) -> None:
        super().__init__()
        wide = filters * EXPANSION
        self.through = nn.Sequential(
            convolution(channels, filters, 1), nn.ReLU(),
            convolution(filters, filters, 3, stride), nn.ReLU(),
            convolution(filters, wide, 1, scale=0.2),  # small, so that sixteen blocks do not add up
        )  # fmt: skip
        shrink = [nn.AvgPool2D(stride, stride, ceil_mode=True)] if stride > 1 else []
        self.around = nn.Sequential(*shrink, convolution(channels, wide, 1)) if channels != wide else nn.Identity()

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        return nn.functional.relu(self.through(x) + self.around(x))


def resnet50_vd(width: int) -> nn.Layer:
    half = width // 2
    layers: list[nn.Layer] = []
    for channels, filters, stride in ((3, half, 2), (half, half, 1), (half, width, 1)):
        layers += [convolution(channels, filters, 3, stride), nn.ReLU()]
    layers.append(nn.MaxPool2D(3, 2, 1))
    channels = width
    for stage, count in enumerate(BLOCKS):
        for i in range(count):
            filters = width << stage
            layers.append(Block(channels, filters, stride=2 if stage and not i else 1))
            channels = filters * EXPANSION
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2D(1), nn.Flatten(), nn.Linear(channels, CLASSES), nn.Softmax())


def draw_daisy(file: Path) -> None:
    """Twelve white petals around a yellow centre, in a meadow."""
    picture = np.full((SIDE, SIDE * 3 // 2, 3), (60, 140, 50), np.uint8)
    centre = (SIDE * 3 // 4, SIDE // 2)
    for angle in range(0, 360, 30):
        turned = np.deg2rad(angle)
        petal = (round(centre[0] + 80 * np.cos(turned)), round(centre[1] + 80 * np.sin(turned)))
        cv2.ellipse(picture, petal, (55, 18), angle, 0, 360, (250, 250, 250), -1)
    cv2.circle(picture, centre, 40, (40, 200, 240), -1)
    cv2.imwrite(str(file), picture)


def main() -> None:
    parser = argparse.ArgumentParser(description="Export the classification example for inference.")
    parser.add_argument("--output", type=Path, default=Path("build/classification"), help="folder (%(default)s)")
    parser.add_argument("--width", type=int, default=16, help="filters of the first stage; ResNet50_vd: 64")
    given = parser.parse_args()

    given.output.mkdir(parents=True, exist_ok=True)
    paddle.seed(SEED)
    model = resnet50_vd(given.width)
    model.eval()
    spec = paddle.static.InputSpec([None, 3, 224, 224], "float32", "inputs")
    paddle.jit.save(paddle.jit.to_static(model, input_spec=[spec], full_graph=True), str(given.output / "model"))
    draw_daisy(given.output / "daisy.jpg")
    print(f"{sum(p.size for p in model.parameters()):,} parameters, all random; see {given.output}")


if __name__ == "__main__":
    main()
