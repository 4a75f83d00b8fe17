"""Train a small transformer that tells good reviews from bad ones, in Chinese, and export it for inference.

    python examples/sequence_classification/train.py --output build/sequence_classification

writes `model.json` and `model.pdiparams`, and `vocab.txt` for the handler. Like BERT and ERNIE, the model takes
`input_ids`, `token_type_ids` and `attention_mask`, int64 of shape [-1, -1], and gives the chances of bad and good.
The reviews are made up: each says of something that it is, or is not, one of a few words, such as 这部电影很好看.
"""

from __future__ import annotations

import argparse
import os
import random
import warnings
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

os.environ.setdefault("GLOG_minloglevel", "2")  # what paddle warns of here concerns nobody who trains this
warnings.filterwarnings("ignore", message="No ccache|Tensor do not have 'place'")

import paddle  # noqa: E402
from paddle import nn  # noqa: E402

SEED = 11
THINGS = ("电影", "小说", "餐厅", "酒店", "手机", "课程", "音乐", "服务")
BEFORE = ("这个", "那个", "他们的", "今天的", "")
VERY = ("很", "非常", "真", "太", "特别", "")
NOT = ("一点也不", "并不", "不太", "不")
GOOD = ("好看", "精彩", "好吃", "舒服", "满意", "有趣", "感人", "划算")
BAD = ("难看", "无聊", "难吃", "糟糕", "失望", "麻烦", "吵闹", "枯燥")
AFTER = ("", "。", "！", "，我会再来", "，大家都这么说")
SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]")
LONGEST, WIDTH, HEADS, DEPTH = 64, 32, 2, 1
STEPS, BATCH_SIZE, LEARNING_RATE = 150, 32, 5e-3


def review(rng: random.Random) -> tuple[str, int]:
    """A text, and 1 if it is good, else 0."""
    good, denied = rng.random() < 0.5, rng.random() < 0.4
    how = rng.choice(NOT) if denied else rng.choice(VERY)
    text = rng.choice(BEFORE) + rng.choice(THINGS) + how + rng.choice(GOOD if good else BAD) + rng.choice(AFTER)
    return text, int(good != denied)


class Transformer(nn.Layer):  # type: ignore[misc]  # paddle has no types
    def __init__(self, words: int) -> None:
        super().__init__()
        self.words, self.places, self.types = (nn.Embedding(count, WIDTH) for count in (words, LONGEST, 2))
        layer = nn.TransformerEncoderLayer(WIDTH, HEADS, 4 * WIDTH, dropout=0.0)
        self.encoder = nn.TransformerEncoder(layer, DEPTH)
        self.classify = nn.Linear(WIDTH, 2)

    def forward(
        self, input_ids: paddle.Tensor, token_type_ids: paddle.Tensor, attention_mask: paddle.Tensor
    ) -> paddle.Tensor:
        places = paddle.cumsum(paddle.ones_like(input_ids), axis=1) - 1
        embedded = self.words(input_ids) + self.places(places) + self.types(token_type_ids)
        hidden = (1.0 - attention_mask.astype("float32")).unsqueeze([1, 2]) * -1e4
        return self.classify(self.encoder(embedded, hidden)[:, 0])


def encoded(texts: list[str], ids: dict[str, int]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The numbers of [CLS], the texts' characters and [SEP], filled up to the longest text, and where there are any."""
    rows = [[ids["[CLS]"], *(ids[character] for character in text), ids["[SEP]"]] for text in texts]
    numbers = np.zeros((len(rows), max(map(len, rows))), np.int64)
    for i, row in enumerate(rows):
        numbers[i, : len(row)] = row
    return numbers, (np.arange(numbers.shape[1]) < np.array([[len(row)] for row in rows])).astype(np.int64)


def logits(model: Transformer, texts: list[str], ids: dict[str, int]) -> paddle.Tensor:
    numbers, mask = encoded(texts, ids)
    return model(*map(paddle.to_tensor, (numbers, np.zeros_like(numbers), mask)))


def train(model: Transformer, ids: dict[str, int], rng: random.Random) -> None:
    optimizer = paddle.optimizer.AdamW(LEARNING_RATE, parameters=model.parameters())
    for _ in range(STEPS):
        texts, labels = zip(*(review(rng) for _ in range(BATCH_SIZE)), strict=True)
        loss = nn.functional.cross_entropy(logits(model, list(texts), ids), paddle.to_tensor(labels))
        loss.backward()
        optimizer.step()
        optimizer.clear_grad()
    model.eval()


class Served(nn.Layer):  # type: ignore[misc]
    def __init__(self, model: Transformer) -> None:
        super().__init__()
        self.model = model

    def forward(
        self, input_ids: paddle.Tensor, token_type_ids: paddle.Tensor, attention_mask: paddle.Tensor
    ) -> paddle.Tensor:
        return nn.functional.softmax(self.model(input_ids, token_type_ids, attention_mask))


def main() -> None:
    parser = argparse.ArgumentParser(description="Train the sequence_classification example and export it.")
    parser.add_argument("--output", type=Path, default=Path("build/sequence_classification"), help="(%(default)s)")
    output = parser.parse_args().output

    characters = sorted(set("".join("".join(words) for words in (THINGS, BEFORE, VERY, NOT, GOOD, BAD, AFTER))))
    ids = {word: number for number, word in enumerate((*SPECIAL, *characters))}
    paddle.seed(SEED)
    rng = random.Random(SEED)  # noqa: S311
    model = Transformer(len(ids))
    train(model, ids, rng)

    output.mkdir(parents=True, exist_ok=True)
    specs = [
        paddle.static.InputSpec([None, None], "int64", name)
        for name in ("input_ids", "token_type_ids", "attention_mask")
    ]
    paddle.jit.save(paddle.jit.to_static(Served(model), input_spec=specs, full_graph=True), str(output / "model"))
    (output / "vocab.txt").write_text("\n".join(ids) + "\n", "utf-8")
    texts, labels = zip(*(review(rng) for _ in range(500)), strict=True)
    right = (logits(model, list(texts), ids).numpy().argmax(1) == np.array(labels)).mean()
    print(f"{right:.1%} of 500 new reviews are told apart; see {output}")


if __name__ == "__main__":
    main()
