"""Train the recognition example's detector and embedding, fill its gallery, and draw pictures to send.

    python examples/recognition/train.py --output build/recognition

writes

    detector/    `image` float32 [-1, 3, 128, 160] → `found` float32 [-1, 5, 32, 40]: for each cell of the picture how
                 likely something is there, and how far its sides are: left, top, right, bottom, in pixels of a picture
                 of 256 × 320
    embedding/   `crop` float32 [-1, 3, 32, 32] → `vector` float32 [-1, 32], of length 1
    gallery/     the vectors of the known brands, and their names
    shelf.jpg, new.jpg     pictures to send; limetta.png: a label that the gallery does not have
    shelf.json, new.json   what is in the pictures: [{"bbox": [left, top, right, bottom], "label": "Luna"}, …]

Neither model has seen any of the brands: both are trained on labels of other shapes and colours.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import warnings
from pathlib import Path

import cv2
import numpy as np
from data import KNOWN, NEW, SEED, SHELF, Box, Brand, Image, others, portrait, shelf
from numpy.typing import NDArray
from recognition_gallery.index import Gallery
from steps import CROP, INPUT, to_input

os.environ.setdefault("GLOG_minloglevel", "2")  # what paddle warns of here concerns nobody who trains this
warnings.filterwarnings("ignore", message="No ccache|When training, we now always")

import paddle  # noqa: E402
from paddle import nn  # noqa: E402
from paddle.nn import functional  # noqa: E402

STRIDE = 8
SCALE = 64.0
"""What distances are divided by inside the detector."""
SHELVES, DETECTOR_STEPS, DETECTOR_BATCH = 64, 110, 4
DESIGNS, PORTRAITS, EMBEDDING_STEPS, EMBEDDING_BATCH = 160, 10, 150, 48
VIEWS = 3
"""Pictures of each brand in the gallery."""
WIDTH = 32
SHARPNESS = 8.0


def layer(channels: int, filters: int, stride: int = 1) -> nn.Layer:
    return nn.Sequential(
        nn.Conv2D(channels, filters, 3, stride, 1, bias_attr=False), nn.BatchNorm2D(filters), nn.ReLU()
    )


class Detector(nn.Layer):  # type: ignore[misc]  # paddle has no types
    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(
            layer(3, 12, 2), layer(12, 24, 2), layer(24, 32, 2), layer(32, 32), layer(32, 32),
        )  # fmt: skip
        self.head = nn.Sequential(nn.Conv2D(32, 4 * 5, 1), nn.PixelShuffle(2))

    def forward(self, image: paddle.Tensor) -> paddle.Tensor:
        """The chance's logit, and the logarithms of the distances divided by SCALE."""
        return self.head(self.features(image))


class ServedDetector(nn.Layer):  # type: ignore[misc]
    def __init__(self, model: Detector) -> None:
        super().__init__()
        self.model = model

    def forward(self, image: paddle.Tensor) -> paddle.Tensor:
        found = self.model(image)
        return paddle.concat([functional.sigmoid(found[:, :1]), paddle.exp(found[:, 1:]) * SCALE], axis=1)


class Embedding(nn.Layer):  # type: ignore[misc]
    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(
            layer(3, 16, 2), layer(16, 32, 2), layer(32, 48), nn.MaxPool2D(2),
            nn.Flatten(), nn.Linear(48 * 16, WIDTH),
        )  # fmt: skip

    def forward(self, crop: paddle.Tensor) -> paddle.Tensor:
        return functional.normalize(self.features(crop), axis=1)


def crops(pictures: list[Image]) -> paddle.Tensor:
    """float32 [n, 3, 32, 32]."""
    return paddle.to_tensor(np.concatenate([to_input(picture, (CROP, CROP)) for picture in pictures]))


