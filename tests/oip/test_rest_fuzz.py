"""Whatever comes in a body: a request is made of it, or an error that says what was wrong. Never anything else."""

from __future__ import annotations

import contextlib
import gzip
import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pdserver.configuration.model import ModelSpec
from pdserver.dialects.base import Body
from pdserver.dialects.compression import chosen, decompressed
from pdserver.dialects.oip.generate import read_generation
from pdserver.dialects.oip.inference import read_request
from pdserver.dialects.oip.shared_memory import Regions
from pdserver.dtypes import DATATYPES, DTYPES
from pdserver.errors import PdError
from pdserver.tensors import array
from pdserver.types import Interface, Port, Tensor
from tests.oip.tensors import all_inputs

SPEC = ModelSpec(
    name="echo", version="1", url="", directory="", handler="", manifest={}, model_config={}, min_workers=1,
    max_workers=1, batch_size=8,
)  # fmt: skip
PORTS = [Port(name.lower(), dtype, (-1, -1)) for name, dtype in DTYPES.items()]
INTERFACE = Interface(PORTS, PORTS, batched=True)
REGIONS = Regions(enabled=True)

values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | st.sampled_from([*DATATYPES, "x"]),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=6,
)
FIELDS = ("name", "shape", "datatype", "data", "parameters")
PARAMETERS = (
    "binary_data_size", "shared_memory_region", "shared_memory_byte_size", "shared_memory_offset", "binary_data",
    "classification", "binary_data_output", "timeout", "priority", "sequence_id", "sequence_start", "sequence_end",
    "triton_x", "mine",
)  # fmt: skip
parameters = st.dictionaries(st.sampled_from(PARAMETERS), values | st.integers(0, 20), max_size=3)


@st.composite
def heads(draw: st.DrawFn) -> dict[str, Any]:
    """A good request with a few things changed."""
    head: dict[str, Any] = {"inputs": all_inputs()}
    for _ in range(draw(st.integers(1, 3))):
        given_input = head["inputs"][draw(st.integers(0, 13))]
        match draw(st.integers(0, 5)):
            case 0:
                given_input[draw(st.sampled_from(FIELDS))] = draw(values)
            case 1:
                given_input.pop(draw(st.sampled_from(FIELDS)), None)
            case 2:
                given_input["parameters"] = draw(parameters)
            case 3:
                head["parameters"] = draw(parameters)
            case 4:
                head["outputs"] = [{"name": draw(st.sampled_from(["fp32", "x"])), "parameters": draw(parameters)}]
            case 5:
                head[draw(st.sampled_from(["id", "outputs", "parameters"]))] = draw(values)
    return head


def read(body: bytes, head_bytes: int | None) -> None:
    with contextlib.suppress(PdError):
        request = read_request(SPEC, INTERFACE, [], Body(body), head_bytes, "id", b"")
        REGIONS.settle(request, [])
        for tensor in request.inputs:
            assert isinstance(tensor, Tensor)
            if tensor.dtype != "bytes":
                assert array(tensor).shape == tensor.shape


@settings(max_examples=400)
@given(heads(), st.binary(max_size=24), st.integers(-3, 3))
def test_requests_that_are_changed_a_little(head: dict[str, Any], tail: bytes, off: int) -> None:
    text = json.dumps(head).encode("utf-8", "surrogatepass")
    read(text, None)
    read(text + tail, max(1, len(text) + off))


@settings(max_examples=200)
@given(st.binary(max_size=60), st.none() | st.integers(0, 70))
def test_any_bytes(body: bytes, head_bytes: int | None) -> None:
    read(body, head_bytes)


@pytest.mark.parametrize("text", [
    '"\\ud800"', '"\\udc00x"', "1e400", "-1e400", "123456789012345678901234567890", "NaN", "-Infinity", "nan", "01",
    '"\x00"', "[[[[1]]]]", "[1,", "\xff", "1.", "--1", "true", "null",
])  # fmt: skip
@pytest.mark.parametrize("datatype", ["FP16", "FP32", "BF16", "INT8", "UINT64", "BOOL", "BYTES"])
def test_odd_elements_of_any_datatype(datatype: str, text: str) -> None:
    inputs = [item for item in all_inputs() if item["datatype"] != datatype]
    one = f'{{"name": "{datatype.lower()}", "shape": [1, 2], "datatype": "{datatype}", "data": [{text}, {text}]}}'
    body = f'{{"inputs": [{one}, {json.dumps(inputs)[1:-1]}]}}'
    read(body.encode("latin-1"), None)
    read(body.replace("[1, 2]", "[1, NaN]", 1).encode("latin-1"), None)


@settings(max_examples=200)
@given(st.dictionaries(st.sampled_from([*(port.name for port in PORTS), "parameters", "id", "x"]), values, max_size=4))
def test_generations(given_json: dict[str, Any]) -> None:
    with contextlib.suppress(PdError):
        read_generation(SPEC, INTERFACE, [], given_json, "id")


@settings(max_examples=200)
@given(st.binary(max_size=60), st.sampled_from([b"gzip", b"deflate", b"x", b" GZIP "]), st.integers(0, 30))
def test_compressed_bodies(data: bytes, encoding: bytes, cut: int) -> None:
    for body in (data, gzip.compress(data)[: len(data) + 20 - cut], gzip.compress(data) + data):
        with contextlib.suppress(PdError):
            decompressed(Body(body), encoding, 1000)
    assert chosen(data, 10, numbers=True) in ("", "gzip", "deflate")
