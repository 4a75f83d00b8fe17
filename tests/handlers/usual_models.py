"""Writes networks of the usual kinds, without weights: `python usual_models.py FOLDER`.

Paddle 3 writes .json, Paddle 2 .pdmodel: those that 2.6.2 wrote are in usual_models.zip, without the source lines that
it puts into them.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import paddle
from paddle import nn
from paddle.nn import functional as F  # noqa: N812 - as everybody calls it
from paddle.static import InputSpec as Spec

PICTURE = Spec([None, 3, None, None], "float32", "image")
FIXED = Spec([None, 3, 64, 64], "float32", "image")
IDS = [Spec([None, None], "int64", name) for name in ("input_ids", "token_type_ids")]
STEPS = Spec([None, None, 5], "float32", "x")
Tensor = Any


class Bert(nn.Layer):  # type: ignore[misc]  # paddle has no types
    """With a mask, and places counted by cumsum, as PaddleNLP's."""

    def __init__(self) -> None:
        super().__init__()
        self.words, self.places, self.types = (
            nn.Embedding(100, 32, padding_idx=0),
            nn.Embedding(64, 32),
            nn.Embedding(2, 32),
        )
        self.norm = nn.LayerNorm(32)
        self.encoder = nn.TransformerEncoder(nn.TransformerEncoderLayer(32, 4, 64, activation="gelu"), 2)
        self.pool, self.scores = nn.Linear(32, 32), nn.Linear(32, 3)

    def forward(self, ids: Tensor, types: Tensor) -> Any:
        mask = (ids == 0).astype("float32").unsqueeze([1, 2]) * -1e4
        ones = paddle.ones_like(ids, dtype="int64")
        places = paddle.cumsum(ones, axis=-1) - ones
        hidden = self.encoder(self.norm(self.words(ids) + self.places(places) + self.types(types)), mask)
        return hidden, self.scores(paddle.tanh(self.pool(hidden[:, 0])))


class Ernie(nn.Layer):  # type: ignore[misc]
    """With places by arange."""

    def __init__(self) -> None:
        super().__init__()
        self.words, self.places, self.types = nn.Embedding(100, 32), nn.Embedding(64, 32), nn.Embedding(2, 32)
        self.encoder = nn.TransformerEncoder(nn.TransformerEncoderLayer(32, 4, 64, normalize_before=True), 1)
        self.scores = nn.Linear(32, 3)

    def forward(self, ids: Tensor, types: Tensor) -> Any:
        places = paddle.arange(0, paddle.shape(ids)[1], dtype="int64").unsqueeze(0).expand_as(ids)
        hidden = self.encoder(self.words(ids) + self.places(places) + self.types(types))
        return self.scores(hidden.mean(1)), F.softmax(self.scores(hidden[:, 0, :]), -1)


class Gpt(nn.Layer):  # type: ignore[misc]
    """Attention by hand, reshaped by lengths that are known at run time."""

    def __init__(self) -> None:
        super().__init__()
        self.words, self.qkv, self.scores = nn.Embedding(100, 32), nn.Linear(32, 96), nn.Linear(32, 100)

    def forward(self, ids: Tensor) -> Any:
        rows, steps = ids.shape[0], ids.shape[1]
        hidden = self.words(ids)
        parts = self.qkv(hidden).reshape([0, 0, 3, 4, 8]).transpose([2, 0, 3, 1, 4])
        query, key, value = parts[0], parts[1], parts[2]
        later = paddle.triu(paddle.full([steps, steps], -1e4), 1)
        weights = F.softmax(paddle.matmul(query, key, transpose_y=True) / 8**0.5 + later)
        return self.scores(hidden + paddle.matmul(weights, value).transpose([0, 2, 1, 3]).reshape([rows, steps, 32]))


class Recurrent(nn.Layer):  # type: ignore[misc]
    def __init__(self, kind: Any, **how: Any) -> None:
        super().__init__()
        self.layers = kind(5, 8, **how)
        self.scores = nn.Linear(16 if how else 8, 2)

    def forward(self, x: Tensor) -> Any:
        steps, _ = self.layers(x)
        return self.scores(steps[:, -1]), self.scores(steps)


