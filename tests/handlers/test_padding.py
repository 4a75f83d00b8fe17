"""Inputs that are filled up to buckets: few shapes for the engine, all of them run before the first request, and the
answers of inputs as they are."""

from __future__ import annotations

from typing import Any

import msgspec
import numpy as np
import pytest
from numpy.typing import NDArray

from pdarchiver.manifest import Signature, TensorSpec
from pdserver.errors import ConfigError, LoadFailed
from pdserver.handlers.runtime.engines.openvino import OpenVinoModel
from pdserver.handlers.runtime.engines.paddle import PaddleModel
from pdserver.handlers.runtime.padding import Ladder, Padding, PaddingSettings, of_model
from pdserver.handlers.runtime.rows import Arrays
from pdserver.handlers.runtime.service import Service
from pdserver.tensors import array
from pdserver.types import Interface, Port, Reply, Request
from tests.handlers.conftest import Load
from tests.handlers.requests import answer, json, request, tensor

LINES = "legacy/lines.pdmodel"
BUCKETS = [8, 16, 40]
SIZES = (1, 2, 4)
NUMBERS = np.random.default_rng(3)
OPAQUE = """
from pdserver.handlers.base import BaseHandler

class Twice(BaseHandler):
    def preprocess(self, data):
        return super().preprocess(data)
"""
OWN = """
import numpy as np
from pdserver.types import Interface, Port

class Own:
    seen = []
    def initialize(self, context): pass
    def handle(self, data, context): return data
    def interface(self):
        return Interface([Port("x", "int64", (-1, -1))], [Port("y", "int64", (-1, -1))], batched=True)
    def handle_tensors(self, inputs):
        self.seen.append(inputs["x"].shape)
        return {"y": inputs["x"] + 1}
"""


def picture(width: int) -> NDArray[Any]:
    return NUMBERS.random((1, 3, 16, width)).astype(np.float32)


def typed(*pictures: NDArray[Any]) -> list[Request]:
    return [msgspec.structs.replace(request(tensor("x", given)), typed=True) for given in pictures]


def outputs(outcome: Any) -> Arrays:
    assert isinstance(outcome, Reply), outcome
    return {given.name: array(given) for given in outcome.tensors}


@pytest.fixture(params=["paddle", "openvino"])
def engine(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def ran(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, ...]]:
    """The shapes that engines are given from now on."""
    shapes: list[tuple[int, ...]] = []
    for kind in (PaddleModel, OpenVinoModel):
        before = kind.run

        def run(self: Any, inputs: Arrays, before: Any = before) -> Arrays:
            shapes.append(inputs["x"].shape)
            result: Arrays = before(self, inputs)
            return result

        monkeypatch.setattr(kind, "run", run)
    return shapes


def load_lines(load: Load, engine: str, padding: dict[str, Any] | None = None, **how: Any) -> Service:
    config = {"predictor": {"engine": engine}, "interface": {"batched": True}}
    if padding is not None:
        config["padding"] = padding
    return load(LINES, config=config, **how)


def test_every_shape_is_run_before_the_first_request_and_no_other_one_after(
    load: Load, engine: str, ran: list[tuple[int, ...]]
) -> None:
    service = load_lines(load, engine, {"buckets": BUCKETS}, allowed_batch_sizes=SIZES)
    known = {(size, 3, 16, width) for size in SIZES for width in BUCKETS}
    assert set(ran) == known
    assert len(ran) == len(known)
    sizes = [size * width for size, _, _, width in ran]
    assert sizes == sorted(sizes, reverse=True), "smaller ones fit into what the largest took"
    del ran[:]
    for count in (1, 3, 7, 8):
        service.run(typed(*map(picture, NUMBERS.integers(4, 41, count))))
        service.run([json({"x": picture(int(width))[0]}) for width in NUMBERS.integers(4, 41, count)])
    assert ran
    assert set(ran) <= known


