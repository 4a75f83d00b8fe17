"""Writes small real models for the tests: `python models.py FOLDER`; FLAGS_enable_pir_api=0 gives .pdmodel files.

Beside `digits` lies `digits.npz`: images, and the scores that the layer itself computed for them.
"""

from __future__ import annotations

import sys
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import paddle
from paddle import nn
from paddle.static import InputSpec


class Digits(nn.Layer):  # type: ignore[misc]  # paddle has no types
    def __init__(self, softmax: bool) -> None:
        super().__init__()
        self.conv = nn.Conv2D(1, 4, 3, padding=1)
        self.scores = nn.Linear(4 * 8 * 8, 10)
        self.softmax = softmax

    def forward(self, image: paddle.Tensor) -> paddle.Tensor:
        scores = self.scores(nn.functional.relu(self.conv(image)).flatten(1))
        return nn.functional.softmax(scores) if self.softmax else scores


class Colours(nn.Layer):  # type: ignore[misc]
    """The mean of each channel, of images of any size: shows how they were prepared."""

    def forward(self, image: paddle.Tensor) -> paddle.Tensor:
        return nn.functional.adaptive_avg_pool2d(image, 1).flatten(1)


class Lines(nn.Layer):  # type: ignore[misc]
    """Convolutions of pictures of any width, and an output of a quarter of it. Zeros at their right change nothing."""

    def __init__(self) -> None:
        super().__init__()
        widths = [3] + [8] * 8
        layers = (nn.Conv2D(*pair, (3, 1), padding=(1, 0), bias_attr=False) for pair in pairwise(widths))
        self.layers = nn.LayerList(layers)
        self.last = nn.Conv2D(8, 5, (16, 4), stride=4, bias_attr=False)

    def forward(self, x: paddle.Tensor) -> tuple[paddle.Tensor, paddle.Tensor]:
        for layer in self.layers:
            x = nn.functional.relu(layer(x))
        return x, self.last(x).squeeze(2)


class Words(nn.Layer):  # type: ignore[misc]
    """Several inputs of several dtypes, one of them with an axis of any length."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(10, 4)

    def forward(self, ids: paddle.Tensor, flag: paddle.Tensor, weight: paddle.Tensor) -> tuple[paddle.Tensor, ...]:
        words = self.embedding(ids) * weight.unsqueeze(-1).unsqueeze(-1)
        return words, paddle.logical_not(flag)


class Positions(nn.Layer):  # type: ignore[misc]
    """Has eight positions, and counts those of its tokens itself where it is not given them."""

    def __init__(self) -> None:
        super().__init__()
        self.words, self.positions, self.scores = nn.Embedding(20, 4), nn.Embedding(8, 4), nn.Linear(4, 3)

    def forward(self, ids: paddle.Tensor, positions: Any = None) -> paddle.Tensor:
        if positions is None:
            ones = paddle.ones_like(ids)
            positions = paddle.cumsum(ones, axis=-1) - ones
        return self.scores((self.words(ids) + self.positions(positions)).mean(1))


class Sentiment(nn.Layer):  # type: ignore[misc]
    """Scores from the mean of the unmasked tokens' vectors, to which their segment adds its own."""

    def __init__(self) -> None:
        super().__init__()
        self.words, self.segments = nn.Embedding(20, 4), nn.Embedding(2, 4)
        self.scores = nn.Linear(4, 3)

    def forward(self, ids: paddle.Tensor, types: paddle.Tensor, mask: paddle.Tensor) -> paddle.Tensor:
        weights = mask.astype("float32").unsqueeze(-1)
        vectors = (self.words(ids) + self.segments(types)) * weights
        return self.scores(vectors.sum(1) / weights.sum(1))


class Bag(nn.Layer):  # type: ignore[misc]
    """As Sentiment, of all tokens: knows nothing of masks and segments."""

    def __init__(self, sentiment: Sentiment) -> None:
        super().__init__()
        self.words, self.scores = sentiment.words, sentiment.scores

    def forward(self, ids: paddle.Tensor) -> paddle.Tensor:
        return self.scores(self.words(ids).mean(1))


class Detector(nn.Layer):  # type: ignore[misc]
    """A box for each channel whose mean exceeds 0.1: class and score are the channel and its mean, and it covers the
    upper half of the picture. `form` says how the boxes come out."""

    def __init__(self, form: str) -> None:
        super().__init__()
        self.form = form

    def forward(self, image: paddle.Tensor, im_shape: Any = None, scale_factor: Any = None) -> Any:
        means = image.mean([2, 3])
        found = means > 0.1
        size = paddle.shape(image)[2:].cast("float32").expand([means.shape[0], 2])
        if im_shape is not None:
            size = im_shape / scale_factor
        if self.form == "rows":
            classes = paddle.where(found, paddle.arange(3).cast("float32").expand_as(means), -paddle.ones_like(means))
            return self.boxes(classes, means, size.unsqueeze(1).expand([means.shape[0], 3, 2]))
        places = paddle.nonzero(found)
        size = paddle.gather(size, places[:, 0])
        boxes = self.boxes(places[:, 1].cast("float32"), paddle.gather_nd(means, places), size)
        return boxes if self.form == "one" else (boxes, found.cast("int32").sum(1).cast("int32"))

    def boxes(self, classes: paddle.Tensor, scores: paddle.Tensor, size: paddle.Tensor) -> paddle.Tensor:
        nothing = paddle.zeros_like(scores)
        return paddle.stack([classes, scores, nothing, nothing, size[..., 1], size[..., 0] / 2], -1)


