"""A graph in one process: its nodes batch across requests, each request gets its own, and nothing is copied between."""

from __future__ import annotations

import dataclasses
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from pdarchiver.pipeline.graph import Condition, Graph, ModelBody, Node, PythonBody, Ref, Repeat, Source, Type
from pdserver.configuration.model import ModelSpec
from pdserver.errors import Kind, LoadFailed
from pdserver.handlers.runtime import nodes
from pdserver.handlers.runtime.fused import FusedService
from pdserver.handlers.runtime.parts import decode
from pdserver.memory_file import THRESHOLD_BYTES
from pdserver.pipeline import fused
from pdserver.types import Failure, Outcome, Part, Request, Values
from pdserver.worker import wire
from pdserver.worker.messages import Load as LoadMessage
from pdserver.worker.messages import ToWorker
from tests.handlers.conftest import Load
from tests.handlers.test_typed import linear

STEPS = """
import os
import time
import numpy as np

seen = vars(np).setdefault("seen", [])  # each node imports this file for itself

def split(data, context):
    if data is None: return
    seen.append(("split", len(data)))
    answers = []
    for row in data:
        rows = [np.full(13, number, np.float32) for number in row["numbers"]]
        big = np.arange(100_000, dtype=np.float32)
        seen.append(("made", big))
        answers.append({"rows": rows, "big": big, "count": len(rows)})
    return answers

class Check:
    def initialize(self, context):
        assert os.getcwd() == context.system_properties["model_dir"]
    def handle(self, data, context):
        seen.append(("check", len(data)))
        return [ValueError("odd") if row["price"][0] == row.get("bad") else {"price": row["price"]} for row in data]

class Sum:
    def handle(self, data, context):
        for row in data:
            if "big" in row: seen.append(("given", row["big"]))
        return [{"total": float(sum(float(price[0]) for price in row["prices"]))} for row in data]

class Half:
    def handle(self, data, context):
        seen.append(("half", len(data)))
        return [{"value": row["value"] // 2, "more": row["value"] // 2 > 1} for row in data]

class Slow:
    def handle(self, data, context):
        time.sleep(0.05)
        return [{} for _ in data]
"""


def of(*refs: str) -> Source:
    return Source(tuple(Ref(*ref.split(".")) if "." in ref else Ref("", ref) for ref in refs))


def python(name: str, member: str, inputs: dict[str, Source], **more: Any) -> Node:
    return Node(name, PythonBody(f"steps.py:{member}"), inputs, **more)


MAYBE_BAD = Source((Ref("", "bad"),), optional=True)
GRAPH = Graph(
    {"numbers": Type("json"), "bad": Type("json"), "value": Type("json"), "slow": Type("json")},
    {
        "split": python("split", "split", {"numbers": of("numbers")}),
        "read": Node(
            "read",
            Graph(
                {"x": Type(), "bad": Type()},
                {
                    "score": Node("score", ModelBody("linear"), {"x": of("x")}),
                    "check": python("check", "Check", {"price": of("score.fetch_name_0"), "bad": MAYBE_BAD}),
                },
                {"price": of("check.price")},
                fuse="yes",
            ),
            {"x": of("split.rows"), "bad": MAYBE_BAD},
            each=("x",),
        ),
        "sum": python("sum", "Sum", {"prices": of("read.price"), "big": of("split.big")}),
        "half": python(
            "half", "Half", {"value": of("value")}, when=Condition(Ref("", "value")),
            repeat=Repeat("more", 10, {"value": "value"}),
        ),
        "slow": python("slow", "Slow", {"value": of("slow")}, timeout_seconds=0.01),
    },
    {"total": of("sum.total"), "prices": of("read.price"), "half": of("half.value"), "big": of("split.big")},
)  # fmt: skip


def asked(**values: Any) -> Request:
    parts = [Part(name, "application/json", msgspec.json.encode(value)) for name, value in values.items()]
    return Request("p:read", "1", "id", [*parts], lists={})


def told(outcome: Outcome) -> dict[str, Any]:
    assert isinstance(outcome, Values), outcome
    return nodes.row(Request("", None, "", [*outcome.tensors, *outcome.parts], lists=outcome.lists), decode)


