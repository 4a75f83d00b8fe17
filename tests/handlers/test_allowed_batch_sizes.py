"""The setting allowedBatchSizes: what Paddle is given, and that answers are those of any batch, in every handler."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import orjson
import pytest

from pdserver.handlers.runtime.engines.paddle import PaddleModel
from pdserver.handlers.runtime.rows import Arrays
from pdserver.handlers.runtime.service import Service
from pdserver.tensors import array
from pdserver.types import Outcome, Reply, Request
from tests.handlers.conftest import Load
from tests.handlers.requests import body, json, tensor
from tests.handlers.test_image_classifier import GRAY, PHOTO, encoded
from tests.handlers.test_text_classifier import VOCABULARY
from tests.handlers.test_typed import typed

SIZES = (2, 4)
GIVEN = {1: [2], 2: [2], 3: [4], 4: [4], 5: [4, 2], 7: [4, 4], 9: [4, 4, 2]}
"""Rows of a batch → those that Paddle is given."""
ROWS = np.random.default_rng(3).normal(size=(9, 13)).astype(np.float32)
PNG = [encoded(".png", np.roll(PHOTO, 40 * shift, 1)) for shift in range(9)]
TEXTS = [" ".join(["the", "film", "is", "good", "bad"][: 1 + i % 5]).encode() for i in range(9)]
DOUBLED = """
from pdserver.handlers.base import BaseHandler

class Doubled(BaseHandler):
    def postprocess(self, outputs):
        return (2 * outputs["fetch_name_0"]).tolist()
"""
WAYS: dict[str, tuple[dict[str, Any], Callable[[int], list[Request]]]] = {
    "a row to a request": ({}, lambda count: [json(row) for row in ROWS[:count]]),
    "rows of one request": ({}, lambda count: [json(ROWS[:count].tolist())]),
    "names and rows": ({}, lambda count: [json({"x": row.tolist()}) for row in ROWS[:count]]),
    "tensors": ({}, lambda count: [typed(tensor("x", row[None])) for row in ROWS[:count]]),
    "one tensor": ({}, lambda count: [typed(tensor("x", ROWS[:count]))]),
    "of one's own": ({"source": DOUBLED}, lambda count: [json(row) for row in ROWS[:count]]),
    "images": (
        {"model": "pir/digits.json", "handler": "image_classifier", "config": GRAY},
        lambda count: [body(png) for png in PNG[:count]],
    ),
    "texts": (
        {
            "model": "pir/sentiment.json",
            "handler": "text_classifier",
            "files": VOCABULARY,
            "config": {"text": {"top_k": 3}},
        },
        lambda count: [body(text) for text in TEXTS[:count]],
    ),
}


@pytest.fixture
def given(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The rows of each run."""
    sizes: list[int] = []
    run = PaddleModel.run

    def spy(model: PaddleModel, inputs: Arrays) -> Arrays:
        sizes.append(len(next(iter(inputs.values()))))
        return run(model, inputs)

    monkeypatch.setattr(PaddleModel, "run", spy)
    return sizes


def numbers(outcomes: list[Outcome]) -> list[float]:
    """All that the answers hold, in order."""
    found: list[float] = []
    for outcome in outcomes:
        assert isinstance(outcome, Reply), outcome
        said = [array(held).tolist() for held in outcome.tensors] or orjson.loads(outcome.body)
        found += flat(said)
    return found


def flat(said: Any) -> list[float]:
    if isinstance(said, dict | list):
        return [number for part in (said.values() if isinstance(said, dict) else said) for number in flat(part)]
    return [float(said)]


@pytest.mark.parametrize("way", WAYS)
def test_batches_have_allowed_sizes_and_the_answers_of_any_size(load: Load, given: list[int], way: str) -> None:
    options, requests = WAYS[way]
    free: Service = load(**options)
    held: Service = load(**options, allowed_batch_sizes=SIZES)
    for count, sizes in GIVEN.items():
        expected = numbers(free.run(requests(count)))
        given.clear()
        got = numbers(held.run(requests(count)))
        np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-6)
        assert given == sizes, count


def test_a_model_whose_first_axis_is_no_batch_keeps_it(
    load: Load, given: list[int], caplog: pytest.LogCaptureFixture
) -> None:
    service: Service = load("pir/linear.json", config={"interface": {"batched": False}}, allowed_batch_sizes=SIZES)
    given.clear()
    service.run([typed(tensor("x", ROWS[:3]))])
    assert given == [3]
    assert "allowedBatchSizes has no effect" in caplog.text


def test_a_model_of_fixed_batch_size_keeps_it(load: Load, given: list[int]) -> None:
    service: Service = load("pir/pairs.json", allowed_batch_sizes=(3, 5))
    given.clear()
    service.run([typed(tensor("x", ROWS[:3]))])
    assert given == [2, 2]