def targets(boxes: list[Box]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """For each cell whether it is in the middle of a box [1, h, w], and the distances to the box's sides [4, h, w]."""
    rows, columns = SHELF[0] // STRIDE, SHELF[1] // STRIDE
    y, x = (np.mgrid[:rows, :columns] + 0.5) * STRIDE
    there, distances = np.zeros((1, rows, columns), np.float32), np.ones((4, rows, columns), np.float32)
    for box in boxes:
        sides = np.stack([x - box[0], y - box[1], box[2] - x, box[3] - y])
        within = (sides > 0.3 * np.array([box[2] - box[0], box[3] - box[1]] * 2)[:, None, None]).all(0)
        there[0, within], distances[:, within] = 1, sides[:, within]
    return there, distances


def train_detector(rng: np.random.Generator, designs: list[Brand]) -> Detector:
    drawn = [
        shelf([designs[i] for i in rng.integers(0, len(designs), rng.integers(2, 7))], rng) for _ in range(SHELVES)
    ]
    images = paddle.to_tensor(np.concatenate([to_input(picture, INPUT) for picture, _ in drawn]))
    wanted = [targets(boxes) for _, boxes in drawn]
    there = paddle.to_tensor(np.stack([t for t, _ in wanted]))
    distances = paddle.to_tensor(np.log(np.stack([d for _, d in wanted]) / SCALE))
    model = Detector()
    schedule = paddle.optimizer.lr.CosineAnnealingDecay(1e-2, T_max=DETECTOR_STEPS)
    optimizer = paddle.optimizer.AdamW(schedule, parameters=model.parameters())
    for _ in range(DETECTOR_STEPS):
        picked = paddle.to_tensor(rng.integers(0, SHELVES, DETECTOR_BATCH))
        found, at = model(images[picked]), there[picked]
        off = paddle.abs(found[:, 1:] - distances[picked]) * at
        chance = functional.binary_cross_entropy_with_logits(found[:, :1], at, reduction="sum")
        loss = (chance + off.sum()) / at.sum()
        loss.backward()
        optimizer.step()
        optimizer.clear_grad()
        schedule.step()
    model.eval()
    return model


def train_embedding(rng: np.random.Generator, designs: list[Brand]) -> Embedding:
    """Trained to tell designs apart, by directions: those of one design come close together."""
    portraits = [portrait(design, rng) for _ in range(PORTRAITS) for design in designs]
    drawn = crops(portraits)
    model, directions = Embedding(), paddle.create_parameter([WIDTH, len(designs)], "float32")
    schedule = paddle.optimizer.lr.CosineAnnealingDecay(1e-2, T_max=EMBEDDING_STEPS)
    optimizer = paddle.optimizer.AdamW(schedule, parameters=[*model.parameters(), directions])
    for _ in range(EMBEDDING_STEPS):
        picked = paddle.to_tensor(rng.integers(0, len(portraits), EMBEDDING_BATCH))
        vectors, labels = model(drawn[picked]), picked % len(designs)
        alike = vectors @ functional.normalize(directions, axis=0)
        loss = functional.cross_entropy(SHARPNESS * alike, labels)
        loss.backward()
        optimizer.step()
        optimizer.clear_grad()
        schedule.step()
    model.eval()
    return model


def export(model: nn.Layer, name: str, shape: list[int], folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    spec = paddle.static.InputSpec([None, *shape], "float32", name)
    paddle.jit.save(paddle.jit.to_static(model, input_spec=[spec], full_graph=True), str(folder / "model"))


def write_pictures(rng: np.random.Generator, output: Path) -> None:
    for name, brands in (("shelf", KNOWN[:6]), ("new", (*KNOWN[6:], NEW, KNOWN[0]))):
        picture, boxes = shelf(list(brands), rng)
        cv2.imwrite(str(output / f"{name}.jpg"), picture)
        there = [{"bbox": box, "label": brand.name} for box, brand in zip(boxes, brands, strict=True)]
        (output / f"{name}.json").write_text(json.dumps(there))
    cv2.imwrite(str(output / "limetta.png"), portrait(NEW, rng, 96))


def main() -> None:
    parser = argparse.ArgumentParser(description="Train the recognition example and export it for inference.")
    parser.add_argument("--output", type=Path, default=Path("build/recognition"), help="folder to write (%(default)s)")
    output = parser.parse_args().output

    paddle.seed(SEED)
    rng = np.random.default_rng(SEED)
    designs = [others()[i] for i in rng.permutation(len(others()))[:DESIGNS]]
    detector, embedding = train_detector(rng, designs), train_embedding(rng, designs)
    export(ServedDetector(detector), "image", [3, *INPUT[::-1]], output / "detector")
    export(embedding, "crop", [3, CROP, CROP], output / "embedding")

    shutil.rmtree(output / "gallery", ignore_errors=True)
    gallery = Gallery(output / "gallery")
    views = [brand for brand in KNOWN for _ in range(VIEWS)]
    asked = [brand for _ in range(50) for brand in KNOWN]
    with paddle.no_grad():
        vectors = embedding(crops([portrait(brand, rng) for brand in views])).numpy()
        gallery.add([brand.name for brand in views], vectors)
        found, _ = gallery.nearest(embedding(crops([portrait(brand, rng) for brand in asked])).numpy())
    right = np.mean([label == brand.name for label, brand in zip(found, asked, strict=True)])
    write_pictures(rng, output)
    print(f"{right:.1%} of {len(asked)} labels of brands that the models have not seen are recognised; see {output}")


if __name__ == "__main__":
    main()
