"""Networks of PyTorch → ONNX → Paddle: `python torch_networks.py FOLDER`, in an environment with x2paddle.

For each network, it writes FOLDER/NAME/inference_model, as x2paddle does, and FOLDER/NAME.npz: inputs, and the `scores`
that PyTorch itself gives for them.
"""

from __future__ import annotations

import itertools
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from torch import nn
from x2paddle.convert import onnx2paddle

Tensor = Any


class Block(nn.Module):  # type: ignore[misc]  # torch is not installed here
    def __init__(self, given: int, gives: int, stride: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(given, gives, 3, stride, 1, bias=False),
            nn.BatchNorm2d(gives),
            nn.ReLU(),
            nn.Conv2d(gives, gives, 3, 1, 1, bias=False),
            nn.BatchNorm2d(gives),
        )
        side = [nn.Conv2d(given, gives, 1, stride, bias=False), nn.BatchNorm2d(gives)]
        self.side = nn.Sequential(*side if stride > 1 else [])

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.body(x) + self.side(x))


def resnet18(width: int, classes: int) -> Any:
    widths = [width, width, 2 * width, 4 * width, 8 * width]
    layers: list[Any] = [nn.Conv2d(3, width, 7, 2, 3, bias=False), nn.BatchNorm2d(width), nn.ReLU()]
    layers += [nn.MaxPool2d(3, 2, 1)]
    for i, (given, gives) in enumerate(itertools.pairwise(widths)):
        layers += [Block(given, gives, 2 if i else 1), Block(gives, gives, 1)]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8 * width, classes))


class Attention(nn.Module):  # type: ignore[misc]
    def __init__(self) -> None:
        super().__init__()
        self.query, self.key, self.value, self.out = (nn.Linear(16, 16) for _ in range(4))

    def heads(self, x: Tensor) -> Tensor:
        return x.view(x.size(0), x.size(1), 2, 8).permute(0, 2, 1, 3)

    def forward(self, x: Tensor) -> Tensor:
        scores = torch.matmul(self.heads(self.query(x)), self.heads(self.key(x)).transpose(-1, -2)) / 8**0.5
        found = torch.matmul(torch.softmax(scores, -1), self.heads(self.value(x))).permute(0, 2, 1, 3).contiguous()
        return self.out(found.view(x.size(0), x.size(1), 16))


class Bert(nn.Module):  # type: ignore[misc]
    def __init__(self) -> None:
        super().__init__()
        self.words, self.types, self.places = nn.Embedding(50, 16), nn.Embedding(2, 16), nn.Embedding(32, 16)
        self.first, self.second, self.third = (nn.LayerNorm(16) for _ in range(3))
        self.attention = Attention()
        self.wide = nn.Sequential(nn.Linear(16, 32), nn.GELU(), nn.Linear(32, 16))
        self.pool, self.classes = nn.Linear(16, 16), nn.Linear(16, 2)

    def forward(self, ids: Tensor, types: Tensor, places: Tensor) -> Tensor:
        x = self.first(self.words(ids) + self.types(types) + self.places(places))
        x = self.second(x + self.attention(x))
        return self.classes(torch.tanh(self.pool(self.third(x + self.wide(x))[:, 0])))


def look_trained(net: Any) -> None:
    """No two tensors may be equal: x2paddle can't convert the file that they then share."""
    for part in net.modules():
        if isinstance(part, nn.BatchNorm2d):
            for tensor in (part.weight, part.running_var):
                nn.init.uniform_(tensor, 0.5, 1.5)
            for tensor in (part.bias, part.running_mean):
                nn.init.uniform_(tensor, -0.5, 0.5)


def without_dilations(path: Path) -> None:
    """As docs/convert.md has it."""
    model = onnx.load(path)
    for node in model.graph.node:
        if node.op_type == "MaxPool":
            kept = [attribute for attribute in node.attribute if attribute.name != "dilations"]
            del node.attribute[:]
            node.attribute.extend(kept)
    onnx.save(model, path)


def main(folder: Path) -> None:
    torch.manual_seed(7)
    ids = torch.randint(1, 50, (2, 12))
    places = torch.arange(12).expand(2, 12).contiguous()
    asked = {
        "resnet18": (resnet18(8, 10), {"image": torch.randn(2, 3, 64, 64)}),
        "bert": (Bert(), {"input_ids": ids, "token_type_ids": torch.zeros_like(ids), "position_ids": places}),
    }
    for name, (net, given) in asked.items():
        look_trained(net)
        net.eval()
        with torch.no_grad():
            scores = net(*given.values())
        np.savez(folder / f"{name}.npz", scores=scores.numpy(), **{key: value.numpy() for key, value in given.items()})
        file = folder / f"{name}.onnx"
        torch.onnx.export(
            net, tuple(given.values()), str(file), input_names=list(given), output_names=["scores"], opset_version=13,
            dynamic_axes={key: {0: "rows"} for key in (*given, "scores")}, dynamo=False,
        )  # fmt: skip
        without_dilations(file)
        onnx2paddle(str(file), str(folder / name), disable_feedback=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
