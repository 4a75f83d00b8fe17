"""Where the tensors of a body are: nothing is copied to get at them."""

from __future__ import annotations

import gzip
import json

from pdserver.configuration.model import ModelSpec
from pdserver.dialects.base import Body
from pdserver.dialects.compression import decompressed
from pdserver.dialects.oip.inference import read_request
from pdserver.dialects.oip.request import InferRequest
from pdserver.memory_file import THRESHOLD_BYTES, MemoryFile, view
from pdserver.types import Interface, Port, Tensor

SPEC = ModelSpec(
    name="two", version="1", url="", directory="", handler="", manifest={}, model_config={}, min_workers=1,
    max_workers=1, batch_size=8,
)  # fmt: skip
INTERFACE = Interface([Port("a", "float32", (-1, -1)), Port("b", "uint8", (-1, -1))], [], batched=True)
A, B = bytes(range(256)) * 2000, b"xyz"
HEAD = json.dumps({
    "inputs": [
        {"name": "a", "datatype": "FP32", "shape": [1, len(A) // 4], "parameters": {"binary_data_size": len(A)}},
        {"name": "b", "datatype": "UINT8", "shape": [1, 3], "parameters": {"binary_data_size": len(B)}},
    ]
}).encode()  # fmt: skip


def read(body: Body) -> InferRequest:
    return read_request(SPEC, INTERFACE, [], body, len(HEAD), "id", b"")


def test_tensors_of_a_large_body_are_places_in_its_file() -> None:
    file = MemoryFile([HEAD, A, B])
    file.seal()
    request = read(Body(b"", file))
    assert request.files == [file.fd]
    assert request.inputs == [
        Tensor("a", "float32", (1, len(A) // 4), b"", 0, len(HEAD), len(A)),
        Tensor("b", "uint8", (1, 3), b"", 0, len(HEAD) + len(A), len(B)),
    ]


def test_tensors_of_a_small_body_are_views_of_it() -> None:
    data = HEAD + A + B
    request = read(Body(data))
    assert request.files == []
    for given, expected in zip(request.inputs, (A, B), strict=True):
        assert memoryview(given.data).obj is data
        assert given.data == expected


def test_what_a_large_body_is_decompressed_to_lives_as_long_as_the_body() -> None:
    assert len(A) > THRESHOLD_BYTES
    body = decompressed(Body(gzip.compress(HEAD + A + B, 1)), b"gzip", 10_000_000)
    request = read(body)
    assert request.files == [file.fd for file in body.kept]
    assert bytes(view(request.files[0])) == HEAD + A + B
