"""The old web service of Paddle Serving: {"feed": [...], "fetch": [...]}."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

from tests.dialects.paddle.conftest import PaddleServer
from tests.dialects.paddle.tensors import ROW
from tests.dialects.paddle.test_pipeline import post, price

__all__ = ["price"]


def test_curl(paddle_server: PaddleServer, price: np.float32) -> None:
    answer = post(paddle_server, "uci/prediction", {"feed": [{"x": ROW}], "fetch": ["price"]})
    assert (answer.status_code, answer.headers["content-type"]) == (200, "application/json")
    assert list(answer.json()) == ["result"]
    assert np.float32(answer.json()["result"].pop("price")).tolist() == [[price]]


@pytest.mark.parametrize(
    ("feed", "fetch", "rows"),
    [
        ([{"x": ROW}, {"features": [ROW]}, {"x": np.reshape(ROW, (13, 1)).tolist()}], ["price"], 3),
        ({"x": ROW}, [], 1),
        ([{"x": ROW}] * 8, ["own"], 8),
    ],
)
def test_rows_in_any_nesting_are_one_batch(
    paddle_server: PaddleServer, price: np.float32, feed: Any, fetch: list[str], rows: int
) -> None:
    asked = [paddle_server.own_name if name == "own" else name for name in fetch]
    answer = post(paddle_server, "uci/prediction", {"feed": feed, "fetch": asked})
    given = np.float32(answer.json()["result"]["price"])
    assert given.shape == (rows, 1)
    assert np.allclose(given, price)


def test_a_handler_is_given_the_one_item(paddle_server: PaddleServer) -> None:
    body = {"feed": [{"city": "北京", "rooms": [3]}], "fetch": ["price"]}
    result = post(paddle_server, "appraiser/prediction", body).json()["result"]
    assert (result["price"], result["given"]["city"]) == ("[[1.0]]", "北京")
    said = post(paddle_server, "appraiser/prediction", {"feed": [{"words": "none"}], "fetch": []})
    assert said.json() == {"result": "none"}
    long = post(paddle_server, "appraiser/prediction", {"feed": [{"city": 2**80}], "fetch": []})
    assert long.json()["result"]["given"] == {"city": 2.0**80}, "as at /predictions"
    two = post(paddle_server, "appraiser/prediction", {"feed": [{}, {}], "fetch": []})
    assert (two.status_code, "send them one by one" in two.json()["result"]) == (200, True)


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ({"feed": [], "fetch": ["price"]}, "empty input"),
        ({"feed": [{"y": ROW}], "fetch": ["price"]}, "unknown input 'y'"),
        ({"feed": [{}], "fetch": ["price"]}, "feed[0]: 'features' is missing"),
        ({"feed": [{"x": ROW[1:]}], "fetch": ["price"]}, "Expected [-1,13], got [1,12]"),
        ({"feed": [{"x": [[1, 2]]}], "fetch": ["price"]}, "feed[0], 'features': 2 elements of shape [1, 2] do not fit"),
        ({"feed": [{"x": [ROW, ROW[1:]]}], "fetch": ["price"]}, "feed[0], 'features' has lists of different lengths"),
        ({"feed": [{"x": ROW}, {"x": ROW[1:]}], "fetch": ["price"]}, "the rows of 'features' differ in shape"),
        ({"feed": [{"x": "x"}], "fetch": ["price"]}, "feed[0], 'features'"),
        ({"feed": [{"x": ["1"] * 13}], "fetch": ["price"]}, "must be a list of numbers"),
        ({"feed": [{"x": ROW}], "fetch": ["cost"]}, "unexpected inference output 'cost'"),
        ({"feed": [{"x": ROW}] * 9, "fetch": ["price"]}, "batch-size must be <= 8"),
    ],
)
def test_what_is_wrong_with_the_input_is_the_result(paddle_server: PaddleServer, body: Any, words: str) -> None:
    answer = post(paddle_server, "uci/prediction", body)
    assert (answer.status_code, list(answer.json())) == (200, ["result"])
    assert words in answer.json()["result"]


@pytest.mark.parametrize(
    ("model", "body", "status", "words"),
    [
        ("uci", {"feed": [{"x": ROW}]}, 400, '"fetch"'),
        ("uci", {"fetch": ["price"]}, 400, '"feed"'),
        ("uci", {"feed": 1, "fetch": []}, 400, '"feed"'),
        ("uci", {"feed": [1], "fetch": []}, 400, '"feed"'),
        ("uci", {"feed": [], "fetch": "price"}, 400, '"fetch"'),
        ("nobody", {"feed": [{"x": ROW}], "fetch": ["price"]}, 404, "Model not found: nobody"),
        ("appraiser", {"feed": [{"raise": "no house"}], "fetch": []}, 500, "no house"),
    ],
)
def test_what_is_no_request_has_a_status(
    paddle_server: PaddleServer, model: str, body: Any, status: int, words: str
) -> None:
    answer = post(paddle_server, f"{model}/prediction", json.dumps(body).encode())
    assert answer.status_code == status
    assert words in answer.json()["error"]


def test_the_fields_of_an_item_are_limited(paddle_server: PaddleServer) -> None:
    many = {str(number): "" for number in range(1001)}
    for body in ({"feed": [many], "fetch": []}, {"key": list(many), "value": list(many)}):
        assert "more than 1000 " in post(paddle_server, "appraiser/prediction", body).text
