"""A step in Python that gives something else than its pipeline.yaml says fails there, and not further on."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pdarchiver.pipeline.types import parse
from pdserver.errors import HandlerFailed
from pdserver.handlers.runtime.nodes import values
from pdserver.pipeline import asking, declared
from tests.running import RunningServer

F4 = np.zeros((2, 4), np.float32)
GOOD = [
    ("any", {1, 2}.__len__()),
    ("bytes", b"x"),
    ("bytes", bytearray(b"x")),
    ("text", "x"),
    ("json", {"a": F4}),
    ("json", "text is JSON, too"),
    ("json", None),
    ("json", []),
    ("tensor", F4),
    ("float32", F4),
    ("float32[-1, 4]", F4),
    ("float32[2, 4]", F4),
    ("float32[]", np.array(1, np.float32)),
    ("tensor[-1, -1]", F4),
    ("list", [F4, F4[:1]]),
    ("list", ["a", 1]),
    ("list", []),
    ("list of float32[-1, 4]", [F4, F4[:1]]),
    ("list of float32[-1, 4]", []),
    ("list of bytes", (b"a", b"b")),
    ("list of text", ["a", "b"]),
    ("list of json", [{"a": 1}, 2]),
    ("list of any", [F4, F4]),
]
JSON_HINT = ": answer what JSON has, such as an array's .tolist(), or declare what came"
ARRAY_HINT = ": answer a numpy array, such as np.asarray(value, 'float32')"
BAD = [
    ("float32[-1, 4]", F4.astype(np.float64), "declared float32[-1, 4], and float64[2, 4] came"),
    ("float32[-1, 4]", F4[:, :3], "declared float32[-1, 4], and float32[2, 3] came"),
    ("float32[-1, 4]", F4[0], "declared float32[-1, 4], and float32[4] came"),
    ("tensor[4]", F4, "declared tensor[4], and float32[2, 4] came"),
    ("float32", F4.tolist(), f"declared float32, and json came{ARRAY_HINT}"),
    ("float32[]", 1.0, f"declared float32[], and json came{ARRAY_HINT}"),
    ("float32", [F4, F4], f"declared float32, and list of float32[2, 4] came{ARRAY_HINT}"),
    ("bytes", "x", "declared bytes, and text came: answer bytes"),
    ("bytes", {"a": 1}, "declared bytes, and json came: answer bytes"),
    ("bytes", F4, "declared bytes, and float32[2, 4] came: answer bytes"),
    ("text", b"x", "declared text, and bytes came: answer a str"),
    ("text", 1, "declared text, and json came: answer a str"),
    ("json", F4, f"declared json, and float32[2, 4] came{JSON_HINT}"),
    ("json", b"{}", f"declared json, and bytes came{JSON_HINT}"),
    ("json", [b"a", b"b"], f"declared json, and list of bytes came{JSON_HINT}"),
    (
        "list",
        F4,
        "declared list, and float32[2, 4] came: answer a list of arrays or of bytes; what else is in a list is JSON",
    ),
    (
        "list",
        {"a": 1},
        "declared list, and json came: answer a list of arrays or of bytes; what else is in a list is JSON",
    ),
    ("list of float32[4]", [F4[0], F4], ", item 1: declared float32[4], and float32[2, 4] came"),
    ("list of bytes", [F4], ", item 0: declared bytes, and float32[2, 4] came: answer bytes"),
    ("list of text", [b"a"], ", item 0: declared text, and bytes came: answer a str"),
    (
        "list of text",
        ["a", 1],
        "declared list of text, and json came: answer a list of arrays or of bytes; what else is in a list is JSON",
    ),
    (
        "list of bytes",
        ["a"],
        "declared list of bytes, and json came: answer a list of arrays or of bytes; what else is in a list is JSON",
    ),
]


def value_of(answer: Any) -> Any:
    """As the engine gets it from a worker."""
    reply = values({"y": answer})
    return asking.grouped([*reply.tensors, *reply.parts], reply.lists)["y"]


@pytest.mark.parametrize(("kind", "answer"), GOOD)
def test_what_was_declared_goes_on(kind: str, answer: Any) -> None:
    declared.check("y", value_of(answer), parse(kind))


@pytest.mark.parametrize(("kind", "answer", "message"), BAD)
def test_what_was_not_fails_with_both(kind: str, answer: Any, message: str) -> None:
    with pytest.raises(HandlerFailed) as raised:
        declared.check("y", value_of(answer), parse(kind))
    assert str(raised.value).removeprefix('output "y"').removeprefix(": ") == message


STEPS = """
import numpy as np


class Score:
    def handle(self, data, context):
        kinds = {"good": np.float32, "bad": np.float64}
        return [{"score": np.ones(2, kinds[row["word"]])} for row in data]


class Sum:
    def handle(self, data, context):
        return [{"sum": float(sum(map(np.sum, row["scores"])))} for row in data]
"""
PIPELINE = """
inputs: {words: list}
outputs: {sum: sum.sum, failures: score.$failures}
fuse: FUSE
nodes:
  score:
    each: word
    on_error: skip
    python: steps.py:Score
    inputs: {word: words}
    outputs: {score: "float32[2]"}
  sum:
    python: steps.py:Sum
    inputs: {scores: score.score}
    outputs: {sum: json}
"""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    folder = tmp_path_factory.mktemp("declared")
    strict = PIPELINE.replace("    on_error: skip\n", "").replace(", failures: score.$failures", "")
    for name, text in (("apart", PIPELINE), ("whole", PIPELINE), ("strict", strict), ("strict_whole", strict)):
        own: Path = folder / "store" / name
        own.mkdir(parents=True)
        (own / "steps.py").write_text(STEPS)
        (own / "pipeline.yaml").write_text(text.replace("FUSE", "yes" if "whole" in name else "no"))
    with RunningServer(folder / "server", folder / "store") as server:
        yield server


@pytest.mark.parametrize("name", ["apart", "whole"])
def test_the_other_items_go_on(server: RunningServer, name: str) -> None:
    answer = server.predict(name, json=["good", "bad", "good"])
    message = 'output "score": declared float32[2], and float64[2] came'
    assert answer.json() == {"sum": 4.0, "failures": [{"item": 1, "message": message}]}


@pytest.mark.parametrize("name", ["strict", "strict_whole"])
def test_the_failure_names_the_node(server: RunningServer, name: str) -> None:
    answer = server.predict(name, json=["good", "bad"])
    assert answer.status_code == 500
    message = 'node score, item 1: output "score": declared float32[2], and float64[2] came'
    assert answer.json() == {"code": 500, "type": answer.json()["type"], "message": message}
    assert server.predict(name, json=["good", "good"]).json() == 4.0
