"""Which requests share a run of the model: those of models that are known to work row by row, and no others."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pdserver.errors import LoadFailed
from pdserver.handlers.runtime.service import Service
from pdserver.types import Outcome, Reply, Request
from tests.handlers.conftest import Load
from tests.handlers.pictures import plain
from tests.handlers.requests import answer, body, json, refusal, tensor
from tests.handlers.test_text_classifier import VOCABULARY
from tests.handlers.test_typed import typed, values
from tests.logged import own_records

ROWS = st.lists(st.lists(st.integers(-2, 2), min_size=6, max_size=6), min_size=1, max_size=4)
ODD = ("nonzero", "selected", "beside", "neighbours", "places", "learns", "decides", "turned", "pairs")


def runs(service: Service) -> list[dict[str, tuple[int, ...]]]:
    """Of the model, from now on: the shapes of what it is given."""
    handler = service._entry.instance  # type: ignore[union-attr]  # it is loaded
    run, seen = handler.predictor.run, list[dict[str, tuple[int, ...]]]()

    def noted(inputs: Any) -> Any:
        seen.append({name: array.shape for name, array in inputs.items()})
        return run(inputs)

    handler.predictor.run = noted
    return seen


def said(outcome: Outcome) -> Any:
    """All of an outcome, to be compared."""
    if not isinstance(outcome, Reply):
        return refusal(outcome)
    if outcome.tensors:
        return {name: array.tolist() for name, array in values(outcome).items()}
    return orjson.loads(outcome.body)


def as_json(row: list[int]) -> Request:
    return json(row)


def as_tensor(row: list[int]) -> Request:
    return typed(tensor("x", np.array([row], np.float32)))


@pytest.mark.parametrize("model", ODD)
def test_an_answer_does_not_depend_on_who_else_asks(load: Load, odd_models: Path, model: str) -> None:
    service = load(str(odd_models / f"{model}.json"))

    @settings(max_examples=25)
    @given(ROWS, st.sampled_from([as_json, as_tensor]))
    def asked(rows: list[list[int]], make: Any) -> None:
        alone = [said(service.run([make(row)])[0]) for row in rows]
        assert [said(outcome) for outcome in service.run([make(row) for row in rows])] == alone

    asked()


@pytest.mark.parametrize("model", ODD)
def test_why_requests_run_one_by_one_is_said_once(
    load: Load, odd_models: Path, model: str, caplog: pytest.LogCaptureFixture
) -> None:
    operation = {
        "neighbours": "mean",
        "places": "arange",
        "learns": "batch_norm",
        "decides": "if",
        "pairs": "mean",
        "selected": "masked_select",
    }
    load(str(odd_models / f"{model}.json")).run([json([1] * 6)])
    [record] = [record for record in own_records(caplog) if "one by one" in record.message]
    if model != "turned":
        assert f"(operation {operation.get(model, 'nonzero')})" in record.message
    caplog.clear()
    load(str(odd_models / f"{model}.json"), config={"interface": {"batched": False}})
    load(str(odd_models / f"{model}.json"), batch_size=1)
    assert not own_records(caplog)


def test_what_is_not_rows_is_given_whole_and_what_may_be_as_a_row(load: Load, odd_models: Path) -> None:
    row = [1, 0, 0, 2, 0, 0]
    [beside] = load(str(odd_models / "beside.json")).run([json(row)])
    assert answer(beside) == {"fetch_name_0": [[2, 0, 0, 4, 0, 0]], "fetch_name_1": [[0, 0], [0, 3]], "fetch_name_2": 3}
    [decides] = load(str(odd_models / "decides.json")).run([json(row)])
    assert answer(decides) == {"fetch_name_0": row}
    whole = load(str(odd_models / "decides.json"), config={"interface": {"batched": False}})
    assert answer(whole.run([json(row)])[0]) == {"fetch_name_0": [row]}
    [turned] = load(str(odd_models / "turned.json")).run([json([row, row])])
    assert answer(turned) == {"fetch_name_0": [[value, value] for value in row]}


def test_who_says_that_it_is_the_batch_is_believed(load: Load, odd_models: Path) -> None:
    service = load(str(odd_models / "decides.json"), config={"interface": {"batched": True}})
    seen = runs(service)
    service.run([json([0] * 6), json([1] * 6)])
    service.run([as_tensor([0] * 6), as_tensor([1] * 6)])
    assert seen == [{"x": (2, 6)}] * 2


@pytest.mark.parametrize(
    ("model", "words"),
    [
        ("nonzero", 'how long the first axis of the output "fetch_name_0" is depends on the data (nonzero)'),
        ("selected", "depends on the data (masked_select)"),
        ("beside", '"fetch_name_2" is a single value, without a batch'),
        ("scaled", '"factor" is a single value, without a batch'),
    ],
)
def test_who_says_so_against_what_the_model_shows_is_not(load: Load, odd_models: Path, model: str, words: str) -> None:
    with pytest.raises(LoadFailed) as caught:
        load(str(odd_models / f"{model}.json"), config={"interface": {"batched": True}})
    assert words in str(caught.value)


def test_a_model_of_fixed_size_that_mixes_rows_takes_no_others(load: Load, odd_models: Path) -> None:
    service = load(str(odd_models / "pairs.json"), config={"interface": {"batched": False}})
    two, one = service.run([json([[1] * 6, [3] * 6]), json([1] * 6)])
    assert answer(two) == {"fetch_name_0": [[-1] * 6, [1] * 6]}
    assert "expected a first axis of length 2; it was left out" in refusal(one)


# Built-in handlers, and those of one's own

PICTURES = {"image": {"resize": [8, 8], "crop": None, "softmax": True}}


def pictures(count: int) -> list[Request]:
    return [body(plain(60 * i, 30 * i, 20 * i)) for i in range(count)]


@pytest.mark.parametrize("batched", [None, False, True])
def test_pictures_share_a_run_only_where_they_do_not_mix(load: Load, odd_models: Path, batched: bool | None) -> None:
    config = {**PICTURES, "interface": {"batched": batched}}
    service = load(str(odd_models / "pictures.json"), "image_classifier", config=config)
    alone = [answer(service.run([one])[0]) for one in pictures(3)]
    seen = runs(service)
    together = [answer(outcome) for outcome in service.run(pictures(3))]
    assert (together == alone) is (batched is not True)
    assert len(seen) == (1 if batched else 3)


def test_what_the_built_in_handlers_need_is_known_of_the_usual_models(load: Load) -> None:
    for model, handler in (
        ("colours", "image_classifier"),
        ("segmenter", "image_segmenter"),
        ("segmenter-scores", "image_segmenter"),
        ("counted-boxes", "object_detector"),
        ("rows-boxes", "object_detector"),
        ("detector", "object_detector"),
    ):
        service = load(f"pir/{model}.json", handler, config=PICTURES if handler == "image_classifier" else {})
        seen = runs(service)
        assert all(isinstance(outcome, Reply) for outcome in service.run(pictures(3)))
        assert [shapes["image"][0] for shapes in seen] == [3], model
    texts = load("pir/sentiment.json", "text_classifier", files=VOCABULARY)
    seen = runs(texts)
    assert all(isinstance(outcome, Reply) for outcome in texts.run([json("good"), json("bad film")]))
    assert len(seen) == 1


def test_boxes_without_counts_and_what_is_said_against_counts(load: Load) -> None:
    for model, config in (("one-boxes", {}), ("counted-boxes", {"interface": {"batched": False}})):
        service = load(f"pir/{model}.json", "object_detector", config=config)
        seen = runs(service)
        assert all(isinstance(outcome, Reply) for outcome in service.run(pictures(2)))
        assert [shapes["image"][0] for shapes in seen] == [1, 1], model


OWN = """
from pdserver.handlers.base import BaseHandler

