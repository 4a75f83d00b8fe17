"""Train a small ERNIE that tells good reviews of hotels from bad ones, in Chinese, and export it for inference.

    python examples/sentiment/train.py --output build/sentiment

writes `model.json` and `model.pdiparams`, and `vocab.txt` for the tokenizer. Like PaddleNLP's exports of ERNIE, the
model takes `input_ids` and `token_type_ids`, int64 of shape [-1, -1], where 0 fills texts up. It gives logits, float32
of shape [-1, 2].
"""

from __future__ import annotations

import argparse
import os
import random
import warnings
from pathlib import Path

import numpy as np
from data import SEED, characters, review
from steps import LABELS, LONGEST

from pdserver.handlers.text.tokens import Texts, TextSettings

os.environ.setdefault("GLOG_minloglevel", "2")  # what paddle warns of here concerns nobody who trains this
warnings.filterwarnings("ignore", message="No ccache|Tensor do not have 'place'")

import paddle  # noqa: E402
from paddle import nn  # noqa: E402

SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
WIDTH, HEADS, DEPTH = 32, 2, 1
STEPS, BATCH_SIZE, LEARNING_RATE = 500, 32, 4e-3


class Ernie(nn.Layer):  # type: ignore[misc]  # paddle has no types
    """Its layers are ERNIE's, but few and narrow."""

    def __init__(self, words: int) -> None:
        super().__init__()
        near_zero = paddle.ParamAttr(initializer=nn.initializer.Normal(0.0, 0.1))
        self.words = nn.Embedding(words, WIDTH)
        self.places, self.types = (nn.Embedding(count, WIDTH, weight_attr=near_zero) for count in (LONGEST, 2))
        self.norm = nn.LayerNorm(WIDTH)
        layer = nn.TransformerEncoderLayer(
            WIDTH, HEADS, 4 * WIDTH, dropout=0.0, activation="gelu", normalize_before=True
        )
        self.encoder = nn.TransformerEncoder(layer, DEPTH, norm=nn.LayerNorm(WIDTH))
        self.pool = nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.Tanh())
        self.classify = nn.Linear(WIDTH, len(LABELS))

    def forward(self, input_ids: paddle.Tensor, token_type_ids: paddle.Tensor) -> paddle.Tensor:
        hidden = (input_ids == 0).astype("float32").unsqueeze([1, 2]) * -1e4
        places = paddle.cumsum(paddle.ones_like(input_ids), axis=1) - 1
        embedded = self.norm(self.words(input_ids) + self.places(places) + self.types(token_type_ids))
        return self.classify(self.pool(self.encoder(embedded, hidden)[:, 0]))


def logits(model: Ernie, tokenizer: Texts, texts: list[str]) -> paddle.Tensor:
    tokens = [tokenizer.encode(text).ids for text in texts]
    rows = np.zeros((len(tokens), max(map(len, tokens))), np.int64)
    for row, ids in zip(rows, tokens, strict=True):
        row[: len(ids)] = ids
    return model(paddle.to_tensor(rows), paddle.to_tensor(np.zeros_like(rows)))


def train(model: Ernie, tokenizer: Texts, rng: random.Random) -> None:
    schedule = paddle.optimizer.lr.CosineAnnealingDecay(LEARNING_RATE, T_max=STEPS)
    optimizer = paddle.optimizer.AdamW(schedule, parameters=model.parameters())
    for _ in range(STEPS):
        texts, labels = zip(*(review(rng) for _ in range(BATCH_SIZE)), strict=True)
        loss = nn.functional.cross_entropy(logits(model, tokenizer, list(texts)), paddle.to_tensor(labels))
        loss.backward()
        optimizer.step()
        optimizer.clear_grad()
        schedule.step()
    model.eval()


def main() -> None:
    parser = argparse.ArgumentParser(description="Train the sentiment example and export it for inference.")
    parser.add_argument("--output", type=Path, default=Path("build/sentiment"), help="folder to write (%(default)s)")
    output = parser.parse_args().output

    output.mkdir(parents=True, exist_ok=True)
    vocabulary = [*SPECIAL, *characters()]
    (output / "vocab.txt").write_text("\n".join(vocabulary) + "\n", "utf-8")
    tokenizer = Texts(output, TextSettings(max_length=LONGEST), None)
    paddle.seed(SEED)
    rng = random.Random(SEED)  # noqa: S311
    model = Ernie(len(vocabulary))
    train(model, tokenizer, rng)

    specs = [paddle.static.InputSpec([None, None], "int64", name) for name in ("input_ids", "token_type_ids")]
    paddle.jit.save(paddle.jit.to_static(model, input_spec=specs, full_graph=True), str(output / "model"))
    texts, labels = zip(*(review(rng) for _ in range(500)), strict=True)
    right = (logits(model, tokenizer, list(texts)).numpy().argmax(1) == np.array(labels)).mean()
    print(f"{right:.1%} of 500 new reviews are told apart; see {output}")


if __name__ == "__main__":
    main()
