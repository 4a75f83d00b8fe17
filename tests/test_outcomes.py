"""Whatever a handler answers or raises, and whatever a request has in it: an answer, and the worker lives."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import requests

from tests.conftest import Lent, pack_handler
from tests.running import RunningServer
from tests.zoo.unsendable import ALONE, FAILING

TOGETHER = "batchSize: 2\nmaxBatchDelay: 600000\n"


def at_once(server: RunningServer, target: str, *bodies: Any) -> list[requests.Response]:
    """As one batch, where the model's settings say so."""

    def ask(body: Any) -> requests.Response:
        how: dict[str, Any] = {"data": body} if isinstance(body, str) else {"json": body}
        headers = {"content-type": "application/json"}
        return requests.post(f"{server.inference}{target}", headers=headers, timeout=60, **how)

    with ThreadPoolExecutor(len(bodies)) as threads:
        return list(threads.map(ask, bodies))


def only_pid(server: RunningServer, model: str) -> int:
    [pid] = server.pids(model)
    return pid


# What handlers do


def test_whatever_a_handler_raises_or_answers_there_is_an_outcome(lent: Lent) -> None:
    server = lent("unsendable")
    before = only_pid(server, "unsendable")
    for op in FAILING:
        answer = server.predict("unsendable", json={"op": op})
        assert answer.status_code in (400, 500, 503), f"{op}: {answer.status_code} {answer.text[:1000]}"
        assert answer.json()["message"], op
        assert len(answer.content) < 50_000, op
    assert server.predict("unsendable", json={}).text == "ok"
    assert only_pid(server, "unsendable") == before


def test_what_is_wrong_with_one_answer_is_not_its_neighbours_fault(lent: Lent) -> None:
    server = lent("unsendable", config=TOGETHER)
    before = only_pid(server, "unsendable")
    for op in ALONE:
        bad, good = at_once(server, "/predictions/unsendable", {"op": op}, {})
        assert (bad.status_code, good.status_code, good.text) == (500, 200, "ok"), op
    assert only_pid(server, "unsendable") == before


def test_words_that_cannot_be_sent_are_told_as_they_are_written(lent: Lent) -> None:
    server = lent("unsendable")
    answer = server.predict("unsendable", json={"op": "half a pair in the handler's error"})
    assert (answer.status_code, answer.json()["message"]) == (503, "\\ud800")


def test_measurements_that_cannot_be_sent_are_left_out_and_no_others(lent: Lent) -> None:
    server = lent("unsendable")
    assert server.predict("unsendable", json={"op": "metrics"}).text == "ok"
    assert server.predict("unsendable", json={"op": "header"}).headers["x-label"] == "cat"
    server.logged("metrics left out")


@pytest.mark.parametrize(
    ("why", "words"),
    [
        ("half a pair", "ValueError: no \\ud800 here"),
        ("no words", "Mute"),
        ("no interface", "the handler's interface is not valid"),
        ("half a pair in the interface", "the handler's interface is not valid"),
    ],
)
def test_a_model_that_cannot_be_loaded_says_why(lent: Lent, why: str, words: str) -> None:
    archive = pack_handler(lent.store, "unloadable", config=f"why: {why}\n")
    answer = lent.server.manage("POST", f"/models?url={archive.name}&initial_workers=1&synchronous=true")
    assert answer.status_code >= 400
    assert words in answer.json()["message"]


# What requests have in them


_SOUND = '[{"name": "x", "datatype": "FP32", "shape": [1, 1, 2], "data": [1.5, 2.5]}]'
_WIDE = '[{"name": "x", "datatype": "FP32", "shape": [1, 0, 1267650600228229401496703205376], "data": []}]'


@pytest.mark.parametrize(
    "bad",
    [
        f'{{"inputs": {_SOUND}, "parameters": {{"x": 123456789012345678901234567890}}}}',
        f'{{"inputs": {_SOUND}, "parameters": {{"x": "\\ud800", "y": NaN}}}}',
        f'{{"inputs": {_SOUND}, "parameters": {{"\\ud800": 1, "y": NaN}}}}',
        f'{{"inputs": {_SOUND}, "id": "\\ud800", "parameters": {{"y": NaN}}}}',
        f'{{"inputs": {_WIDE}}}',
    ],
)
def test_a_request_that_no_worker_can_be_given_is_refused_alone(lent: Lent, bad: str) -> None:
    server = lent("twin", config="batchSize: 2\nmaxBatchDelay: 1000\n")
    before = only_pid(server, "twin")
    refused, answered = at_once(server, "/v2/models/twin/infer", bad, f'{{"inputs": {_SOUND}}}')
    assert (refused.status_code, answered.status_code) == (400, 200), refused.text + answered.text
    assert answered.json()["outputs"][0]["data"] == [1.5, 2.5]
    assert only_pid(server, "twin") == before
