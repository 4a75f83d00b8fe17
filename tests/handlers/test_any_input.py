"""Whatever JSON comes to a built-in handler: an answer, or a 400 that is short; and good neighbours are answered."""

from __future__ import annotations

import base64
import json as python_json
import math
from pathlib import Path
from typing import Any, Literal

import msgspec
import numpy as np
import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pdserver.errors import Kind
from pdserver.handlers.runtime.service import Service
from pdserver.types import Failure, Outcome, Reply, Request
from tests.handlers.conftest import Load
from tests.handlers.pictures import plain
from tests.handlers.requests import JSON, answer, body, json, refusal
from tests.handlers.test_text_classifier import VOCABULARY

SEVEN = (Path(__file__).parents[2] / "examples/digits/seven.png").read_bytes()
B64 = base64.b64encode(SEVEN).decode()
PICTURE = base64.b64encode(plain(200, 100, 50)).decode()
ROW = [0.5] * 13
DIGITS = {"image": {"color": "gray", "resize": [8, 8], "crop": None}}
ANY_NUMBER = st.integers() | st.floats(allow_nan=False, allow_infinity=False)
KEYS = st.sampled_from(["body", "data", "b64", "image", "text", "text_pair", "target", "x", "instances"]) | st.text(
    max_size=3
)
BAIT = st.sampled_from([B64, PICTURE, f"data:image/png;base64,{PICTURE}", "我", "the film", ROW, [ROW], [[]], 2**64])
VALUES = st.recursive(
    st.none() | st.booleans() | ANY_NUMBER | st.text(max_size=5) | BAIT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=3),
    max_leaves=8,
)
EXPLAINS = ("image_classifier", "text_classifier")


def model(load: Load, handler: str) -> tuple[Service, Any]:
    """A loaded model, and a good instance for it."""
    if handler == "base_handler":
        return load("pir/linear.json"), ROW
    if handler == "image_classifier":
        return load("pir/digits.json", handler, config=DIGITS), {"b64": B64}
    if handler == "text_classifier":
        return load("pir/sentiment.json", handler, files=VOCABULARY), "good film"
    return load("pir/segmenter.json" if handler == "image_segmenter" else "pir/rows-boxes.json", handler), PICTURE


def written(value: Any) -> Request:
    """Numbers of any size among it."""
    return body(python_json.dumps(value).encode(), JSON)


def wrapped(instances: list[Any], verb: Literal["predict", "explain"]) -> Request:
    """As KServe's door makes it."""
    made = written({"instances": instances})
    return msgspec.structs.replace(made, verb=verb, envelope="json" if verb == "predict" else "kserve")


def alike(some: Any, other: Any) -> bool:
    """But for what the last bits of numbers owe to the size of a batch."""
    if isinstance(some, dict):
        return list(some) == list(other) and all(alike(value, other[name]) for name, value in some.items())
    if isinstance(some, list):
        return len(some) == len(other) and all(map(alike, some, other))
    return math.isclose(some, other, rel_tol=1e-4) if isinstance(some, float) else bool(some == other)


def check(outcome: Outcome, allowed: tuple[int, ...] = ()) -> None:
    if isinstance(outcome, Failure):
        assert outcome.kind is Kind.INVALID or outcome.status in allowed, outcome
        assert len(outcome.message) < 1000
    else:
        orjson.loads(outcome.body)


