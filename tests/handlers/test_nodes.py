"""A pipeline's node in Python: each value comes as what it is, and goes as what it is; who is wrong fails alone."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from pdserver.errors import HandlerFailed, InvalidRequest
from pdserver.handlers.runtime import nodes
from pdserver.handlers.runtime.parts import decode
from pdserver.types import Answered, Failure, Outcome, Part, Request, Tensor, Values
from pdserver.worker import wire
from pdserver.worker.messages import Batch, FromWorker, ToWorker
from tests.handlers.conftest import Load

_from_worker, _to_worker = wire.decoder(FromWorker).decode, wire.decoder(ToWorker).decode


def asked(lists: dict[str, int] | None = None, *inputs: Part | Tensor) -> Request:
    return Request("ocr:find", None, "one", list(inputs), lists=lists or {})


def json_part(name: str, text: bytes) -> Part:
    return Part(name, "application/json", text)


def passed_on(answer: dict[str, Any]) -> dict[str, Any]:
    """What a node is given as its row that takes all that another one answered."""
    sent = wire.encode(Answered(1, [nodes.values(answer)], 0.0))
    answered = _from_worker(memoryview(sent)[wire.HEADER.size :])
    [found] = answered.outcomes
    assert isinstance(found, Values)
    request = asked(found.lists, *found.tensors, *found.parts)
    batch = _to_worker(memoryview(wire.encode(Batch(1, [request])))[wire.HEADER.size :])
    return nodes.row(batch.requests[0], decode)


def same(value: Any, other: Any) -> bool:
    if isinstance(value, np.ndarray):
        native = value.dtype.newbyteorder("=")
        return other.dtype == native and np.array_equal(value, other, equal_nan=native.kind == "f")
    if isinstance(value, list | tuple):
        return isinstance(other, list) and len(value) == len(other) and all(map(same, value, other))
    return type(other) is (bytearray if isinstance(value, bytes) else type(value)) and bool(value == other)


TEXT = st.text(st.characters(exclude_categories=["Cs"]))
JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | TEXT,
    lambda inner: st.lists(inner) | st.dictionaries(TEXT, inner),
    max_leaves=8,
)
ARRAY = arrays.arrays(
    arrays.boolean_dtypes()
    | arrays.integer_dtypes()
    | arrays.unsigned_integer_dtypes()
    | arrays.floating_dtypes(sizes=(16, 32, 64)),
    arrays.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=4),
)
ITEM = ARRAY | st.binary()
VALUE = ITEM | st.lists(ARRAY) | st.lists(st.binary()).map(tuple) | JSON


@given(st.dictionaries(TEXT, VALUE))
def test_whatever_a_node_answers_the_next_one_is_given(answer: dict[str, Any]) -> None:
    row = passed_on(answer)
    assert row.keys() == answer.keys()
    for name, value in answer.items():
        assert same(value, row[name]), name
        assert not isinstance(row[name], np.ndarray) or not row[name].flags.writeable


def test_what_changes_on_the_way_changes_as_documented() -> None:
    row = passed_on(
        {
            "nan": {"x": math.nan, "array": np.array([1.5, math.inf], np.float32)},
            "keys": {1: "one"},
            "texts": np.array(["a", "é"]),
            "number": np.float32(0.5),
            "view": memoryview(b"abc"),
            "strings": ["a", "b"],
            "empty": (),
        }
    )
    assert row.pop("texts").tolist() == [b"a", "é".encode()]
    assert row == {
        "nan": {"x": None, "array": [1.5, None]},
        "keys": {"1": "one"},
        "number": 0.5,
        "view": bytearray(b"abc"),
        "strings": ["a", "b"],
        "empty": [],
    }


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        ([1], "it answered list: expected a dict of its outputs"),
        (None, "it answered NoneType"),
        ({7: 1}, "an output called 7: expected text as the name"),
        ({"x": "\ud800"}, 'output "x" cannot be passed on: UnicodeEncodeError'),
        ({"x": ["\ud800"]}, 'output "x" cannot be passed on: .*surrogates'),
        ({"x": {1, 2}}, 'output "x" cannot be passed on: TypeError: .*set'),
        ({"x": 2**70}, 'output "x" cannot be passed on: .*64-bit'),
        ({"x": [b"a", np.zeros(1)]}, 'output "x" cannot be passed on: .*bytes'),
        ({"x": {1: "a", "1": "b"}}, "which are one in JSON"),
        ({"x": np.zeros(2, complex)}, 'output "x": a tensor cannot hold complex128'),
        ({"x": [np.zeros(1), np.array([{}])]}, 'output "x": expected bytes or text as elements, got dict'),
    ],
)
def test_what_is_no_value_is_told_with_its_output(answer: Any, message: str) -> None:
    with pytest.raises(HandlerFailed, match=message):
        nodes.values(answer)


def test_a_tensor_that_does_not_fit_is_refused() -> None:
    with pytest.raises(InvalidRequest, match='input "x": 3 bytes are not int16'):
        nodes.row(asked(None, Tensor("x", "int16", (2,), b"abc")), decode)


SOURCE = """
import numpy as np
from pdserver.handlers.runtime.answers import PredictionException

