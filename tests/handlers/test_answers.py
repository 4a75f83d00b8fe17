"""What a handler may answer, and what is made of it."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import orjson
import pytest

from pdserver.errors import InvalidRequest
from pdserver.handlers.context import Head
from pdserver.handlers.runtime.answers import PredictionException, outcome
from pdserver.types import Reply
from tests.handlers.conftest import paddle
from tests.handlers.requests import answer, refusal


@pytest.mark.parametrize("given", [b"\x00\xff", bytearray(b"\x00\xff"), memoryview(b"\x00\xff")])
def test_bytes(given: bytes) -> None:
    assert outcome(given, None) == Reply(b"\x00\xff", "application/octet-stream")


def test_text() -> None:
    assert outcome("naïve", None) == Reply("naïve".encode(), "text/plain; charset=utf-8")


SIX = np.arange(6, dtype=np.float32).reshape(2, 3)


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (None, None),
        ({"a": [1, 2.5, True, None, "é"]}, {"a": [1, 2.5, True, None, "é"]}),
        ({1: "a", None: "b", False: "c"}, {"1": "a", "null": "b", "false": "c"}),
        ({np.int64(3): {np.int32(4): np.float32(0.5)}}, {"3": {"4": 0.5}}),
        ((1, 2), [1, 2]),
        (SIX, [[0, 1, 2], [3, 4, 5]]),
        (SIX.T, [[0, 3], [1, 4], [2, 5]]),
        (SIX[:, ::2], [[0, 2], [3, 5]]),
        (SIX.astype(">f8"), [[0, 1, 2], [3, 4, 5]]),
        (SIX.astype(np.float16), [[0, 1, 2], [3, 4, 5]]),
        (SIX.astype(object), [[0, 1, 2], [3, 4, 5]]),
        (np.array(["a", "b"]), ["a", "b"]),
        (np.array(2.5), 2.5),
        (np.zeros((0, 3)), []),
        (
            [np.float32(0.1), np.float16(0.5), np.int8(-1), np.uint64(2**64 - 1), np.bool_(True)],
            [0.1, 0.5, -1, 2**64 - 1, True],
        ),
        ([math.nan, math.inf, np.float32("nan"), np.array([-np.inf])], [None, None, None, [None]]),
        ({"t": paddle.to_tensor([[1.0, 2.0]])}, {"t": [[1.0, 2.0]]}),
    ],
    ids=repr,
)
def test_json(given: Any, expected: Any) -> None:
    assert answer(outcome(given, None)) == expected


@pytest.mark.parametrize(
    ("given", "keys"),
    [
        ({1: 2, "1": 3}, "1 and '1'"),
        ([{"a": ({None: 2, "null": 3},)}], "None and 'null'"),
        ({np.float32(0.5): 1, 0.5001: 2, "0.5": 3}, "0.5 and '0.5'"),
    ],
)
def test_keys_that_are_one_in_json_are_refused(given: Any, keys: str) -> None:
    said = f"handler: the handler's answer has the keys {keys}, which are one in JSON: name them apart"
    assert refusal(outcome(given, None)) == said


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({1, 2}, "Type is not JSON serializable: set"),
        ([object()], "Type is not JSON serializable: object"),
        ({"image": b"png"}, "Type is not JSON serializable: bytes"),
        ([1j], "Type is not JSON serializable: complex"),
        (np.array([1j]), "Type is not JSON serializable: numpy.ndarray"),
        ({(1, 2): 3}, "Dict key must a type serializable"),
        ([2**64], "Integer exceeds 64-bit range"),
        ("\ud800", "surrogates not allowed"),
        (["\ud800"], "surrogates not allowed"),
        ({"\ud800": 1}, "surrogates not allowed"),
        ({1: 2, "\ud800": 3}, "surrogates not allowed"),
    ],
)
def test_what_cannot_be_sent(given: Any, message: str) -> None:
    refused = refusal(outcome(given, None))
    assert refused.startswith("handler: the handler's answer cannot be sent: ")
    assert message in refused


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (ValueError("\ud800"), "handler: ValueError: \\ud800"),
        (KeyError("\ud800"), "handler: KeyError: '\\ud800'"),
        (PredictionException("no \ud800", 503), "handler: no \\ud800"),
        (InvalidRequest("no \ud800"), "invalid: no \\ud800"),
    ],
    ids=repr,
)
def test_halves_of_surrogate_pairs_are_told_as_they_are_written(error: Exception, said: str) -> None:
    assert refusal(outcome(error, None)) == said


@pytest.mark.parametrize(
    ("head", "said"),
    [
        (Head(reason="\ud800"), "the handler set the reason phrase to '\\ud800': expected Latin-1"),
        (Head(content_type="text/\ud800"), "the handler set the content type to 'text/\\ud800': expected Latin-1"),
        (Head(headers={"x-a": "\ud800"}), "the handler set the header \"x-a\" to '\\ud800': expected Latin-1"),
        (Head(headers={"x-\ud800": "a"}), 'the handler set a header "x-\\ud800", which is not a valid name'),
    ],
)
def test_a_head_with_half_of_a_surrogate_pair_is_refused(head: Head, said: str) -> None:
    assert refusal(outcome("good", head)).startswith(f"handler: {said}")


def test_endless_and_hostile_answers() -> None:
    endless: list[Any] = []
    endless.append(endless)
    assert refusal(outcome(endless, None)).startswith("handler: ")

    class Hostile:
        def numpy(self) -> None:
            raise SystemError("no device")

    assert refusal(outcome([Hostile()], None)).startswith("handler: ")


def test_floats_are_written_as_short_as_they_can_be_read_back() -> None:
    values = np.random.default_rng(0).normal(size=1000).astype(np.float32)
    reply = outcome({"y": values}, None)
    assert isinstance(reply, Reply)
    back = np.array(orjson.loads(reply.body)["y"], np.float32)
    np.testing.assert_array_equal(back, values)
    assert len(reply.body) < 14 * 1000