def fused_spec(own: ModelSpec, linear: ModelSpec) -> ModelSpec:
    """As it comes to the worker."""
    members = {"split": "split", "read/check": "Check", "sum": "Sum", "half": "Half", "slow": "Slow"}
    specs = {path: dataclasses.replace(own, handler=f"steps.py:{member}") for path, member in members.items()}
    specs["read/check"] = dataclasses.replace(specs["read/check"], key=b"secret")
    specs["read/score"] = linear
    made = fused.spec(own, GRAPH, {f"whole/{path}": each for path, each in specs.items()}, "whole")
    assert b"secret" not in msgspec.json.encode(made.model_config)
    message = wire.decoder(ToWorker).decode(memoryview(wire.encode(LoadMessage(made, None)))[wire.HEADER.size :])
    assert isinstance(message, LoadMessage)
    return message.spec


@pytest.fixture
def own(tmp_path: Path) -> Iterator[ModelSpec]:
    (tmp_path / "steps.py").write_text(STEPS)
    before = Path.cwd()
    yield ModelSpec(
        name="p:read", version="1", url="", directory=str(tmp_path), handler="", manifest={}, model_config={},
        min_workers=1, max_workers=1, batch_size=8,
    )  # fmt: skip
    os.chdir(before)
    sys.path[:] = [folder for folder in sys.path if folder != str(tmp_path)]


def test_a_graph_runs_in_one_process_for_all_requests_together(load: Load, models: Path, own: ModelSpec) -> None:
    service = FusedService(fused_spec(own, load("pir/linear.json")._spec), None)
    service.load()
    seen: list[tuple[str, Any]] = vars(np)["seen"]
    prices = {number: float(linear(models, np.full((1, 13), number, np.float32))[0, 0]) for number in range(12)}
    first, refused, last, nothing = service.run(
        [
            asked(numbers=[1, 2, 3, 4, 5], value=17),
            asked(numbers=[6, 7], bad=prices[7], value=0),
            asked(numbers=[8, 9, 10, 11], value=3),
            asked(numbers=[], value=0),
        ]
    )
    row = told(first)
    assert row["half"] == 1
    assert row["total"] == pytest.approx(sum(prices[number] for number in range(1, 6)), rel=1e-5)
    assert np.ravel(row["prices"]).tolist() == pytest.approx([prices[number] for number in range(1, 6)], rel=1e-5)
    assert isinstance(refused, Failure)
    assert refused.message == "node whole/read/check: ValueError: odd (item 1 of whole/read)"
    assert told(last)["half"] == 1
    assert "half" not in told(nothing)
    assert (told(nothing)["total"], told(nothing)["prices"]) == (0, [])
    calls = [(name, what) for name, what in seen if isinstance(what, int)]
    assert [what for name, what in calls if name == "split"] == [4]
    assert [what for name, what in calls if name == "check"] == [8, 3], "items of all requests, up to batchSize"
    assert [what for name, what in calls if name == "half"] == [2, 1, 1, 1]
    made = [what for name, what in seen if name == "made"]
    given = [what for name, what in seen if name == "given"]
    assert made[0].nbytes >= THRESHOLD_BYTES
    assert all(any(np.shares_memory(array, other) for other in made) for array in given)
    assert not any(array.flags.writeable for array in given)
    [late] = service.run([asked(numbers=[], value=0, slow=1)])
    assert isinstance(late, Failure)
    assert (late.kind, late.message) == (Kind.DEADLINE, "node whole/slow: it took longer than 0.01 s (timeout)")


def test_what_a_node_says_at_loading_is_told_with_its_place(load: Load, own: ModelSpec) -> None:
    (Path(own.directory) / "steps.py").write_text(STEPS.replace("class Sum", "class Summe"))
    service = FusedService(fused_spec(own, load("pir/linear.json")._spec), None)
    with pytest.raises(LoadFailed, match=r"node whole/sum: .* no function or class Sum; did you mean Summe\?"):
        service.load()
