"""Writes networks of the usual kinds as PyTorch and scikit-learn export them: `python usual_onnx.py FOLDER`.

In an environment with torch, onnx, onnxscript and skl2onnx. `-old` is PyTorch's exporter by tracing, `-new` the one
that is its default now. Weights are left out, so that the files are small: usual_onnx.zip has what torch 2.13 and
skl2onnx 1.20 wrote.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from skl2onnx import to_onnx
from sklearn import ensemble, linear_model, neural_network, pipeline, preprocessing
from torch import nn
from torch.nn import functional as F  # noqa: N812 - as everybody calls it

Tensor = Any
Axes = dict[str, dict[int, str]]
_MOST_NUMBERS = 64
"""Tensors of so many elements keep them: sizes are among them."""


class Cnn(nn.Module):  # type: ignore[misc]  # torch is not installed here
    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm, self.deep = (
            nn.Conv2d(3, 8, 3, 2, 1),
            nn.BatchNorm2d(8),
            nn.Conv2d(8, 8, 3, 1, 1, groups=8),
        )
        self.scores = nn.Linear(4, 5)

    def forward(self, image: Tensor) -> Tensor:
        hidden = F.relu6(self.norm(self.first(image)))
        hidden = hidden + F.hardswish(self.deep(hidden))
        rows, channels, height, width = hidden.size()
        hidden = hidden.view(rows, 2, channels // 2, height, width).transpose(1, 2).reshape(rows, -1, height, width)
        first, second = hidden.chunk(2, 1)
        return self.scores(F.adaptive_avg_pool2d(first + F.max_pool2d(second, 3, 1, 1), 1).flatten(1))


class Bert(nn.Module):  # type: ignore[misc]
    """Attention of PyTorch's own, which folds rows and steps into one axis."""

    def __init__(self) -> None:
        super().__init__()
        self.words, self.places, self.norm = nn.Embedding(100, 32), nn.Embedding(64, 32), nn.LayerNorm(32)
        layer = nn.TransformerEncoderLayer(32, 4, 64, batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.scores = nn.Linear(32, 3)

    def forward(self, ids: Tensor, mask: Tensor) -> Any:
        places = torch.arange(ids.size(1)).unsqueeze(0).expand_as(ids)
        hidden = self.encoder(self.norm(self.words(ids) + self.places(places)), src_key_padding_mask=mask == 0)
        return self.scores(torch.tanh(hidden[:, 0])), hidden


class Sentence(nn.Module):  # type: ignore[misc]
    """Attention by hand, and the mean of the steps that the mask leaves."""

    def __init__(self) -> None:
        super().__init__()
        self.words, self.parts, self.scores = nn.Embedding(100, 32), nn.Linear(32, 96), nn.Linear(32, 3)

    def forward(self, ids: Tensor, mask: Tensor) -> Any:
        hidden = self.words(ids)
        rows, steps, _ = hidden.shape
        query, key, value = (
            part.view(rows, steps, 4, 8).permute(0, 2, 1, 3) for part in self.parts(hidden).chunk(3, -1)
        )
        away = (1.0 - mask[:, None, None, :].float()) * -1e4
        later = torch.tril(torch.ones(steps, steps)) == 0
        weights = torch.softmax((query @ key.transpose(-1, -2) / 8**0.5 + away).masked_fill(later, -1e4), -1)
        hidden = hidden + (weights @ value).permute(0, 2, 1, 3).reshape(rows, steps, 32)
        counted = mask.unsqueeze(-1).float()
        mean = (hidden * counted).sum(1) / counted.sum(1).clamp(min=1e-9)
        return self.scores(mean), F.normalize(mean, dim=-1)


class Gpt(nn.Module):  # type: ignore[misc]
    def __init__(self) -> None:
        super().__init__()
        self.words, self.parts, self.scores = nn.Embedding(100, 32), nn.Linear(32, 96), nn.Linear(32, 100)

    def forward(self, ids: Tensor) -> Tensor:
        rows, steps = ids.shape
        parts = (part.view(rows, steps, 4, 8).transpose(1, 2) for part in self.parts(self.words(ids)).chunk(3, -1))
        found = F.scaled_dot_product_attention(*parts, is_causal=True)
        return self.scores(found.transpose(1, 2).flatten(2)[:, -1])


class Crnn(nn.Module):  # type: ignore[misc]
    """As of text recognition: columns of a picture are steps."""

    def __init__(self, layer: Callable[..., Any]) -> None:
        super().__init__()
        self.conv, self.pool = nn.Conv2d(3, 8, 3, (2, 1), 1), nn.MaxPool2d((16, 1))
        self.layers, self.scores = layer(8, 8, 2, bidirectional=True, batch_first=True), nn.Linear(16, 11)

    def forward(self, image: Tensor) -> Tensor:
        steps, _ = self.layers(self.pool(F.relu(self.conv(image))).squeeze(2).permute(0, 2, 1))
        return F.softmax(self.scores(steps), 2)


class Unet(nn.Module):  # type: ignore[misc]
    def __init__(self) -> None:
        super().__init__()
        self.first, self.down = nn.Conv2d(3, 4, 3, 1, 1), nn.Conv2d(4, 8, 3, 2, 1)
        self.up, self.last = nn.ConvTranspose2d(8, 4, 2, 2), nn.Conv2d(8, 2, 1)

    def forward(self, image: Tensor) -> Any:
        first = F.relu(self.first(image))
        scores = self.last(torch.cat([first, self.up(F.relu(self.down(first)))], 1))
        larger = F.interpolate(scores, size=image.shape[2:], mode="bilinear", align_corners=False)
        return scores.argmax(1), larger, F.interpolate(scores, scale_factor=2)


class Vit(nn.Module):  # type: ignore[misc]
    """With a token that is put before those of each picture."""

    def __init__(self) -> None:
        super().__init__()
        self.patches, self.attention = nn.Conv2d(3, 32, 16, 16), nn.MultiheadAttention(32, 4, batch_first=True)
        self.token, self.places = nn.Parameter(torch.zeros(1, 1, 32)), nn.Parameter(torch.zeros(1, 17, 32))
        self.scores = nn.Linear(32, 10)

    def forward(self, image: Tensor) -> Tensor:
        tokens = self.patches(image).flatten(2).transpose(1, 2)
        tokens = torch.cat([self.token.expand(image.shape[0], -1, -1), tokens], 1) + self.places
        found, _ = self.attention(tokens, tokens, tokens, need_weights=False)
        return self.scores(F.gelu(tokens + found)[:, 0])


class Swin(nn.Module):  # type: ignore[misc]
    """With windows, which are rows for a while."""

    def __init__(self) -> None:
        super().__init__()
        self.patches, self.parts, self.scores = nn.Conv2d(3, 8, 4, 4), nn.Linear(8, 24), nn.Linear(8, 5)

    def forward(self, image: Tensor) -> Tensor:
        hidden = torch.roll(self.patches(image).permute(0, 2, 3, 1), (-2, -2), (1, 2))
        rows, height, width, channels = hidden.shape
        windows = hidden.view(rows, height // 4, 4, width // 4, 4, channels).permute(0, 1, 3, 2, 4, 5)
        parts = self.parts(windows.reshape(-1, 16, channels)).reshape(-1, 16, 3, 2, 4)
        query, key, value = parts.permute(2, 0, 3, 1, 4).unbind(0)
        found = (torch.softmax(query @ key.transpose(-1, -2), -1) @ value).transpose(1, 2).reshape(-1, 16, channels)
        found = found.view(-1, height // 4, width // 4, 4, 4, channels).permute(0, 1, 3, 2, 4, 5)
        return self.scores(
            torch.roll(found.reshape(rows, height, width, channels), (2, 2), (1, 2)).flatten(1, 2).mean(1)
        )


class Boxes(nn.Module):  # type: ignore[misc]
    """As YOLO's: the means of distributions beside scores."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.sides, self.classes = nn.Conv2d(3, 16, 8, 8), nn.Conv2d(16, 16, 1), nn.Conv2d(16, 3, 1)

    def forward(self, image: Tensor) -> Tensor:
        hidden = F.silu(self.conv(image))
        rows = image.shape[0]
        sides = self.sides(hidden).view(rows, 4, 4, -1).transpose(2, 1).softmax(1)
        boxes = (sides * torch.arange(4.0).view(1, 4, 1, 1)).sum(1)
        return torch.cat([boxes, self.classes(hidden).view(rows, 3, -1).sigmoid()], 1)


class Table(nn.Module):  # type: ignore[misc]
    """Wide and deep: numbers, and categories by their own."""

    def __init__(self) -> None:
        super().__init__()
        self.users, self.items = nn.Embedding(50, 8), nn.Embedding(60, 8)
        self.layers = nn.Sequential(nn.Linear(20, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(), nn.Linear(8, 1))

    def forward(self, user: Tensor, item: Tensor, dense: Tensor) -> Tensor:
        return torch.sigmoid(self.layers(torch.cat([self.users(user), self.items(item), dense], 1))).squeeze(-1)


class Statistics(nn.Module):  # type: ignore[misc]
    """What is done to scores."""

    def forward(self, x: Tensor) -> Any:
        chances = F.softmax(x, -1)
        best, places = torch.topk(chances, 3)
        return (
            best, places, chances.argsort(-1), chances.max(-1)[0], F.one_hot(chances.argmax(-1), 13), x.std(-1),
            torch.where(chances > 0.5, chances, -chances), F.log_softmax(x, -1), F.normalize(x), x.clamp(0, 1),
            x.reshape(-1, 13, 1)[:, :, 0], torch.stack([x, x], 1), x.split([6, 7], 1)[0], torch.cumsum(x, 1),
        )  # fmt: skip


class Mixing(nn.Module):  # type: ignore[misc]
    """None of these is a row for each of the input's."""

    def forward(self, x: Tensor) -> Any:
        return x - x.mean(0), x.softmax(0), x[0:1], x + torch.arange(x.shape[0]).unsqueeze(1)


PICTURE, SMALL = torch.zeros(2, 3, 64, 64), torch.zeros(2, 3, 32, 32)
IDS = torch.zeros(2, 7, dtype=torch.long)
NETWORKS: dict[str, tuple[Any, dict[str, Any], list[int]]] = {
    "cnn": (Cnn(), {"image": PICTURE}, [0, 2, 3]),
    "bert": (Bert(), {"ids": IDS, "mask": IDS + 1}, [0, 1]),
    "sentence": (Sentence(), {"ids": IDS, "mask": IDS + 1}, [0, 1]),
    "gpt": (Gpt(), {"ids": IDS}, [0, 1]),
    "lstm": (Crnn(nn.LSTM), {"image": SMALL}, [0, 3]),
    "gru": (Crnn(nn.GRU), {"image": SMALL}, [0, 3]),
    "unet": (Unet(), {"image": PICTURE}, [0, 2, 3]),
    "vit": (Vit(), {"image": PICTURE}, [0]),
    "swin": (Swin(), {"image": SMALL}, [0]),
    "boxes": (Boxes(), {"image": PICTURE}, [0]),
    "table": (Table(), {"user": IDS[:, 0], "item": IDS[:, 0], "dense": torch.zeros(2, 4)}, [0]),
    "statistics": (Statistics(), {"x": torch.rand(2, 13)}, [0]),
    "mixing": (Mixing(), {"x": torch.zeros(3, 4)}, [0]),
}
"""The network, what it is given, and the axes of any length."""


def network(path: Path, layer: Any, given: dict[str, Any], open_axes: list[int], *, new: bool) -> None:
    layer.eval()
    how: dict[str, Any] = {"dynamo": new, "input_names": list(given)}
    axes = [axis for axis in open_axes if axis < next(iter(given.values())).ndim]
    if new:
        how["dynamic_shapes"] = tuple(dict.fromkeys(axes, torch.export.Dim.DYNAMIC) for _ in given)
    else:
        how["dynamic_axes"] = {name: {axis: f"axis{axis}" for axis in axes} for name in given}
        how["opset_version"] = 17
    torch.onnx.export(layer, tuple(given.values()), str(path), external_data=False, **how)


def tables(folder: Path) -> None:
    numbers = np.random.default_rng(0)
    rows, classes = numbers.normal(size=(90, 4)).astype(np.float32), np.repeat([0, 1, 2], 30)
    for name, model in (
        ("linear", pipeline.make_pipeline(preprocessing.StandardScaler(), linear_model.LogisticRegression())),
        ("forest", ensemble.RandomForestClassifier(3, max_depth=2)),
        ("boosting", ensemble.GradientBoostingRegressor(n_estimators=3, max_depth=2)),
        ("perceptron", neural_network.MLPClassifier((8,), max_iter=10)),
    ):
        model.fit(rows, classes)
        plain = {id(model): {"zipmap": False}} if hasattr(model, "predict_proba") else None
        found = to_onnx(model, rows[:1], options=plain, target_opset={"": 18, "ai.onnx.ml": 3})
        (folder / f"{name}.onnx").write_bytes(found.SerializeToString())


def without_weights(path: Path) -> None:
    model = onnx.load(path)
    for tensor in model.graph.initializer:
        if np.prod(tensor.dims) > _MOST_NUMBERS:
            tensor.ClearField("raw_data")
            tensor.ClearField("float_data")
    for part in (*model.graph.node, *model.graph.value_info, *model.graph.output, *model.graph.input):
        part.ClearField("doc_string")
        part.ClearField("metadata_props")  # places in the code
    del model.graph.value_info[:], model.graph.metadata_props[:]
    path.write_bytes(model.SerializeToString())


def main(folder: Path) -> None:
    torch.manual_seed(0)
    for name, (layer, given, axes) in NETWORKS.items():
        for new in (False, True):
            network(folder / f"{name}-{'new' if new else 'old'}.onnx", layer, given, axes, new=new)
    tables(folder)
    for path in folder.glob("*.onnx"):
        without_weights(path)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
