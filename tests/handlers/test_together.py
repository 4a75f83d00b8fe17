"""Requests that are joined get the answers of the general way, to the byte, and what is not alike is left to it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pdserver.dtypes import BFLOAT16, NUMPYS
from pdserver.formats.elements import packed
from pdserver.handlers.runtime import together, typed
from pdserver.handlers.runtime.service import Service
from pdserver.memory_file import THRESHOLD_BYTES
from pdserver.tensors import byte_size
from pdserver.types import Answered, Failure, Outcome, Output, Part, Reply, Request, Tensor
from pdserver.worker import wire
from tests.handlers.conftest import Load
from tests.handlers.requests import refusal, request, tensor

UNLUCKY = 13
ECHO = """
import numpy as np
from pdserver.types import Interface, Port

class Echo:
    def initialize(self, context):
        self.inputs = context.model_yaml_config["inputs"]
    def handle(self, data, context): return data
    def interface(self):
        ports = [Port(name, dtype, (-1, *shape)) for name, (dtype, shape) in self.inputs.items()]
        named = [Port(f"{port.name}!", port.dtype, port.shape) for port in ports]
        return Interface(ports, [*named, Port("sum", "float64", (-1,))], batched=True)
    def handle_tensors(self, inputs):
        numbers = [array for array in inputs.values() if not array.dtype.hasobject]
        if any((array == 13).any() for array in numbers):
            raise ValueError("unlucky")
        sums = [array.reshape(len(array), -1).sum(1, dtype="float64") for array in numbers]
        return {f"{name}!": array for name, array in inputs.items()} | {"sum": sum(sums)}
"""
MODELS: dict[str, dict[str, tuple[str, tuple[int, ...]]]] = {
    **{dtype: {"x": (dtype, (2,))} for dtype in (*NUMPYS, BFLOAT16)},
    "several": {"ids": ("int64", (3,)), "x": ("float32", (2, 2)), "half": (BFLOAT16, (1,)), "flag": ("bool", ())},
    "texts": {"text": ("bytes", (1,)), "x": ("float32", (2,))},
}


def echo(load: Load, name: str) -> Service:
    return load(None, source=ECHO, config={"inputs": {key: [d, list(s)] for key, (d, s) in MODELS[name].items()}})


def plain(name: str, rows: int, first: int = 0) -> Request:
    """A request with so many rows, whose bytes count from `first`."""
    inputs = []
    for key, (dtype, shape) in MODELS[name].items():
        size = byte_size(dtype, (rows, *shape))
        data = packed([b"text"] * rows) if size is None else bytes((first + i) % (2 if dtype == "bool" else 60)
                                                                   for i in range(size))  # fmt: skip
        inputs.append(Tensor(key, dtype, (rows, *shape), data))
    return asking(request(*inputs))


def asking(given: Request, *outputs: Output) -> Request:
    return msgspec.structs.replace(given, typed=True, outputs=outputs)


def either_way(service: Service, requests: list[Request]) -> list[Outcome]:
    """The outcomes, after a check that the general way gives the same ones for as many runs of the model."""
    found = service.run(requests)
    executions = service.times.executions
    with pytest.MonkeyPatch.context() as patch:
        for name in ("joined", "cut"):
            patch.setattr(together, name, lambda *_: None)
        general = service.run(requests)
    assert encoded(found) == encoded(general)
    assert service.times.executions == executions
    return found


def encoded(outcomes: list[Outcome]) -> bytes:
    return bytes(wire.encode(Answered(1, outcomes, 0.0)))


def are_joined(service: Service, requests: list[Request]) -> bool:
    """Whether the general way has no part in these requests' answers."""

    def refuse(*_: Any) -> Any:
        raise AssertionError

    with pytest.MonkeyPatch.context() as patch:
        for name in ("array", "_split"):
            patch.setattr(typed, name, refuse)
        try:
            return all(isinstance(outcome, Reply) for outcome in service.run(requests))
        except AssertionError:
            return False