class Segmenter(nn.Layer):  # type: ignore[misc]
    """Each pixel's class is its strongest channel, or 3 where none exceeds 0.2; `stride` makes the output smaller."""

    def __init__(self, argmax: bool, stride: int = 1) -> None:
        super().__init__()
        self.conv = nn.Conv2D(3, 4, 1, stride=stride)
        weights = np.zeros((4, 3, 1, 1), np.float32)
        weights[range(3), range(3)] = 1
        self.conv.weight.set_value(weights)
        self.conv.bias.set_value(np.array([0, 0, 0, 0.2], np.float32))
        self.argmax = argmax

    def forward(self, image: paddle.Tensor) -> paddle.Tensor:
        scores = self.conv(image)
        return scores.argmax(1, dtype="int32") if self.argmax else scores


class Halved(nn.Layer):  # type: ignore[misc]
    def forward(self, y: paddle.Tensor) -> paddle.Tensor:
        return y / 2


class Summed(nn.Layer):  # type: ignore[misc]
    """Over all rows: its first axis is not the batch."""

    def forward(self, y: paddle.Tensor) -> paddle.Tensor:
        return y.sum(0)


def main(folder: Path) -> None:
    paddle.seed(7)
    linear = nn.Linear(13, 1)
    rows = InputSpec([None, 13], "float32", "x")
    pixels = InputSpec([None, 1, 8, 8], "float32", "image")
    save(folder / "linear", linear, rows)
    digits = Digits(softmax=False)
    images = paddle.randn([3, 1, 8, 8])
    np.savez(folder / "digits.npz", images=images.numpy(), scores=digits(images).numpy())
    save(folder / "digits", digits, pixels)
    save(folder / "halved", Halved(), InputSpec([None, 1], "float32", "y"))
    save(folder / "lines", Lines(), InputSpec([None, 3, 16, None], "float32", "x"))
    if folder.name == "legacy":
        return
    save(folder / "summed", Summed(), InputSpec([None, 1], "float32", "y"))
    save(folder / "pairs", linear, InputSpec([2, 13], "float32", "x"))
    save(folder / "likely", Digits(softmax=True), pixels)
    save(folder / "colours", Colours(), InputSpec([None, 3, None, None], "float32", "image"))
    save_texts(folder)
    save_finders(folder)
    words = [InputSpec([None, None], "int64", "ids"), InputSpec([None], "bool", "flag")]
    save(folder / "words", Words(), *words, InputSpec([None], "float32", "weight"))


def save_texts(folder: Path) -> None:
    ids, positions = (InputSpec([None, None], "int64", name) for name in ("input_ids", "position_ids"))
    save(folder / "positions", Positions(), ids)
    save(folder / "positions-given", Positions(), ids, positions)
    sentiment = Sentiment()
    np.savez(folder / "sentiment.npz", **{name: value.numpy() for name, value in sentiment.state_dict().items()})
    names = ("input_ids", "token_type_ids", "attention_mask")
    save(folder / "sentiment", sentiment, *(InputSpec([None, None], "int64", name) for name in names))
    dtypes = dict(zip(names, ("int32", "int32", "float32"), strict=True))
    save(folder / "six", sentiment, *(InputSpec([None, 6], dtype, name) for name, dtype in dtypes.items()))
    save(folder / "bag", Bag(sentiment), InputSpec([None, None], "int64", "x"))


def save_finders(folder: Path) -> None:
    picture = InputSpec([None, 3, None, None], "float32", "image")
    beside = [InputSpec([None, 2], "float32", name) for name in ("im_shape", "scale_factor")]
    save(folder / "detector", Detector("counted"), picture, *beside)
    for form in ("counted", "one", "rows"):
        save(folder / f"{form}-boxes", Detector(form), picture)
    save(folder / "segmenter", Segmenter(argmax=True), picture)
    save(folder / "segmenter-scores", Segmenter(argmax=False), picture)
    save(folder / "segmenter-half", Segmenter(argmax=True, stride=2), picture)
    save(folder / "box-pairs", Detector("counted"), InputSpec([2, 3, 8, 8], "float32", "image"))


def save(path: Path, layer: nn.Layer, *spec: InputSpec) -> None:
    layer.eval()
    paddle.jit.save(paddle.jit.to_static(layer, input_spec=list(spec), full_graph=True), str(path))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
