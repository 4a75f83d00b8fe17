"""The lane for plain predictions answers as the general way does, to the byte, and leaves to it what is not plain."""

from __future__ import annotations

from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pdarchiver.manifest import Signature, TensorSpec
from pdserver.dtypes import BFLOAT16
from pdserver.handlers.base import BaseHandler
from pdserver.handlers.runtime import lane
from pdserver.handlers.runtime.batching import Batching
from pdserver.handlers.runtime.rows import Arrays
from pdserver.handlers.runtime.service import Service
from pdserver.types import Outcome, Part, Reply, Request
from tests.handlers.conftest import Load
from tests.handlers.requests import JSON, body, json, request

UNLUCKY = 13
SMALL = "0 1 -0 -0.0 1.0 2.5 1e2 1E-3 127 128 255 256 -1 -129 7 8 0.1 13 1e-400 0.30000000000000004"
LARGE = (
    "65504 65519 65520 3.4028235e38 3.5e38 1e39 1e400 2147483648 4294967295 9007199254740993 9223372036854775807 "
    "9223372036854775808 -9223372036854775809 18446744073709551616 123456789012345678901234567890"
)
WRONG = 'true false null NaN Infinity "1" [] {} 01 1. +1 .5 [1]'
NUMBERS = st.one_of(
    st.sampled_from([*SMALL.split(), *LARGE.split(), *WRONG.split()]),
    st.floats(allow_nan=False, allow_infinity=False).map(repr),
    st.integers().map(str),
)
CONTENT_TYPES = st.sampled_from([JSON] * 8 + ["", "application/octet-stream", "text/plain", f"{JSON}; charset=latin-1"])
MODELS: dict[str, dict[str, tuple[str, tuple[int, ...]]]] = {
    "floats": {"x": ("float32", (-1, 3))},
    "numbers": {"x": ("float64", (-1,))},
    "halves": {"x": ("float16", (-1, 2)), "y z": (BFLOAT16, (-1, 1, 2))},
    "whole": {"ids": ("int64", (-1, -1)), "x": ("int8", (-1, 1)), "é": ("uint8", (-1, 2))},
    "truth": {"body": ("bool", (-1, 2))},
    "long": {"x": ("uint32", (-1, 2, 2))},
}


class Echo:
    """A model whose outputs are its inputs, and which fails on one number."""

    def run(self, inputs: Arrays) -> Arrays:
        if any((array == UNLUCKY).any() for array in inputs.values()):
            raise ValueError("unlucky")
        wide = {np.dtype(np.float16): np.float32} | dict.fromkeys(map(np.dtype, ("i1", "u1", "u4")), np.int64)
        return {f'"{name}"': array.astype(wide.get(array.dtype, array.dtype)) for name, array in inputs.items()}


def echo(load: Load, inputs: dict[str, tuple[str, tuple[int, ...]]]) -> Service:
    """A service whose model takes these inputs."""
    service = load()
    handler: Any = service._entry.instance  # type: ignore[union-attr]
    specs = tuple(TensorSpec(name, dtype, shape, name) for name, (dtype, shape) in inputs.items())
    handler.signature, handler.predictor, handler.batching = (
        Signature(specs, specs),
        Echo(),
        Batching(ids_below={"ids": 8} if "ids" in inputs else {}),
    )
    vars(handler).pop("reader", None)
    service._lane = lane.of(handler, service._spec)
    return service


def both_ways(service: Service, requests: list[Request]) -> tuple[list[Outcome], list[Outcome]]:
    """What the lane and what the general way make of it, which run the model equally often."""
    fast = service.run(requests)
    executions, known = service.times.executions, service._lane
    service._lane = None
    try:
        return fast, service.run(requests)
    finally:
        assert service.times.executions == executions
        service._lane = known


@st.composite
def values(draw: st.DrawFn, shape: tuple[int, ...]) -> str:
    """Nested lists, of this shape for the most part."""
    if not shape:
        return draw(NUMBERS) if draw(st.integers(0, 5)) == 0 else draw(st.sampled_from(["0", "1", "2", "1.5", "true"]))
    length = shape[0] if shape[0] >= 0 else draw(st.integers(1, 3))
    length += draw(st.sampled_from([0] * 20 + [1, -1]))
    return "[" + ",".join(draw(values(shape[1:])) for _ in range(length)) + "]"