@pytest.mark.parametrize("name", [name for name in MODELS if name != "texts"])
def test_plain_batches_are_joined_whatever_their_dtypes(load: Load, name: str) -> None:
    service = echo(load, name)
    for rows in ([1], [1, 1, 1], [2], [3, 1, 2], [0, 1]):
        for outputs in ([], ["sum"], ["sum", *(f"{key}!" for key in MODELS[name]), "sum"], [""]):
            requests = [plain(name, count, 7 * i) for i, count in enumerate(rows)]
            requests = [asking(each, *map(Output, outputs)) for each in requests]
            assert all(isinstance(outcome, Reply) for outcome in either_way(service, requests))
            assert are_joined(service, requests)
            assert service.times.executions == 1


@st.composite
def odd(draw: st.DrawFn, name: str) -> Request:
    """A request that is plain for the most part."""
    made = plain(name, draw(st.sampled_from([1, 1, 1, 2, 0])), draw(st.integers(0, 20)))
    inputs: list[Any] = list(made.inputs)
    place = draw(st.integers(0, len(inputs) - 1))
    one = inputs[place]
    changes: dict[str, Any] = {
        "name": st.sampled_from(["x", "other"]),
        "dtype": st.sampled_from([*NUMPYS, BFLOAT16, "bytes", "float128", "no"]),
        "shape": st.lists(st.integers(-2, 3), max_size=3).map(tuple),
        "data": st.sampled_from([b"", one.data[:-1], one.data * 2, memoryview(one.data), bytes(len(one.data))]),
    }
    what = draw(st.sampled_from([*changes, *[""] * 12, "part", "twice", "less", "more", "order", "outputs"]))
    if what in changes:
        inputs[place] = msgspec.structs.replace(one, **{what: draw(changes[what])})
    elif what == "part":
        inputs[place] = Part(one.name, "", one.data)
    elif what == "twice":
        inputs.append(one)
    elif what == "less":
        del inputs[place]
    elif what == "more":
        inputs.append(Tensor("more", "int8", (1, 1), b"1"))
    outputs: Sequence[Output] = ()
    if what == "outputs":
        names = st.sampled_from(["sum", "", "no", f"{one.name}!"])
        outputs = draw(st.lists(st.builds(Output, names, st.sampled_from([0, 0, 0, 2])), max_size=3))
    made = msgspec.structs.replace(made, inputs=inputs[::-1] if what == "order" else inputs)
    return asking(made, *outputs)


@pytest.mark.parametrize("name", ["float32", BFLOAT16, "several", "texts"])
def test_any_batch_has_the_same_outcomes_either_way(load: Load, name: str) -> None:
    service = echo(load, name)

    @settings(max_examples=60, deadline=None)
    @given(st.lists(odd(name), min_size=1, max_size=4))
    def check(requests: list[Request]) -> None:
        either_way(service, requests)

    check()


def test_the_one_that_fails_takes_no_other_along(load: Load) -> None:
    service = echo(load, "int8")
    good = [plain("int8", rows) for rows in (1, 2)]
    bad = asking(request(tensor("x", np.array([[1, UNLUCKY]], np.int8))))
    first, failed, last = either_way(service, [good[0], bad, good[1]])
    assert refusal(failed) == "handler: ValueError: unlucky"
    assert [first, last] == service.run(good)
    assert service.times.executions == 1