def test_answers_are_those_of_inputs_as_they_are(load: Load, engine: str) -> None:
    """Of typed requests and of others, alone and beside longer ones; an output of a quarter of the width as well."""
    plain = load_lines(load, engine)
    whole, quarter = (port.name for port in plain._typed.interface.outputs)  # type: ignore[union-attr]
    service = load_lines(load, engine, {"buckets": BUCKETS, "stride": {quarter: 4}}, allowed_batch_sizes=SIZES)
    pictures = [picture(width) for width in (12, 4, 40, 16, 8)]
    expected = [outputs(plain.run([given])[0]) for given in typed(*pictures)]
    found = list(map(outputs, service.run(typed(*pictures))))
    assert service.times.executions == 3, "one for each bucket"
    said = [answer(outcome) for outcome in service.run([json({"x": given[0]}) for given in pictures])]
    for wanted, of_typed, of_other in zip(expected, found, said, strict=True):
        for name in (whole, quarter):
            assert of_typed[name].shape == wanted[name].shape
            np.testing.assert_allclose(of_typed[name], wanted[name], rtol=1e-4, atol=1e-6)
            np.testing.assert_allclose(of_other[name], wanted[name][0], rtol=1e-4, atol=1e-6)


def test_an_output_of_a_part_of_the_input_is_as_long_as_what_the_input_reaches(load: Load) -> None:
    service = load_lines(load, "paddle", {"buckets": BUCKETS, "stride": 4})
    whole, quarter = (port.name for port in service._typed.interface.outputs)  # type: ignore[union-attr]
    [found] = map(outputs, service.run(typed(picture(13))))
    assert found[quarter].shape == (1, 5, 4)
    assert found[whole].shape == (1, 8, 16, 16), "the stride is of all outputs, and this one is not of a quarter"


def test_longer_than_all_buckets(load: Load, ran: list[tuple[int, ...]]) -> None:
    service = load_lines(load, "paddle", {"buckets": [8], "multiple": 32})
    del ran[:]
    [found] = map(outputs, service.run(typed(picture(33))))
    assert ran == [(1, 3, 16, 64)]
    assert next(iter(found.values())).shape == (1, 8, 16, 33)


def test_inputs_that_do_not_fit_are_refused_as_without_padding(load: Load) -> None:
    service = load_lines(load, "paddle", {"buckets": BUCKETS})
    good, bad = service.run([json({"x": picture(5)[0]}), json({"x": picture(5)[0, :2]})])
    assert len(answer(good)) == 2
    assert "expected float32 of shape [3, 16, any], got shape [2, 16, 5]" in str(bad)


@pytest.mark.parametrize("inputs", [{"y": picture(5)}, {"x": picture(5)[0]}], ids=["name", "axes"])
def test_inputs_of_other_names_or_axes_are_left_for_the_model_to_refuse(inputs: Arrays) -> None:
    signature = Signature((TensorSpec("x", "float32", (-1, 3, 16, -1), "x"),), ())
    padding = of_model({"padding": {"buckets": BUCKETS}}, signature, batched=True)
    assert padding is not None
    assert padding.run(lambda given: given, inputs) is inputs


def test_a_handler_that_takes_no_tensors(load: Load, ran: list[tuple[int, ...]]) -> None:
    service = load_lines(load, "paddle", {"buckets": BUCKETS}, source=OPAQUE)
    assert {shape[3] for shape in ran} == set(BUCKETS)
    del ran[:]
    assert len(answer(service.run([json({"x": picture(5)[0]})])[0])) == 2
    assert ran == [(1, 3, 16, 8)]


def test_a_handler_with_an_engine_of_its_own(load: Load) -> None:
    service = load(None, source=OWN, config={"padding": {"buckets": [2, 6]}}, allowed_batch_sizes=(1, 3))
    assert service._entry is not None
    seen = service._entry.instance.seen
    assert seen == [(3, 6), (3, 2), (1, 6), (1, 2)]
    [found] = map(outputs, service.run(typed(np.array([[4, 5, 6]]))))
    assert found["y"].tolist() == [[5, 6, 7]]
    assert seen[-1] == (1, 6)