@st.composite
def documents(draw: st.DrawFn, inputs: dict[str, tuple[str, tuple[int, ...]]]) -> bytes:
    several, rows = draw(st.booleans()), draw(st.sampled_from([1, 1, 2, 3, 0]))
    members = []
    for name, (_, shape) in inputs.items():
        form = (rows, *shape[1:]) if several else shape[1:]
        members.append((name, draw(values(form))))
    odd = draw(st.sampled_from([""] * 12 + ["twice", "more", "less", "bare", "order", "escaped", "bytes"]))
    if odd == "bare":
        return members[0][1].encode()
    members += {"twice": [members[0]], "more": [("other", "1")]}.get(odd, [])
    members = members[1:] if odd == "less" else members[::-1] if odd == "order" else members
    text = "{" + ", ".join(f'"{name}":{value}' for name, value in members) + "}"
    if odd == "escaped":
        text = text.replace('"x"', draw(st.sampled_from([r'"\u0078"', r'"\ud800"', '"x:"', r'"x\u003a"'])))
    made = text.encode()
    if odd == "bytes":
        place = draw(st.integers(0, len(made)))
        made = (
            made[:place]
            + draw(st.sampled_from([b"\xef\xbb\xbf", b" ", b"\n", b"\x00", b"]", b":", b"\xff", b"#"]))
            + made[place:]
        )
    return made


@pytest.mark.parametrize("name", MODELS)
def test_any_batch_has_the_same_outcomes_either_way(load: Load, name: str) -> None:
    service = echo(load, MODELS[name])
    assert service._lane is not None
    made = st.builds(body, documents(MODELS[name]), CONTENT_TYPES)

    @settings(max_examples=100, deadline=None)
    @given(st.lists(made, min_size=1, max_size=4))
    def check(requests: list[Request]) -> None:
        fast, general = both_ways(service, requests)
        assert fast == general

    check()


def plain(name: str, rows: int) -> Request:
    """A request that any lane takes; `rows`: with the batch axis, 0: without."""
    given = {}
    for key, (dtype, shape) in MODELS[name].items():
        array = np.arange(np.prod(np.abs(shape[1:]), dtype=int)).reshape(np.abs(shape[1:])) % 2
        array = array.astype("float32" if dtype == BFLOAT16 else dtype)
        given[key] = np.stack([array] * rows) if rows else array
    return json({key: array.tolist() for key, array in given.items()})


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("rows", [[0], [0, 0, 0], [1], [1, 1], [2, 1, 3]])
def test_plain_batches_take_the_lane(load: Load, monkeypatch: pytest.MonkeyPatch, name: str, rows: list[int]) -> None:
    service = echo(load, MODELS[name])
    requests = [plain(name, count) for count in rows]
    fast, general = both_ways(service, requests)
    assert fast == general
    assert all(isinstance(outcome, Reply) for outcome in fast)
    monkeypatch.setattr(BaseHandler, "handle", None)
    assert service.run(requests) == fast


def test_the_lane_takes_lists_alone_and_json_without_its_type(load: Load, monkeypatch: pytest.MonkeyPatch) -> None:
    service = load()
    requests = [body(b"[0.5,0,0,0,0,0,0,0,0,0,0,0,1]"), body(b"[0.5,0,0,0,0,0,0,0,0,0,0,0,1]", JSON)]
    fast, general = both_ways(service, requests)
    assert fast == general
    monkeypatch.setattr(BaseHandler, "handle", None)
    assert service.run(requests) == fast


def test_what_is_no_plain_prediction_takes_the_general_way(load: Load) -> None:
    service = load()
    good = json({"x": [0.5] * 13})
    part = good.inputs[0]
    assert isinstance(part, Part)
    odd = [
        msgspec.structs.replace(good, verb="explain"),
        msgspec.structs.replace(good, verb="describe"),
        msgspec.structs.replace(json({"instances": [{"x": [0.5] * 13}]}), envelope="json"),
        request(part, part),
        request(Part("x", JSON, b"[1,2,3,4,5,6,7,8,9,10,11,12,13]")),
        request(Part("body", JSON, memoryview(part.data))),  # type: ignore[arg-type]
        json({"x": [[0.5] * 13]}),
    ]
    for other in odd:
        for requests in ([other], [good, other], [other, good, good]):
            fast, general = both_ways(service, requests)
            assert fast == general
    assert {type(outcome) for outcome in service.run([good] * 3)} == {Reply}


def test_only_the_built_in_handler_on_a_model_of_rows_has_a_lane(load: Load) -> None:
    own = "from pdserver.handlers.base import BaseHandler\nclass Own(BaseHandler):\n    pass\n"
    assert load()._lane is not None
    for service in (
        load(source=own),
        load(service_envelope="json"),
        load(decode_input_request=False),
        load(config={"interface": {"batched": False}}),
        load("pir/colours.json", "image_classifier"),
    ):
        assert service._lane is None
