"""Requests that a worker answers before it is ready."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from pdserver.errors import LoadFailed
from tests.handlers.conftest import Load

COUNTING = """
from pdserver.handlers.base import BaseHandler

class Counting(BaseHandler):
    seen = []
    def handle_tensors(self, inputs):
        self.seen.append({name: (x.shape, float(x.min()), float(x.max())) for name, x in inputs.items()})
        return self.inference(inputs)
    def describe_handle(self):
        return self.seen
"""


def seen(load: Load, *samples: dict[str, Any], **how: Any) -> list[dict[str, Any]]:
    """What a model with 13 floats as input was given until it was ready."""
    service = load("pir/linear.json", source=COUNTING, config={"warmup": list(samples)}, **how)
    assert service._entry is not None
    found: list[dict[str, Any]] = service._entry.instance.seen
    return found


def test_zeros_of_the_models_own_shape_as_often_as_asked(load: Load) -> None:
    assert seen(load, {"count": 2}) == [{"x": ((1, 13), 0.0, 0.0)}] * 2


def test_what_is_measured_meanwhile_does_not_count(load: Load) -> None:
    source = COUNTING.replace(
        "def handle_tensors(self, inputs):",
        """def initialize(self, context):
        super().initialize(context)
        context.metrics.add_counter("Loads", 1)
    def handle_tensors(self, inputs):
        self.context.metrics.add_counter("Requests", 1)""",
    )
    service = load("pir/linear.json", source=source, config={"warmup": [{}]})
    assert [measured.name for measured in service.take_measured()] == ["Loads"]


def test_random_numbers_of_a_shape(load: Load) -> None:
    [given] = seen(load, {"inputs": {"x": {"shape": [7, 13], "data": "random"}}})
    shape, low, high = given["x"]
    assert shape == (7, 13)
    assert 0 <= low < high <= 1


def test_a_file(load: Load) -> None:
    sample = {"inputs": {"x": {"shape": [2, 13], "file": "x.bin"}}}
    files = {"x.bin": np.full((2, 13), 5, np.float32).tobytes()}
    assert seen(load, sample, files=files) == [{"x": ((2, 13), 5.0, 5.0)}]


@pytest.mark.parametrize(
    ("sample", "words"),
    [
        ({"name": "first", "inputs": {"y": {}}}, "warmup first: the model has no input y"),
        ({"inputs": {"x": {"shape": [2, 12]}}}, r"x: float32 of shape \[2, 12\]: the model takes float32 of shape"),
        ({"inputs": {"x": {"dtype": "int64"}}}, r"int64 of shape \[1, 13\]: the model takes float32"),
        ({"inputs": {"x": {"file": "../x"}}}, "file ../x has a component that is empty, '.' or '..'; name a file of"),
        ({"inputs": {"x": {"file": "\0"}}}, r"file \\x00 has a control character"),
        ({"inputs": {"x": {"file": "x.bin"}}}, "file x.bin cannot be read"),
        ({"inputs": {"x": {"shape": [100000000, 13]}}}, "at most 1073741824 bytes"),
        ({"count": 0}, "warmup: .*count"),
        ({"counts": 1}, "warmup: .*counts"),
    ],
)
def test_what_is_wrong_with_a_request(load: Load, sample: dict[str, Any], words: str) -> None:
    with pytest.raises(LoadFailed, match=words):
        seen(load, sample)


def test_a_model_that_cannot_answer_is_not_ready(load: Load) -> None:
    failing = COUNTING.replace("return self.inference(inputs)", "raise ValueError('too cold')")
    with pytest.raises(LoadFailed, match=r"^warmup 0: .*too cold"):
        load("pir/linear.json", source=failing, config={"warmup": [{}]})