@pytest.mark.parametrize(
    ("ladder", "multiple", "lengths"),
    [
        ({"min": 48, "max": 100}, 1, [48, 60, 75, 94, 100]),
        ({"min": 48, "max": 100}, 8, [48, 64, 80, 104]),
        ({"min": 1, "max": 5}, 1, [1, 2, 3, 4, 5]),
        ({"min": 7, "max": 7}, 1, [7]),
    ],
)
def test_a_ladder_of_lengths(ladder: dict[str, int], multiple: int, lengths: list[int]) -> None:
    assert PaddingSettings(buckets=Ladder(**ladder), multiple=multiple).lengths() == lengths


@pytest.mark.parametrize(
    ("padding", "message"),
    [
        ({"buckets": {"min": 9, "max": 8}}, "padding.buckets: min 9 is more than max 8"),
        ({"buckets": {"min": 9}}, "Object missing required field `max`"),
        ({"buckets": {"min": 1, "max": 9, "step": 2}}, "unknown field `step`"),
        ({"buckets": "auto"}, "padding.buckets: auto: Expected `object | array`"),
        ({"buckets": [0]}, "padding.buckets: [0]: Expected `int` >= 1"),
        (
            {"buckets": [8, 10**18]},
            "padding.buckets: inputs of shape x [8, 3, 16, 1000000000000000000] are too large",
        ),
        ({"buckets": list(range(4, 1004))}, "they make 1000 shapes, with 2 sizes of batches 2000 in all"),
        ({"stride": 0}, "padding.stride: 0"),
        ({"value": {"y": 1}}, "padding.value: the model has no input y"),
        ({"stride": {"y": 4}}, "padding.stride: the model has no output y"),
    ],
    ids=lambda given: given if isinstance(given, str) else "",
)
def test_wrong_settings(load: Load, padding: dict[str, Any], message: str) -> None:
    with pytest.raises(LoadFailed) as caught:
        load_lines(load, "paddle", padding)
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("value", "dtype", "takes"),
    [
        (10, "int64", "whole numbers from 0 to 9"),
        (-1, "int64", "whole numbers from 0 to 9"),
        (0.5, "int64", "whole numbers from 0 to 9"),
        ({"x": 200}, "int8", "whole numbers from -128 to 127"),
        (2, "bool", "whole numbers from 0 to 1"),
    ],
)
def test_a_value_that_the_input_cannot_have(value: Any, dtype: str, takes: str) -> None:
    """Else it is a client's input that would be refused, once it is filled up."""
    interface = Interface([Port("x", dtype, (-1, -1))], [Port("y", dtype, (-1, -1))], batched=True)
    ids_below = {"x": 10} if dtype == "int64" else {}
    with pytest.raises(ConfigError, match=f"padding.value: .*: the input x takes {takes}; value: {{x: 0}}"):
        Padding(PaddingSettings(value=value), interface, ids_below)
    Padding(PaddingSettings(value={"x": 1}), interface, ids_below)


def test_a_bucket_that_the_model_cannot_take(load: Load) -> None:
    with pytest.raises(LoadFailed, match=r"padding.buckets: the model cannot run with .* x \[8, 3, 16, 2\]"):
        load_lines(load, "openvino", {"buckets": [2, 8]})


def test_the_engine_keeps_the_operations_of_all_buckets(load: Load) -> None:
    service = load_lines(load, "paddle", {"buckets": BUCKETS}, allowed_batch_sizes=SIZES)
    assert service._entry is not None
    assert service._entry.instance.predictor._settings.engine_shapes == len(BUCKETS) * len(SIZES)
    config = {"predictor": {"engine_shapes": 5}, "padding": {"buckets": BUCKETS}, "interface": {"batched": True}}
    named = load(LINES, config=config)
    assert named._entry is not None
    assert named._entry.instance.predictor._settings.engine_shapes == 5
