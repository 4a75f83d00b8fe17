"""docs/handlers.md: its handlers run; its tables, with those of docs/engines.md, name every setting and its default."""

from __future__ import annotations

import inspect
import re
from pathlib import Path

import msgspec
import numpy as np
import pytest
import yaml

from pdserver.handlers.image_classifier import ClassifierSettings
from pdserver.handlers.image_segmenter import SegmentationSettings
from pdserver.handlers.object_detector import DetectionSettings
from pdserver.handlers.runtime.batching import InterfaceSettings
from pdserver.handlers.runtime.chain import SequenceSettings
from pdserver.handlers.runtime.eager import EagerSettings
from pdserver.handlers.runtime.metrics import Metric, Metrics
from pdserver.handlers.runtime.padding import PaddingSettings
from pdserver.handlers.runtime.predictor_settings import PredictorSettings
from pdserver.handlers.runtime.warm_up import Sample, Values
from pdserver.handlers.text.tokens import TextSettings
from pdserver.handlers.vision.image_settings import ImageSettings
from pdserver.handlers.vision.occlusion import OcclusionSettings
from pdserver.tensors import array
from pdserver.types import Reply
from tests.handlers.conftest import Load
from tests.handlers.requests import answer, json, refusal, request, tensor

DOCS = Path(__file__).parents[2] / "docs"
PAGE = (DOCS / "handlers.md").read_text()
ENGINES = (DOCS / "engines.md").read_text()
WORDS = ("Doubler", "greeting", "whole number", "Lengths", "x-model", "Characters", "Logarithm")
"""Each in one example."""
EXAMPLES = {
    next(word for word in WORDS if word in source): source
    for source in re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
}
ROW = np.linspace(-1, 1, 13).tolist()


def test_there_are_as_many_examples_as_are_tested() -> None:
    assert len(EXAMPLES) == PAGE.count("```python") == len(WORDS)


def test_a_class(load: Load) -> None:
    config = {"outputs": {"fetch_name_0": "price"}}
    (plain,) = load("pir/linear.json", config=config).run([json(ROW)])
    (double,) = load("pir/linear.json", source=EXAMPLES["Doubler"], config=config).run([json(ROW)])
    assert answer(double)["double"] == pytest.approx(2 * answer(plain)["price"][0])


def test_a_function(load: Load) -> None:
    service = load(None, source=EXAMPLES["greeting"], config={"greeting": "Salut"})
    assert service.run([json("you")]) == [Reply(b"Salut, you", "text/plain; charset=utf-8")]


def test_refusing_one_request(load: Load) -> None:
    good, bad = load(None, source=EXAMPLES["whole number"]).run([json(1), json("x")])
    assert answer(good) == 2
    assert refusal(bad) == "invalid: expected a whole number"


def test_refusing_one_request_while_preparing(load: Load) -> None:
    bad, good = load("pir/linear.json", source=EXAMPLES["Lengths"]).run([json([1]), json(ROW)])
    assert refusal(bad) == "invalid: expected 13 numbers, got 1"
    assert answer(good)


def test_status_and_headers(load: Load) -> None:
    (reply,) = load(None, source=EXAMPLES["x-model"]).run([json(1)])
    assert isinstance(reply, Reply)
    assert (reply.status, reply.reason, reply.content_type) == (201, "Created", "text/html")
    assert reply.headers[0][0] == "x-model"


def test_measuring(load: Load) -> None:
    service = load(None, source=EXAMPLES["Characters"])
    service.run([json("four")])
    (measured,) = service.take_measured()
    assert (measured.name, measured.value) == ("Characters", 4)


def test_tensors(load: Load) -> None:
    config = {"outputs": {"fetch_name_0": "price"}}
    given = msgspec.structs.replace(request(tensor("x", np.array([ROW], np.float32))), typed=True)
    prices, logarithms = (
        service.run([given])[0]
        for service in (
            load("pir/linear.json", config=config),
            load("pir/linear.json", source=EXAMPLES["Logarithm"], config=config),
        )
    )
    assert isinstance(prices, Reply)
    assert isinstance(logarithms, Reply)
    assert logarithms.tensors[0].name == "log"
    np.testing.assert_allclose(array(logarithms.tensors[0]), np.log1p(np.abs(array(prices.tensors[0]))))


def test_the_table_of_measures() -> None:
    calls = re.findall(r"`(\w+\([^)]*\))`", PAGE.partition("| `context.metrics` |")[2].partition("\n\n")[0])
    assert len(calls) == 9
    for call in calls:
        name, _, parameters = call.partition("(")
        function = getattr(Metric if name == "add_or_update" else Metrics, name)
        assert [*inspect.signature(function).parameters][1:] == parameters.rstrip(")").split(", ")


@pytest.mark.parametrize(
    ("kind", "section"),
    [
        (ClassifierSettings, "`image:`"),
        (ImageSettings, "`image:` of pictures"),
        (DetectionSettings, "`detection:`"),
        (SegmentationSettings, "`segmentation:`"),
        (TextSettings, "`text:`"),
        (OcclusionSettings, "`explanation:`"),
        (PaddingSettings, "`padding:`"),
        (PredictorSettings, "`predictor:`"),
        (EagerSettings, "`eager:`"),
        (InterfaceSettings, "`interface:`"),
        (SequenceSettings, "`sequence:`"),
        (Sample, "`warmup:` of requests"),
        (Values, "`inputs:` of `warmup`"),
    ],
)
def test_tables_of_settings(kind: type[msgspec.Struct], section: str) -> None:
    table = "\n".join(page.partition(f"| {section} |")[2].partition("\n\n")[0] for page in (PAGE, ENGINES))
    documented = dict(re.findall(r"^\| `(\w+)` \| (.+?) \|", table, re.MULTILINE))
    fields = {field.name: field for field in msgspec.structs.fields(kind)}
    defaults = {
        name: field.default if field.default_factory is msgspec.NODEFAULT else field.default_factory()
        for name, field in fields.items()
    }
    if kind is ImageSettings:
        shared = [name for name in fields if name not in documented]
        assert f"| `{'`, `'.join(shared)}` | | As for" in table
        classifiers = {field.name: field.default for field in msgspec.structs.fields(ClassifierSettings)}
        assert [defaults.pop(name) for name in shared] == [classifiers[name] for name in shared]
    assert documented.keys() == defaults.keys()
    for name, default in defaults.items():
        if name in ("mean", "std"):
            assert (documented[name], default) == ("ImageNet's", None)
        elif name == "scale":
            assert (documented[name], default) == ("`1/255`", 1 / 255)
        else:
            assert yaml.safe_load(documented[name].strip("`")) == (list(default) if default == () else default)
