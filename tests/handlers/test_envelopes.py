"""TorchServe's service envelopes, and inputs that are not decoded."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import msgspec
import numpy as np
import pytest

from pdserver.configuration.model import ENVELOPES as NAMES
from pdserver.configuration.model import ModelSpec
from pdserver.handlers.runtime.envelopes import ENVELOPES
from pdserver.handlers.runtime.service import Service
from pdserver.types import Part, Reply, Request, Tensor
from tests.handlers.conftest import Load
from tests.handlers.requests import JSON, answer, body, json, refusal, request, tensor

ECHO = "def handle(data, context): return None if data is None else [[len(data), value] for value in data]\n"
_numbers = itertools.count()
Wrapped = Callable[..., Service]


@pytest.fixture
def wrapped(tmp_path: Path) -> Wrapped:
    """A loaded Service of a handler's source; other fields of the spec by name."""

    def wrapped(source: str, **fields: Any) -> Service:
        name = f"enveloped{next(_numbers)}"
        (tmp_path / f"{name}.py").write_text(source)
        spec = ModelSpec(
            name="mine", version="3.0", url="", directory=str(tmp_path), handler=name, manifest={}, model_config={},
            min_workers=1, max_workers=1, **fields,
        )  # fmt: skip
        service = Service(spec, None)
        service.load()
        return service

    return wrapped


def test_the_settings_know_the_envelopes() -> None:
    assert tuple(ENVELOPES) == NAMES


def test_body(wrapped: Wrapped) -> None:
    service = wrapped(ECHO, service_envelope="body")
    answers = service.run([json({"a": 1}), request(Part("data", JSON, b"[2]"), Part("more", "", b"x"))])
    assert list(map(answer, answers)) == [[2, {"a": 1}], [2, [2]]]


@pytest.mark.parametrize("name", ["json", "kserve"])
def test_instances_of_a_whole_batch_come_together(wrapped: Wrapped, name: str) -> None:
    service = wrapped(ECHO, service_envelope=name)
    answers = service.run([json({"instances": [1, 2]}), json({"instances": []}), json({"instances": ["c"]})])
    assert [answer(one)["predictions"] for one in answers] == [[[3, 1], [3, 2]], [], [[3, "c"]]]


@pytest.mark.parametrize("name", ["json", "kserve", "kservev2"])
def test_a_request_in_no_envelope_fails_alone(wrapped: Wrapped, name: str) -> None:
    service = wrapped(ECHO, service_envelope=name)
    key = "inputs" if name == "kservev2" else "instances"
    bad = [json([1]), json({"other": 1}), json({key: 1}), body(b"{"), request(tensor("x", np.ones(3)))]
    good = json({key: [{"data": 5}]})
    *failed, served = service.run([*bad, good])
    assert [refusal(one).partition(":")[0] for one in failed] == ["invalid"] * len(bad)
    assert refusal(failed[0]) == f'invalid: expected a JSON object with a list "{key}"'
    assert refusal(failed[3]).startswith("invalid: expected JSON: ")
    assert refusal(failed[4]) == 'invalid: expected the body, or a part called "data", got x'
    assert isinstance(served, Reply)
    assert b"5" in served.body


def test_nothing_but_empty_requests_never_reaches_the_handler(wrapped: Wrapped) -> None:
    service = wrapped("def handle(data, context): return None if data is None else 1 / 0\n", service_envelope="kserve")
    assert [answer(one) for one in service.run([json({"instances": []})])] == [{"predictions": []}]


def test_json_reads_base64(wrapped: Wrapped) -> None:
    source = "def handle(data, context): return None if data is None else [repr(value) for value in data]\n"
    service = wrapped(source, service_envelope="json")
    instances = [{"b64": "YWI="}, {"image": {"b64": "YWI="}, "n": 1}, {"b64": 1, "other": 2}]
    assert answer(service.run([json({"instances": instances})])[0])["predictions"] == [
        "b'ab'",
        "{'image': b'ab', 'n': 1}",
        "{'b64': 1, 'other': 2}",
    ]
    [bad] = service.run([json({"instances": [{"b64": "*"}]})])
    assert refusal(bad).startswith('invalid: "b64" is not base64')


def test_kserve_explains(wrapped: Wrapped) -> None:
    service = wrapped(ECHO, service_envelope="kserve")
    explain = msgspec.structs.replace(json({"instances": [7]}), verb="explain")
    assert answer(service.run([explain])[0]) == {"explanations": [[1, 7]]}


OUTPUTS = """
import numpy as np

VALUES = {
    "row": np.array([[1.5, 2.5]], "float32"),
    "class": 3,
    "name": "cat",
    "names": ["cat", "dog"],
    "labels": {"cat": 0.5},
    "ragged": [[1], [2, 3]],
    "yes": [True],
}

def handle(data, context):
    return None if data is None else [VALUES[given["data"][0]] for given in data]
"""


