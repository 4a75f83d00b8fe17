"""A batch that failed is run once more, request by request, so that each request has its own answer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pdserver.configuration.model import ModelSpec
from pdserver.errors import Kind
from pdserver.handlers.context import Context
from pdserver.handlers.runtime.isolation import Isolation
from pdserver.types import Failure, Outcome, Reply, Request
from tests.handlers.conftest import Load
from tests.handlers.requests import answer, json, tensor
from tests.handlers.test_typed import typed, values

# Runs a batch at once, and raises for the whole of it when one of its rows is bad.
FRAGILE = """
import numpy as np
from pdserver.errors import InvalidRequest
from pdserver.handlers.base import BaseHandler, PredictionException

class Fragile(BaseHandler):
    def initialize(self, context):
        super().initialize(context)
        self.runs = []

    def handle(self, data, context):
        self.runs.append([row["body"] for row in data])
        for idx, row in enumerate(data):
            context.metrics.add_counter("Rows", 1, idx)
            context.set_response_header(idx, "x-of", str(row["body"]))
        self._check([row["body"] for row in data])
        return [{"got": data.pop(0)["body"]} for _ in range(len(data))]

    def handle_tensors(self, inputs):
        self._check([int(row[0]) for row in inputs["x"]])
        return {"got": inputs["x"][:, :1]}

    def _check(self, numbers):
        for number in numbers:
            if number == 1:
                raise ValueError("one")
            if number == 2:
                raise InvalidRequest("two")
            if number == 3:
                raise PredictionException("three", 422)
            if number == 4:
                raise SystemExit("four")
"""
BAD = {
    1: Failure(Kind.HANDLER, "ValueError: one"),
    2: Failure(Kind.INVALID, "two"),
    3: Failure(Kind.HANDLER, "three", 422),
    4: Failure(Kind.HANDLER, "SystemExit: four"),
}
NUMBERS = st.lists(st.integers(0, 9), min_size=1, max_size=8)


def row(number: int) -> Request:
    return typed(tensor("x", np.full((1, 13), number, np.float32)))


def test_each_request_has_its_own_answer(load: Load) -> None:
    service = load("pir/linear.json", source=FRAGILE)

    @given(NUMBERS)
    def of_opaque_requests(numbers: list[int]) -> None:
        for number, outcome in zip(numbers, service.run([json(number) for number in numbers]), strict=True):
            if number in BAD:
                assert outcome == BAD[number]
            else:
                assert answer(outcome) == {"got": number}
                assert isinstance(outcome, Reply)
                assert outcome.headers == [("x-of", str(number))]
        assert len(service.take_measured()) == len(numbers)  # and not twice as many

    @given(NUMBERS)
    def of_typed_requests(numbers: list[int]) -> None:
        for number, outcome in zip(numbers, service.run([row(number) for number in numbers]), strict=True):
            if number in BAD:
                assert outcome == BAD[number]
            else:
                assert values(outcome)["got"].tolist() == [[number]]

    @given(st.lists(st.tuples(st.booleans(), st.integers(0, 9)), min_size=1, max_size=8))
    def of_both(wanted: list[tuple[bool, int]]) -> None:
        outcomes = service.run([row(number) if tensors else json(number) for tensors, number in wanted])
        for (tensors, number), outcome in zip(wanted, outcomes, strict=True):
            if number in BAD:
                assert outcome == BAD[number]
            elif tensors:
                assert values(outcome)["got"].tolist() == [[number]]
            else:
                assert answer(outcome) == {"got": number}

    of_opaque_requests()
    of_typed_requests()
    of_both()


@pytest.mark.parametrize(
    "setting", [{"isolate_failures": False}, {"sequence_batching": True}, {"continuous_batching": True}], ids=str
)
@pytest.mark.parametrize("make", [json, row])
def test_what_must_not_run_twice_does_not(load: Load, setting: dict[str, Any], make: Any) -> None:
    outcomes = load("pir/linear.json", source=FRAGILE, **setting).run([make(7), make(2), make(8)])
    assert outcomes == [BAD[2]] * 3


def test_answers_that_have_begun_are_not_begun_again(load: Load) -> None:
    source = (
        "def handle(data, context):\n"
        "    if data is None: return\n"
        "    context.send_intermediate([str(len(data))] * len(data))\n"
        "    return [1 / row['body'] for row in data]\n"
    )
    sent: list[tuple[int, bytes]] = []
    outcomes = load(None, source=source).run([json(1), json(0)], lambda idx, piece: sent.append((idx, piece.body)))
    assert sent == [(0, b"2"), (1, b"2")]
    assert outcomes == [Failure(Kind.HANDLER, "ZeroDivisionError: division by zero")] * 2


def test_there_is_an_end_to_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With 10 s for the batch, of which nine may be used: who would have to be hurried shares the failure."""
    now = 0.0
    monkeypatch.setattr("pdserver.handlers.runtime.isolation.time.perf_counter", lambda: now)
    made = ModelSpec(
        name="m", version="1", url="", directory=str(tmp_path), handler="", manifest={}, model_config={},
        min_workers=1, max_workers=1, response_timeout_seconds=10.0,
    )  # fmt: skip
    alone = Isolation(made, Context(made, None))
    alone.begin()
    alone.attempt()
    now = 3.0

    def run(i: int) -> Outcome:
        nonlocal now
        now += 2.5
        return Reply(str(i).encode(), "")

    outcomes = alone.outcomes(ValueError("together"), 4, run)
    assert outcomes[:2] == [Reply(b"0", ""), Reply(b"1", "")]
    assert outcomes[2:] == [Failure(Kind.HANDLER, "ValueError: together")] * 2
