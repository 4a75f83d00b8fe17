"""`python -m bench.shapes NAME FOLDER`: models of the shapes of BERT and PicoDet, with random weights."""

from __future__ import annotations

import sys
from typing import Any

import paddle
from paddle import nn
from paddle.nn import functional

BERT_WORDS, BERT_PLACES, BERT_WIDTH, BERT_LAYERS, BERT_HEADS, BERT_CLASSES = 21128, 512, 768, 6, 12, 2
DETECTED_CLASSES, DISTANCES = 80, 8
STRIDES = (8, 16, 32)


class Bert(nn.Layer):  # type: ignore[misc]
    """A classifier of texts: int64 [texts, places] of words' numbers, 0 for none → float32 [texts, classes]."""

    def __init__(self) -> None:
        super().__init__()
        self.words = nn.Embedding(BERT_WORDS, BERT_WIDTH)
        self.places = nn.Embedding(BERT_PLACES, BERT_WIDTH)
        self.norm = nn.LayerNorm(BERT_WIDTH)
        layer = nn.TransformerEncoderLayer(BERT_WIDTH, BERT_HEADS, 4 * BERT_WIDTH, dropout=0.0, activation="gelu")
        self.encoder = nn.TransformerEncoder(layer, BERT_LAYERS)
        self.pooler = nn.Linear(BERT_WIDTH, BERT_WIDTH)
        self.classifier = nn.Linear(BERT_WIDTH, BERT_CLASSES)

    def forward(self, x: Any) -> Any:
        places = paddle.cumsum(paddle.ones_like(x), axis=1) - 1
        none = (x == 0).astype("float32").unsqueeze([1, 2]) * -1e4
        encoded = self.encoder(self.norm(self.words(x) + self.places(places)), none)
        return self.classifier(functional.tanh(self.pooler(encoded[:, 0])))


def _convolution(inputs: int, outputs: int, kernel: int = 1, stride: int = 1, groups: int = 1) -> Any:
    padding = kernel // 2
    convolution = nn.Conv2D(inputs, outputs, kernel, stride, padding, groups=groups, bias_attr=False)
    return nn.Sequential(convolution, nn.BatchNorm2D(outputs), nn.Hardswish())


def _separable(inputs: int, outputs: int, kernel: int, stride: int = 1) -> Any:
    """Each channel by itself, then all of them at each pixel."""
    return nn.Sequential(_convolution(inputs, inputs, kernel, stride, inputs), _convolution(inputs, outputs))


class PicoDet(nn.Layer):  # type: ignore[misc]
    """Pictures, float32 [pictures, 3, 320, 320] → scores [pictures, classes, anchors] and distances [pictures,
    anchors, 4] of each box's sides, before the sigmoid and non-maximum suppression."""

    _CHANNELS = 96

    def __init__(self) -> None:
        super().__init__()
        width = self._CHANNELS
        self.stem = nn.Sequential(_convolution(3, 16, 3, 2), _separable(16, 32, 3), _separable(32, 64, 3, 2))
        self.stages = nn.LayerList(
            [
                nn.Sequential(_separable(before, after, kernel, 2), *(_separable(after, after, kernel) for _ in "ab"))
                for before, after, kernel in ((64, 128, 3), (128, 256, 5), (256, 512, 5))
            ]
        )
        self.laterals = nn.LayerList([_convolution(channels, width) for channels in (128, 256, 512)])
        self.downwards = nn.LayerList([_separable(2 * width, width, 5) for _ in "ab"])
        self.halves = nn.LayerList([_separable(width, width, 5, 2) for _ in "ab"])
        self.upwards = nn.LayerList([_separable(2 * width, width, 5) for _ in "ab"])
        self.heads = nn.LayerList([nn.Sequential(*(_separable(width, width, 5) for _ in "ab")) for _ in STRIDES])
        outputs = DETECTED_CLASSES + 4 * DISTANCES
        self.answers = nn.LayerList([nn.Conv2D(width, outputs, 1) for _ in STRIDES])
        self.mean = nn.Linear(DISTANCES, 1, bias_attr=False)

    def forward(self, x: Any) -> Any:
        x, found = self.stem(x), []
        for stage, lateral in zip(self.stages, self.laterals):  # noqa: B905 (Paddle reads this code, and knows no strict)
            x = stage(x)
            found.append(lateral(x))
        levels = zip(self._mixed(found), self.heads, self.answers)  # noqa: B905
        answers = [answer(head(level)).flatten(2) for level, head, answer in levels]
        every = paddle.concat(answers, axis=2)
        scores, sides = every[:, :DETECTED_CLASSES], every[:, DETECTED_CLASSES:]
        chances = functional.softmax(sides.transpose([0, 2, 1]).reshape([0, -1, 4, DISTANCES]), axis=-1)
        return scores, self.mean(chances).reshape([0, -1, 4])

    def _mixed(self, levels: list[Any]) -> list[Any]:
        """From the coarsest level down to the finest, and up again."""
        fine, middle, coarse = levels
        middle = self.downwards[0](paddle.concat([functional.interpolate(coarse, middle.shape[2:]), middle], axis=1))
        fine = self.downwards[1](paddle.concat([functional.interpolate(middle, fine.shape[2:]), fine], axis=1))
        middle = self.upwards[0](paddle.concat([self.halves[0](fine), middle], axis=1))
        coarse = self.upwards[1](paddle.concat([self.halves[1](middle), coarse], axis=1))
        return [fine, middle, coarse]


def main(name: str, folder: str) -> None:
    """Save a model as folder/model.json (with FLAGS_enable_pir_api=0: model.pdmodel) and model.pdiparams."""
    paddle.seed(7)
    layer: Any
    layer, shape, dtype = Bert(), [None, None], "int64"
    if name == "picodet":
        layer, shape, dtype = PicoDet(), [None, 3, 320, 320], "float32"
    layer.eval()
    spec = [paddle.static.InputSpec(shape, dtype, "x")]
    paddle.jit.save(paddle.jit.to_static(layer, input_spec=spec), f"{folder}/model")


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2])