def test_kserve_v2(wrapped: Wrapped) -> None:
    service = wrapped(OUTPUTS, service_envelope="kservev2")

    def asked(*names: str, **more: Any) -> Request:
        inputs = [{"name": "x", "shape": [1], "datatype": "BYTES", "data": [name]} for name in names]
        return msgspec.structs.replace(json({"inputs": inputs, **more}), id="given")

    first, second = map(answer, service.run([asked("row", "class", id="own"), asked("name", "names")]))
    assert first == {
        "id": "own",
        "model_name": "mine",
        "model_version": "3.0",
        "outputs": [
            {"name": "predict", "shape": [1, 2], "datatype": "FP32", "data": [1.5, 2.5]},
            {"name": "predict", "shape": [1], "datatype": "INT64", "data": [3]},
        ],
    }
    assert second["id"] == "given"
    assert [(o["shape"], o["datatype"], o["data"]) for o in second["outputs"]] == [
        ([1], "BYTES", ["cat"]),
        ([2], "BYTES", ["cat", "dog"]),
    ]
    [third] = map(answer, service.run([asked("labels", "ragged", "yes")]))
    assert [(o["shape"], o["datatype"], o["data"]) for o in third["outputs"]] == [
        ([1], "BYTES", ['{"cat":0.5}']),
        ([1], "BYTES", ["[[1],[2,3]]"]),
        ([1], "BOOL", [True]),
    ]


HEADS = """
from pdserver.errors import InvalidRequest

def handle(data, context):
    for idx, value in enumerate(data or []):
        context.set_response_header(idx, "x-seen", f"{context.get_request_id(idx)}-{value}")
        if value == "stream":
            context.send_intermediate([f"{value}!" if value == "stream" else None for value in data])
    return data and [InvalidRequest("no") if value == "bad" else value for value in data]
"""


def test_the_context_counts_instances(wrapped: Wrapped) -> None:
    service = wrapped(HEADS, service_envelope="json")
    requests = [
        msgspec.structs.replace(json({"instances": instances}), id=id)
        for id, instances in [("a", [1, 2]), ("b", ["bad", 3]), ("c", ["stream"])]
    ]
    pieces: list[tuple[int, bytes]] = []

    def send(idx: int, piece: Reply) -> None:
        pieces.append((idx, piece.body))

    first, second, third = service.run(requests, send)
    assert isinstance(first, Reply)
    assert first.headers == [("x-seen", "a-1")]
    assert refusal(second) == "invalid: no"
    assert isinstance(third, Reply)
    assert third.headers == [("x-seen", "c-stream")]
    assert pieces == [(2, b"stream!")]


def test_a_handler_that_loses_an_instance(wrapped: Wrapped) -> None:
    service = wrapped("def handle(data, context): return data and data[1:]\n", service_envelope="json")
    [failed] = service.run([json({"instances": [1, 2]})])
    assert refusal(failed) == "handler: handler returned 1 answers for a batch of 2"


def test_the_built_in_handler_in_an_envelope(load: Load) -> None:
    plain = load()
    service = Service(dataclasses.replace(plain._spec, service_envelope="kserve"), None)
    service.load()
    rows = [[0.5] * 13, [1.0] * 13]
    [together] = map(answer, service.run([json({"instances": rows})]))
    apart = list(map(answer, plain.run(list(map(json, rows)))))
    for one, other in zip(together["predictions"], apart, strict=True):
        [row] = other.values()
        assert one == pytest.approx(row), "without the name of the only output"


@pytest.mark.parametrize("name", ["json", "kserve"])
def test_only_the_row_of_a_lone_output_loses_its_name(wrapped: Wrapped, name: str) -> None:
    source = """
import numpy as np

ROW = np.array([1.5, 2.5])
ANSWERS = {"one": {"y": ROW}, "scalar": {"y": ROW[0]}, "two": {"y": ROW, "z": ROW}, "label": {"cat": 1.0}}

def handle(data, context):
    return data and [ANSWERS[row] for row in data]
"""
    given = json({"instances": ["one", "scalar", "two", "label"]})
    [found] = wrapped(source, service_envelope=name).run([given])
    assert answer(found)["predictions"] == [[1.5, 2.5], 1.5, {"y": [1.5, 2.5], "z": [1.5, 2.5]}, {"cat": 1.0}]


def test_inputs_that_are_not_decoded(wrapped: Wrapped) -> None:
    source = "def handle(data, context): return data and [repr(row) for row in data]\n"
    given = [json({"a": 1}), body(b"\xff", "text/plain"), request(Tensor("x", "int8", (2,), b"\1\2"))]
    answers = wrapped(source, decode_input_request=False).run(given)
    assert [bytes(one.body).decode() for one in answers if isinstance(one, Reply)] == [
        """{'body': bytearray(b'{"a":1}')}""",
        "{'body': bytearray(b'\\xff')}",
        "{'x': array([1, 2], dtype=int8)}",
    ]


def test_an_envelope_of_what_is_not_decoded(wrapped: Wrapped) -> None:
    service = wrapped(ECHO, service_envelope="json", decode_input_request=False)
    assert [answer(one) for one in service.run([json({"instances": [1]})])] == [{"predictions": [[1, 1]]}]


def test_images_without_a_limit(load: Load, models: Path) -> None:
    config = {"image": {"color": "gray", "resize": [8, 8], "crop": None}}
    picture = cv2.imencode(".png", np.zeros((10_001, 10_000), np.uint8))[1].tobytes()
    limited = load("pir/digits.json", handler="image_classifier", config=config)
    spec = dataclasses.replace(limited._spec, limit_max_image_pixels=False, decode_input_request=False)
    service = Service(spec, None)
    service.load()
    [refused], [served] = limited.run([body(picture)]), service.run([body(picture)])
    assert refusal(refused) == "invalid: the image has 10000×10001 pixels; at most 100000000 are accepted"
    assert len(answer(served)) == 5
