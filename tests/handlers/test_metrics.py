"""context.metrics: TorchServe's names and signatures; what was measured leaves with the batch."""

from __future__ import annotations

import msgspec
import pytest

from pdserver.types import Measured
from tests.handlers.conftest import Load
from tests.handlers.requests import answer, json, refusal

OWN = {"ModelName": "model", "Level": "Model"}
MEASURING = """
from enum import Enum
from types import SimpleNamespace

class MetricTypes(Enum):
    GAUGE = "gauge"

def handle(data, context):
    if data is None:
        context.metrics.add_metric_to_cache("Cached", "ms", ["Stage"], MetricTypes.GAUGE)
        context.metrics.add_counter("Loads", 1)
        return
    stage = [SimpleNamespace(name="Stage", value="pre")]
    for measure in data[0]["body"]:
        eval(measure, {"m": context.metrics, "stage": stage, "MetricTypes": MetricTypes})
    return data
"""


def measured(load: Load, *measures: str) -> list[Measured]:
    service = load(None, source=MEASURING)
    (name,) = {item.dimensions.pop("ModelName") for item in service.take_measured()}
    outcomes = service.run([json(list(measures)), json([])])
    assert answer(outcomes[1]) == {"body": []}
    found = service.take_measured()
    assert service.take_measured() == []
    for item in found:
        assert item.dimensions.get("ModelName", name) == name
        if "ModelName" in item.dimensions:
            item.dimensions["ModelName"] = "model"
    return found


def test_what_each_method_measures(load: Load) -> None:
    assert measured(
        load,
        "m.add_counter('Hits', 2)",
        "m.add_counter('Hits', value=1, idx=0, dimensions=stage)",
        "m.add_time('Took', 1.5)",
        "m.add_time('Took', 2, None, 's', stage)",
        "m.add_size('Memory', 3)",
        "m.add_size(name='Memory', value=3, unit='kB', dimensions={'Stage': 'post'})",
        "m.add_percent('Full', 50)",
        "m.add_error('Bad', 1)",
        "m.add_metric('Depth', 7, 'Layers', metric_type=MetricTypes.GAUGE)",
        "m.add_metric('Depth', 7, 'ms', metric_type='histogram')",
        "m.get_metric('Cached', MetricTypes.GAUGE).add_or_update(4, ['pre'])",
        "m.get_metric('Cached', 'gauge').update(5, ['pre'], 'r1')",
    ) == [
        Measured("Hits", 2, "Count", "counter", OWN),
        Measured("Hits", 1, "Count", "counter", {**OWN, "Stage": "pre"}),
        Measured("Took", 1.5, "Milliseconds", "gauge", OWN),
        Measured("Took", 2, "Seconds", "gauge", {**OWN, "Stage": "pre"}),
        Measured("Memory", 3, "Megabytes", "gauge", OWN),
        Measured("Memory", 3, "Kilobytes", "gauge", {**OWN, "Stage": "post"}),
        Measured("Full", 50, "Percent", "gauge", OWN),
        Measured("Bad", 1, "unit", "counter", OWN),
        Measured("Depth", 7, "Layers", "gauge", OWN),
        Measured("Depth", 7, "Milliseconds", "histogram", OWN),
        Measured("Cached", 4, "Milliseconds", "gauge", {"Stage": "pre"}),
        Measured("Cached", 5, "Milliseconds", "gauge", {"Stage": "pre"}, "r1"),
    ]


@pytest.mark.parametrize(
    ("measure", "message"),
    [
        ("m.add_time('Took', 1, unit='h')", "ValueError: 'h': expected one of ms, s"),
        ("m.add_size('Memory', 1, unit='MiB')", "ValueError: 'MiB': expected one of B, kB, MB, GB"),
        ("m.add_metric('x', 1, 'ms', metric_type='sum')", "ValueError: 'sum': expected one of counter, gauge"),
        ("m.add_counter('x', 'many')", "ValueError: could not convert string to float: 'many'"),
        (
            "m.get_metric('Cache', 'gauge')",
            "no gauge called Cache is declared in metrics.yaml or was added to the cache; did you mean Cached?",
        ),
        ("m.get_metric('Cached', 'gauge').update(1)", "ValueError: Cached: 0 values for the dimensions ['Stage']"),
    ],
)
def test_mistakes(load: Load, measure: str, message: str) -> None:
    (failed,) = load(None, source=MEASURING).run([json([measure])])
    assert message in refusal(failed)


def test_the_id_of_the_request(load: Load) -> None:
    source = (
        "def handle(data, context):\n"
        "    for i in range(len(data or [])): context.metrics.add_counter('n', i, i)\n"
        "    return data\n"
    )
    service = load(None, source=source)
    service.run([msgspec.structs.replace(json(0), id=id) for id in ("first", "second")])
    assert [(item.value, item.request_id) for item in service.take_measured()] == [(0, "first"), (1, "second")]