class Own(BaseHandler):
    def preprocess(self, data):
        self.context.set_response_header(len(data) - 1, "x-of", str(len(data)))
        return super().preprocess(data)
"""
WHOLE = """
    def postprocess(self, outputs):
        return [outputs["fetch_name_0"].tolist()] * len(self.places)
"""


def test_a_handler_that_only_reads_leaves_the_rest_to_the_model(load: Load, odd_models: Path) -> None:
    service = load(str(odd_models / "nonzero.json"), source=OWN)
    first, second = service.run([json([1, 0, 0, 0, 0, 1]), json([0] * 6)])
    assert [answer(first), answer(second)] == [{"fetch_name_0": [[0, 0], [0, 5]]}, {"fetch_name_0": []}]
    assert [outcome.headers for outcome in (first, second) if isinstance(outcome, Reply)] == [[("x-of", "1")]] * 2


def test_a_handler_that_makes_answers_of_a_whole_batch_is_given_one(load: Load, odd_models: Path) -> None:
    service = load(str(odd_models / "nonzero.json"), source=OWN + WHOLE)
    assert [answer(outcome) for outcome in service.run([json([1, 0, 0, 0, 0, 0]), json([0, 1, 0, 0, 0, 0])])] == [
        [[0, 0], [1, 1]]
    ] * 2


def test_a_row_that_cannot_be_read_fails_alone(load: Load, odd_models: Path) -> None:
    for model in ("nonzero", "decides"):
        good, bad, other = load(str(odd_models / f"{model}.json")).run([json([1] * 6), json([1] * 5), json([1] * 6)])
        assert answer(good) == answer(other)
        assert "expected float32 of shape [6], got shape [5]" in refusal(bad)
