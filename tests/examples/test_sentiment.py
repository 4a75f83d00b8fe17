"""The sentiment example's steps and texts. Its README, which the tests run, asks the model in a server."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pytest

from examples.sentiment import data, steps
from pdserver.errors import InvalidRequest

VOCABULARY = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "早", "餐", "很")


def test_texts_are_filled_up_and_one_without_words_fails_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "vocab.txt").write_text("\n".join(VOCABULARY) + "\n", "utf-8")
    monkeypatch.chdir(tmp_path)  # as a worker is in its model's folder
    tokenize = steps.Tokenize()
    tokenize.initialize(None)
    short, bad, long = tokenize.handle([{"text": "早餐很好"}, {"text": " "}, {"text": "很" * 500}], None)
    assert isinstance(bad, InvalidRequest)
    assert isinstance(short, dict)
    assert isinstance(long, dict)
    assert short["input_ids"].tolist() == [[2, 4, 5, 6, 1, 3, *[0] * 10]]
    assert short["token_type_ids"].tolist() == [[0] * 16]
    assert (long["input_ids"].shape, long["input_ids"].dtype) == ((1, steps.LONGEST), np.int64)


def test_the_larger_logit_is_the_label() -> None:
    rows = [{"logits": np.array([[a, b]], np.float32)} for a, b in ((0, 100), (2, 0), (-1e4, -1e4))]
    answers = [answer["sentiment"] for answer in steps.Label().handle(rows, None)]
    assert [answer["label"] for answer in answers] == ["positive", "negative", "negative"]
    assert [round(answer["probabilities"]["positive"], 2) for answer in answers] == [1.0, 0.12, 0.5]


def test_reviews_are_as_many_of_each_kind_and_written_with_known_characters() -> None:
    rng = random.Random(1)
    reviews = [data.review(rng) for _ in range(1000)]
    assert 450 < sum(label for _, label in reviews) < 550
    assert set("".join(text for text, _ in reviews)) <= set(data.characters())
    assert max(len(text) for text, _ in reviews) <= steps.LONGEST - 2