class Crnn(nn.Layer):  # type: ignore[misc]
    """As of text recognition: columns of a picture are steps."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.pool = nn.Conv2D(3, 8, 3, stride=(2, 1), padding=1), nn.MaxPool2D((16, 1))
        self.layers, self.scores = nn.LSTM(8, 8, direction="bidirect"), nn.Linear(16, 11)

    def forward(self, x: Tensor) -> Any:
        steps, _ = self.layers(self.pool(F.relu(self.conv(x))).squeeze(2).transpose([0, 2, 1]))
        return F.softmax(self.scores(steps), axis=2)


class Unet(nn.Layer):  # type: ignore[misc]
    def __init__(self) -> None:
        super().__init__()
        self.first, self.down = nn.Conv2D(3, 4, 3, padding=1), nn.Conv2D(4, 8, 3, stride=2, padding=1)
        self.up, self.last = nn.Conv2DTranspose(8, 4, 2, stride=2), nn.Conv2D(8, 2, 1)

    def forward(self, x: Tensor) -> Any:
        first = F.relu(self.first(x))
        scores = self.last(paddle.concat([first, self.up(F.relu(self.down(first)))], 1))
        return scores.argmax(1), F.interpolate(scores, size=paddle.shape(x)[2:], mode="bilinear")


class Vit(nn.Layer):  # type: ignore[misc]
    """With a token that is put before those of each picture."""

    def __init__(self) -> None:
        super().__init__()
        self.patches = nn.Conv2D(3, 32, 16, 16)
        self.token, self.places = self.create_parameter([1, 1, 32]), self.create_parameter([1, 17, 32])
        self.encoder, self.scores = nn.TransformerEncoder(nn.TransformerEncoderLayer(32, 4, 64), 1), nn.Linear(32, 10)

    def forward(self, x: Tensor) -> Any:
        tokens = self.patches(x).flatten(2).transpose([0, 2, 1])
        token = self.token.expand([paddle.shape(x)[0], -1, -1])
        return self.scores(self.encoder(paddle.concat([token, tokens], 1) + self.places)[:, 0])


class Swin(nn.Layer):  # type: ignore[misc]
    """With windows, which are rows for a while."""

    def __init__(self) -> None:
        super().__init__()
        self.patches, self.qkv, self.scores = nn.Conv2D(3, 8, 4, 4), nn.Linear(8, 24), nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Any:
        x = paddle.roll(self.patches(x).transpose([0, 2, 3, 1]), shifts=[-2, -2], axis=[1, 2])
        windows = x.reshape([-1, 2, 4, 2, 4, 8]).transpose([0, 1, 3, 2, 4, 5]).reshape([-1, 16, 8])
        parts = self.qkv(windows).reshape([-1, 16, 3, 2, 4]).transpose([2, 0, 3, 1, 4])
        weights = F.softmax(parts[0] @ parts[1].transpose([0, 1, 3, 2]))
        windows = (weights @ parts[2]).transpose([0, 2, 1, 3]).reshape([-1, 16, 8])
        x = windows.reshape([-1, 2, 2, 4, 4, 8]).transpose([0, 1, 3, 2, 4, 5]).reshape([-1, 8, 8, 8])
        return self.scores(paddle.roll(x, shifts=[2, 2], axis=[1, 2]).reshape([-1, 64, 8]).mean(1))


class Boxes(nn.Layer):  # type: ignore[misc]
    """With im_shape and scale_factor, as PaddleDetection's."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2D(3, 27, 8, 8)

    def forward(self, image: Tensor, scale: Tensor) -> Any:
        size = (paddle.shape(image)[2:].astype("float32").unsqueeze(0) / scale).astype("int32")
        boxes, scores = paddle.vision.ops.yolo_box(self.conv(image), size, [10, 13, 16, 30, 33, 23], 4, 0.01, 8)
        return boxes, scores.transpose([0, 2, 1])


class Table(nn.Layer):  # type: ignore[misc]
    """Wide and deep: numbers, and categories by their own."""

    def __init__(self) -> None:
        super().__init__()
        self.users, self.items = nn.Embedding(50, 8), nn.Embedding(60, 8)
        self.layers = nn.Sequential(nn.Linear(20, 8), nn.BatchNorm1D(8), nn.ReLU(), nn.Dropout(), nn.Linear(8, 1))

    def forward(self, user: Tensor, item: Tensor, dense: Tensor) -> Any:
        return F.sigmoid(self.layers(paddle.concat([self.users(user), self.items(item), dense], axis=1)))


class Statistics(nn.Layer):  # type: ignore[misc]
    """What is done to scores."""

    def forward(self, x: Tensor) -> Any:
        chances = F.softmax(x)
        best, places = paddle.topk(chances, 3)
        return (
            best, places, paddle.argsort(chances, -1), chances.max(-1), F.one_hot(chances.argmax(-1), 13),
            paddle.where(chances > 0.5, chances, -chances), F.log_softmax(x), F.normalize(x), paddle.clip(x, 0, 1),
            x.reshape([-1, 13, 1]).squeeze(2), paddle.stack([x, x], 1), paddle.split(x, [6, 7], 1)[0],
        )  # fmt: skip


MODELS: dict[str, tuple[Any, list[Spec]]] = {
    "resnet18": (paddle.vision.models.resnet18, [PICTURE]),
    "mobilenet": (paddle.vision.models.mobilenet_v3_small, [PICTURE]),
    "shufflenet": (paddle.vision.models.shufflenet_v2_x0_25, [FIXED]),
    "squeezenet": (paddle.vision.models.squeezenet1_0, [FIXED]),
    "bert": (Bert, IDS),
    "ernie": (Ernie, IDS),
    "gpt": (Gpt, IDS[:1]),
    "lstm": (lambda: Recurrent(nn.LSTM, num_layers=2, direction="bidirect"), [STEPS]),
    "gru": (lambda: Recurrent(nn.GRU), [STEPS]),
    "rnn": (lambda: Recurrent(nn.SimpleRNN), [STEPS]),
    "crnn": (Crnn, [Spec([None, 3, 32, None], "float32", "x")]),
    "unet": (Unet, [PICTURE]),
    "vit": (Vit, [FIXED]),
    "swin": (Swin, [Spec([None, 3, 32, 32], "float32", "image")]),
    "boxes": (Boxes, [FIXED, Spec([None, 2], "float32", "scale_factor")]),
    "table": (
        Table,
        [Spec([None], "int64", "user"), Spec([None], "int64", "item"), Spec([None, 4], "float32", "dense")],
    ),
    "statistics": (Statistics, [Spec([None, 13], "float32", "x")]),
}


def main(folder: Path) -> None:
    for name, (make, spec) in MODELS.items():
        layer = make()
        layer.eval()
        paddle.jit.save(paddle.jit.to_static(layer, input_spec=spec, full_graph=True), str(folder / name))
        (folder / f"{name}.pdiparams").unlink(missing_ok=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
