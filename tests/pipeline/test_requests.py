"""What clients send and get: bodies that do not fit are their own fault, and answers keep their form."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from pdarchiver.pipeline.graph import Type
from pdserver.engine.pipeline.answers import reply_of
from pdserver.engine.pipeline.requests import values_of
from pdserver.errors import InvalidRequest
from pdserver.pipeline.values import TEXT, Item, json_item
from pdserver.tensors import tensor
from pdserver.types import Part, Request

INPUTS = {"words": Type("text"), "options": Type("json")}
TENSOR = {"x": Type("tensor", "float32", (-1, 3))}


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b'{"words": 5, "options": 1}', 'input "words" is text: expected a string, got 5'),
        (b'{"words": null, "options": 1}', 'input "words" is text: expected a string, got null'),
        (b'{"words": ["a"], "options": 1}', 'input "words" is text: expected a string, got ["a"]'),
        (b"hello", "this pipeline takes words, options: send a form with a part for each, or a JSON object; the body"),
        (b"", "this pipeline takes words, options: send a form with a part for each, or a JSON object; the body"),
        (b"[1]", "the body is JSON, but no object: send one with the inputs words, options"),
        (b'{"words": "a"}', "input options is missing: this pipeline takes words, options"),
    ],
)
def test_a_body_that_does_not_fit_is_told_what_would(body: bytes, message: str) -> None:
    given = Item(Part("body", "application/json", body))
    with pytest.raises(InvalidRequest) as caught:
        values_of(Request("m", None, "id", [given.given]), [given], INPUTS, frozenset(INPUTS))
    assert str(caught.value).startswith(message)


@pytest.mark.parametrize(
    ("kind", "body", "found"),
    [
        ("text", b' {"x": "hello"}', b"hello"),
        ("text", b'{"y": "hello"}', b'{"y": "hello"}'),
        ("text", b'{"x": "hello", "y": 1}', b'{"x": "hello", "y": 1}'),
        ("text", b"hello", b"hello"),
        ("bytes", b'{"x": "aGVsbG8="}', b"hello"),
        ("bytes", b"\x89PNG {", b"\x89PNG {"),
        ("list", b'{"x": [1, 2]}', b"[1,2]"),
        ("list", b"[1, 2]", b"[1, 2]"),
        ("json", b'{"x": 1}', b'{"x": 1}'),
    ],
)
def test_the_only_input_may_be_named_in_json(kind: Any, body: bytes, found: bytes) -> None:
    """A pipeline of text was given the whole of {"text": "…"} as the text, and answered something wrong."""
    given = Item(Part("body", "application/json", body))
    inputs = {"x": Type(kind)}
    [value] = values_of(Request("m", None, "id", [given.given]), [given], inputs, frozenset(inputs)).values()
    assert isinstance(value, Item)
    assert value.data == found
    plain = Item(Part("body", "application/octet-stream", body))
    [value] = values_of(Request("m", None, "id", [plain.given]), [plain], inputs, frozenset(inputs)).values()
    assert isinstance(value, Item)
    assert value.data == body


@pytest.mark.parametrize("body", [b'{"x": null}', b'{"x": 5}', b'{"x": ["a"]}'])
def test_the_only_input_that_is_named_and_no_text_is_refused(body: bytes) -> None:
    given = Item(Part("body", "application/json; charset=utf-8", body))
    with pytest.raises(InvalidRequest, match='input "x" is text: expected a string'):
        values_of(Request("m", None, "id", [given.given]), [given], {"x": Type("text")}, frozenset("x"))


@pytest.mark.parametrize(
    ("body", "found"),
    [(b"5", []), (b"[]", [0]), (b"[1, 2, 3]", [3]), (b"[[1, 2]]", [1, 2]), (b"[[[1, 2, 3]]]", [1, 1, 3])],
)
def test_numbers_of_another_shape_reach_no_step(body: bytes, found: list[int]) -> None:
    """A step in Python could only fail with what numpy says."""
    given = Item(Part("body", "application/json", body))
    with pytest.raises(InvalidRequest) as caught:
        values_of(Request("m", None, "id", [given.given]), [given], TENSOR, frozenset(TENSOR))
    assert str(caught.value) == f'input "x": expected float32[-1, 3], got shape {found}'
    right = Item(Part("body", "application/json", b"[[1, 2, 3], [4, 5, 6]]"))
    assert values_of(Request("m", None, "id", [right.given]), [right], TENSOR, frozenset(TENSOR)).keys() == {"x"}


def test_numbers_are_as_short_as_from_a_model() -> None:
    """0.1 of float32, and not what it is in float64; also as a scalar, in lists and without rows."""
    request = Request("m", None, "id", [])

    def answered(value: Item | list[Item]) -> bytes:
        return bytes(reply_of(request, {"x": value}, None, 1).body)

    for dtype in ("float32", "float64"):
        assert answered(Item(tensor("x", np.full((1, 2), 0.1, dtype)))) == b"[[0.1,0.1]]"
        assert answered(Item(tensor("x", np.array(0.1, dtype)))) == b"0.1"
        assert answered([Item(tensor("x", np.array([0.1], dtype)))]) == b"[[0.1]]"
        assert answered(Item(tensor("x", np.zeros((0, 2), dtype)))) == b"[]"
    assert answered(Item(tensor("x", np.array([0.5], np.float16)))) == b"[0.5]"
    assert answered(Item(tensor("x", np.array([True, False])))) == b"[true,false]"
    assert answered(Item(tensor("x", np.array([2**64 - 1], np.uint64)))) == b"[18446744073709551615]"
    assert answered(Item(tensor("x", np.array([np.nan], np.float32)))) == b"[null]"
    assert answered(Item(tensor("x", np.array([0.5], np.float32), "bfloat16"))) == b"[0.5]"


def test_outputs_that_are_not_there_do_not_change_the_form_of_an_answer() -> None:
    request = Request("m", None, "id", [])
    text = Item(Part("text", TEXT, b"a"))
    assert reply_of(request, {"text": text}, None, 1).body == b"a"
    assert reply_of(request, {"text": text}, None, 2).body == b'{"text":"a"}'
    assert reply_of(request, {"text": text, "more": json_item(1)}, None, 2).body == b'{"text":"a","more":1}'
    assert reply_of(request, {}, None, 1).body == reply_of(request, {}, None, 2).body == b"{}"