@pytest.mark.parametrize(
    "handler", ["base_handler", "image_classifier", "text_classifier", "image_segmenter", "object_detector"]
)
def test_any_json_is_answered_or_refused_and_harms_no_neighbour(load: Load, handler: str) -> None:
    service, good = model(load, handler)
    [expected] = service.run([wrapped([good], "predict")])
    assert isinstance(expected, Reply), expected
    not_explained = () if handler in EXPLAINS else (501,)

    @settings(max_examples=40)
    @given(st.lists(VALUES, max_size=3), st.lists(VALUES, max_size=2))
    def as_instances(first: list[Any], second: list[Any]) -> None:
        neighbour, *others = service.run([wrapped(instances, "predict") for instances in ([good], first, second)])
        assert alike(answer(expected), answer(neighbour))
        for outcome in others:
            check(outcome)

    @settings(max_examples=40)
    @given(st.lists(VALUES, max_size=3))
    def explained(instances: list[Any]) -> None:
        for outcome in service.run([wrapped([good], "explain"), wrapped(instances, "explain")]):
            check(outcome, not_explained)

    @settings(max_examples=40)
    @given(VALUES)
    def as_the_body(value: Any) -> None:
        neighbour, other = service.run([json(good), written(value)])
        assert isinstance(neighbour, Reply), neighbour
        check(other)

    as_instances()
    explained()
    as_the_body()


@pytest.mark.parametrize(
    "instance",
    [
        {"b64": B64},
        {"data": B64},
        {"image": {"b64": B64}},
        B64,
        f"data:image/png;base64,{B64}",
        {"b64": f"data:image/png;base64,{B64}"},
        f"data:image/png;base64,{B64.replace('+', '%2B').replace('/', '%2F').replace('=', '%3D')}",
        base64.urlsafe_b64encode(SEVEN).decode(),
        base64.urlsafe_b64encode(SEVEN).decode().rstrip("="),
        base64.encodebytes(SEVEN).decode(),
    ],
    ids=lambda value: str(value)[:24],
)
def test_every_way_to_write_a_picture_in_json(load: Load, instance: Any) -> None:
    service, _ = model(load, "image_classifier")
    [expected] = service.run([json(B64)])
    [predicted] = service.run([wrapped([instance], "predict")])
    assert answer(predicted)["predictions"] == [answer(expected)]
    [bare] = service.run([json(instance)])
    assert answer(bare) == answer(expected)
    [explained] = service.run([wrapped([instance], "explain")])
    assert np.shape(answer(explained)["explanations"][0]) == (8, 8)


@pytest.mark.parametrize("text", ["not base64!", "a", "data:image/png;base64", "data:image/png;base64,%", "ü", "===="])
def test_text_that_is_no_base64_is_refused_without_repeating_it(load: Load, text: str) -> None:
    service, _ = model(load, "image_classifier")
    for request in (wrapped([text * 100_000], "predict"), wrapped([{"b64": text * 100_000}], "predict"), json(text)):
        [outcome] = service.run([request])
        assert refusal(outcome).startswith("invalid: ")
        assert len(refusal(outcome)) < 300


@pytest.mark.parametrize("instance", ["我", "x"])
def test_a_text_of_one_letter_is_a_text(load: Load, instance: str) -> None:
    service, _ = model(load, "text_classifier")
    [alone] = service.run([json(instance)])
    [predicted] = service.run([wrapped([instance], "predict")])
    assert answer(predicted) == {"predictions": [answer(alone)]}


@pytest.mark.parametrize("value", [None, 5, ["a", 1], [["one"]], {"text": 5}, {"data": [5]}, [None], [], {}])
def test_what_is_no_text_is_refused_alone(load: Load, value: Any) -> None:
    service, _ = model(load, "text_classifier")
    first, bad, last = service.run([json("good film"), json(value), json("bad film")])
    assert refusal(bad).startswith(("invalid: expected a text", "invalid: expected at least one text"))
    assert list(answer(first)) != list(answer(last)) or answer(first) != answer(last)
    assert service.times.executions == 1


def test_bytes_that_a_handler_answers_are_base64_in_json(load: Load) -> None:
    source = (
        "def handle(data, context):\n    return data and [row if i else {'a': row} for i, row in enumerate(data)]\n"
    )
    service = load(None, source=source, service_envelope="json")
    [outcome] = service.run([wrapped([{"b64": "AP8="}, {"b64": "AP8="}, 1], "predict")])
    assert answer(outcome) == {"predictions": [{"a": {"b64": "AP8="}}, {"b64": "AP8="}, 1]}