@pytest.mark.parametrize(
    ("rows", "size", "joined"), [([1, 2, 1], 7, True), ([1, 2, 1], THRESHOLD_BYTES // 3, True), ([1, 2], 7, False)]
)
def test_shapes_and_sizes(load: Load, rows: list[int], size: int, joined: bool) -> None:
    """Rows that are large together, and rows of another length in one of the requests."""
    service = load(None, source=ECHO, config={"inputs": {"x": ["uint8", [-1]]}})
    arrays = [np.random.default_rng(count).integers(20, 200, (count, size), np.uint8) for count in rows]
    if not joined:
        arrays.append(arrays[0][:, :3])
    requests = [asking(request(tensor("x", array))) for array in arrays]
    outcomes = either_way(service, requests)
    assert service.times.executions == (1 if joined else 2)
    assert are_joined(service, requests) is joined
    for outcome, array in zip(outcomes, arrays, strict=True):
        assert isinstance(outcome, Reply)
        assert bytes(outcome.tensors[0].data) == array.tobytes()


HANDLERS = {
    "the model's outputs changed": "def inference(self, inputs):\n"
    "        twice = 2 * super().inference(inputs)['fetch_name_0']\n"
    "        return {'twice': twice, 'text': np.array(['a'] * len(twice))}",
    "rows of several shapes": "def handle_tensors(self, inputs):\n"
    "        rows = np.empty(len(inputs['x']), object)\n"
    "        rows[:] = [np.arange(1 + int(row[0])) for row in inputs['x']]\n"
    "        return {'some': rows}",
    "too few rows": "def handle_tensors(self, inputs): return {'y': inputs['x'][1:], 'z': inputs['x']}",
    "a single value": "def handle_tensors(self, inputs): return {'y': np.array(1.0)}",
    "no array": "def handle_tensors(self, inputs): return {'y': inputs['x'].tolist()}",
    "no dictionary": "def handle_tensors(self, inputs): return inputs['x']",
    "a name that is no text": "def handle_tensors(self, inputs): return {1: inputs['x']}",
    "no output": "def handle_tensors(self, inputs): return {}",
    "the other byte order": "def handle_tensors(self, inputs): return {'y': inputs['x'].astype('>f4')[:, ::2]}",
    "complex numbers": "def handle_tensors(self, inputs): return {'y': inputs['x'].astype('complex64')}",
    "its inputs changed": "def handle_tensors(self, inputs):\n"
    "        inputs['x'] += 1\n        return {'y': inputs['x']}",
    "an exit": "def handle_tensors(self, inputs): raise SystemExit(str(inputs['x'][0, 0]))",
}


@pytest.mark.parametrize("what", HANDLERS)
def test_handlers_that_answer_oddly(load: Load, what: str) -> None:
    source = "import numpy as np\nfrom pdserver.handlers.base import BaseHandler\nclass Own(BaseHandler):\n    "
    service = load("pir/linear.json", source=source + HANDLERS[what])
    rows = np.arange(4 * 13, dtype=np.float32).reshape(4, 13)
    for pieces in ([rows[:1]], [rows[:1], rows[1:2], rows[2:3]], [rows[:1], rows[1:]]):
        either_way(service, [asking(request(tensor("x", piece))) for piece in pieces])


def test_a_stream_of_joined_requests(load: Load) -> None:
    source = (
        "import numpy as np\nfrom pdserver.handlers.base import BaseHandler\nclass Counting(BaseHandler):\n"
        "    def handle_tensors(self, inputs):\n"
        "        self.context.send_intermediate([{'step': row[:1]} for row in inputs['x']])\n"
        "        if inputs['x'].max() > 25: raise ValueError('late')\n"
        "        return {'step': inputs['x'][:, :2]}\n"
    )
    service = load("pir/linear.json", source=source)
    rows = np.arange(3 * 13, dtype=np.float32).reshape(3, 13)
    requests = [asking(request(tensor("x", rows[i : i + 1]))) for i in range(3)]
    for given_, failed in ((requests[:2], 0), (requests, 3)):
        sent: list[tuple[int, Reply]] = []
        outcomes = service.run(given_, lambda idx, piece, sent=sent: sent.append((idx, piece)))  # type: ignore[misc]
        assert [idx for idx, _ in sent] == list(range(len(given_)))
        assert sum(isinstance(outcome, Failure) for outcome in outcomes) == failed, "nobody is told a thing twice"