class Other:
    def handle(self, data, context): raise RuntimeError("not asked for")

class Find:
    batches = []
    def initialize(self, context):
        self.loaded = context.model_name
    def handle(self, data, context):
        self.batches.append(len(data))
        if any(row.get("do") == "few" for row in data): data = data[:-1]
        return [self.one(idx, row, context) for idx, row in enumerate(data)]
    def one(self, idx, row, context):
        do = row.get("do")
        if do == "raise": raise ValueError("no good")
        if do == "refuse": return PredictionException("too small", 422)
        if do == "status":
            context.set_response_status(400, "", idx)
            return "not like this"
        if do == "list": return [1]
        if do == "set": return {"boxes": {1}}
        if do == "piece": context.send_intermediate(["x"])
        return {"batch": len(data_of(row)), "seen": sorted(row), "loaded": bool(self.loaded), "batches": self.batches}

def data_of(row):
    return row.get("crops", [])
"""


def test_the_handler_is_called_once_for_the_batch_and_who_fails_fails_alone(load: Load) -> None:
    service = load(None, source=SOURCE, entry=":Find")

    def run(*requests: Request) -> list[Any]:
        return [told(outcome) for outcome in service.run(list(requests))]

    crops = [Tensor("crops", "uint8", (2,), b"ab"), Tensor("crops", "uint8", (1,), b"c")]
    good = asked({"crops": 2}, Part("image", "image/png", b"\x89"), *crops)
    nothing = asked({"crops": 0})
    seen = {"loaded": True, "batches": [2]}
    assert run(good, nothing) == [
        {"batch": 2, "seen": ["crops", "image"], **seen},
        {"batch": 0, "seen": ["crops"], **seen},
    ]
    assert service.times.executions == 1

    def bad(do: str) -> Request:
        return asked(None, Part("do", "text/plain; charset=utf-8", do.encode()))

    for do, message in {
        "refuse": "handler 422: too small",
        "status": "invalid 400: not like this",
        "list": "handler 0: it answered list: expected a dict of its outputs, {name: value}",
        "set": 'handler 0: output "boxes" cannot be passed on: TypeError: Type is not JSON serializable: set',
        "raise": "handler 0: ValueError: no good",
        "few": "handler 0: handler returned 0 answers for a batch of 1",
        "piece": "handler 0: RuntimeError: there is no request to send a piece to",
    }.items():
        first, failed, last = run(nothing, bad(do), nothing)
        assert failed == message, do
        assert first["seen"] == last["seen"] == ["crops"]
    unread = asked(None, json_part("x", b"{nope"))
    first, failed = run(nothing, unread)
    assert failed.startswith('invalid 0: the part "x" is not valid JSON')
    assert first["batch"] == 0


def told(outcome: Outcome) -> Any:
    """What was answered, by name; of a failure, what it says."""
    if isinstance(outcome, Failure):
        return f"{outcome.kind.value} {outcome.status}: {outcome.message}"
    assert isinstance(outcome, Values)
    return nodes.row(asked(outcome.lists, *outcome.tensors, *outcome.parts), decode)
