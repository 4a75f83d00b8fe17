"""Requests to pipelines that no honest client sends, by each door: 4xx with words that help, and nothing of ours."""

from __future__ import annotations

import base64
import json
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import requests
import tritonclient.grpc
from tritonclient.utils import InferenceServerException

from pdarchiver.workflow.pack import WorkflowOptions, pack
from tests.running import RunningServer

STEPS = """
import numpy as np

from pdserver.errors import InvalidRequest
from pdserver.handlers.vision import images


class Look:
    def handle(self, data, context):
        return [self.one(row) for row in data]

    def one(self, row):
        try:
            picture = images.decode(row["image"], gray=False, max_pixels=1_000_000)
        except InvalidRequest as error:
            return error
        return {"result": {"size": list(picture.shape), "asked": row.get("parameters")}}


def word(data, context):
    return [{"told": f"{row['word']}"} for row in data]


def whole(data, context):
    return [{"told": {"words": len(row["told"]), "boxes": row["boxes"].shape, "note": row["note"],
                      "options": row.get("options")}} for row in data]


def told(data, context):
    return [{"answer": {"key": ["n"], "value": [str(len(row["request"]))]}} for row in data]
"""
MIXED = """
inputs: {words: list, boxes: "float32[-1, 4]", note: text, options: json}
outputs: {told: whole.told}
nodes:
  word: {each: word, python: "steps.py:word", inputs: {word: words}, outputs: {told: text}}
  whole:
    python: steps.py:whole
    inputs: {told: word.told, boxes: boxes, note: note, options: {from: options, optional: true}}
    outputs: {told: json}
"""
LOOKING = """
inputs: {image: bytes, parameters: json}
outputs: {result: look.result}
contract: paddlex/CONTRACT
nodes:
  look:
    python: steps.py:Look
    inputs: {image: image, parameters: {from: parameters, optional: true}}
    outputs: {result: json}
"""
PICTURE_ONLY = """
inputs: {image: bytes}
outputs: {result: look.result}
nodes:
  look: {python: "steps.py:Look", inputs: {image: image}, outputs: {result: json}}
"""
DEEP = 100_000
JSON = {"Content-Type": "application/json"}


def png(width: int, height: int) -> bytes:
    """The head of a picture that says how large it is, and has nothing more."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


BAD_PICTURES = {
    "empty": b"",
    "text": b"no picture",
    "head alone": b"\x89PNG\r\n\x1a\n",
    "jpeg's head": b"\xff\xd8\xff\xe0\x00\x10JFIF\x00",
    "no pixels": png(0, 0),
    "large": png(100_000, 100_000),
    "as large as can be": png(2**31 - 1, 2**31 - 1),
    "broken": png(10, 10),
}


def in_base64(data: bytes) -> str:
    return base64.b64encode(data).decode()


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    folder = tmp_path_factory.mktemp("hostile")
    pipelines = {
        "mixed": MIXED,
        "looks": LOOKING.replace("CONTRACT", "image-classification"),
        "reads": LOOKING.replace("CONTRACT", "ocr")
        .replace("image:", "file:", 1)
        .replace("image: image", "image: file"),
        "picture": PICTURE_ONLY,
    }
    for name, text in pipelines.items():
        own = folder / "store" / name
        own.mkdir(parents=True)
        (own / "pipeline.yaml").write_text(text)
        (own / "steps.py").write_text(STEPS)
    (folder / "functions.py").write_text(
        "def copy(data, context):\n    return data and [row.get('data') or row.get('body') for row in data]\n"
    )
    (folder / "spec.yaml").write_text("dag: {copy: []}")
    pack(
        WorkflowOptions(
            workflow_name="copies",
            spec_file=folder / "spec.yaml",
            handler=folder / "functions.py",
            export_path=folder / "store",
        )
    )
    with RunningServer(folder / "server", folder / "store", "mixed,looks,reads,picture") as server:
        assert server.manage("POST", "/workflows?url=copies.war").ok
        yield server


def refused(answer: requests.Response) -> str:
    """What it says, after it was looked at."""
    assert 400 <= answer.status_code < 500, f"{answer.status_code}: {answer.text[:500]}"
    assert "Traceback" not in answer.text
    assert "internal error" not in answer.text
    assert len(answer.text) < 2000
    return answer.text


ENVELOPES: dict[str, Any] = {
    "nothing": b"",
    "no JSON": b"{",
    "null": None,
    "a list": [],
    "text": "image",
    "empty": {},
    "null picture": {"image": None},
    "a number": {"image": 1},
    "a list of pictures": {"image": ["aGk="]},
    "empty text": {"image": ""},
    "rubbish": {"image": "%%%%"},
    "half base64": {"image": "aGk"},
    "not ASCII": {"image": "é" * 100},
    "half a surrogate": b'{"image": "\\ud800"}',
    "NUL": {"image": "\0"},
    "deep": b'{"image": "aGk=", "x": ' + b"[" * DEEP + b"]" * DEEP + b"}",
    "deep objects": b'{"image": "aGk=", "x": ' + b'{"a":' * DEEP + b"1" + b"}" * DEEP + b"}",
    "NaN": b'{"image": "aGk=", "topk": NaN}',
    "infinite": b'{"image": "aGk=", "topk": 1e999}',
    "a huge number": b'{"image": "aGk=", "topk": ' + b"9" * 5000 + b"}",
    "topk is text": {"image": "aGk=", "topk": "many"},
    "topk is 0": {"image": "aGk=", "topk": 0},
    "visualize is text": {"image": "aGk=", "visualize": "perhaps"},
    "logId is a number": {"image": "aGk=", "logId": 5},
    "a URL that is not allowed": {"image": "http://127.0.0.1:1/x.png"},
    "a URL without a host": {"image": "http://"},
    "not UTF-8": b'{"image": "\xff\xfe"}',
    "a name twice": b'{"image": "aGk=", "image": "aGk="}',
    **{f"picture: {name}": {"image": in_base64(data)} for name, data in BAD_PICTURES.items()},
}


@pytest.mark.parametrize("name", ENVELOPES)
def test_paddlex(server: RunningServer, name: str) -> None:
    given = ENVELOPES[name]
    data = given if isinstance(given, bytes) else json.dumps(given).encode()
    for path in ("/image-classification", "/ocr"):
        body = data.replace(b'"image"', b'"file"') if path == "/ocr" else data
        answer = server.session.post(server.inference + path, data=body, headers=JSON, timeout=60)
        text = refused(answer)
        found = json.loads(text)
        assert found["errorCode"] == answer.status_code
        assert found["errorMsg"]
        assert "result" not in found


PIPELINE_BODIES: dict[str, Any] = {
    "nothing": b"",
    "no JSON": b"{{",
    "a list": [],
    "empty": {},
    "keys are no list": {"key": "words", "value": ["[]"]},
    "more keys than values": {"key": ["words", "note"], "value": ["[]"]},
    "a key twice": {"key": ["words", "words"], "value": ["[]", "[]"]},
    "numbers": {"key": [1], "value": [2]},
    "null": {"key": None, "value": None},
    "unknown": {"key": ["word"], "value": ["[]"]},
    "too many": {"key": [f"k{i}" for i in range(5000)], "value": ["1"] * 5000},
    "tensors are no list": {"tensors": 3},
    "a tensor of nothing": {"tensors": [{}]},
    "a wrong elem_type": {"tensors": [{"name": "boxes", "elem_type": 99, "shape": [1, 4], "float_data": [1] * 4}]},
    "a negative length": {"tensors": [{"name": "boxes", "elem_type": 1, "shape": [-1, 4], "float_data": [1] * 4}]},
    "a gigantic shape": {"tensors": [{"name": "boxes", "elem_type": 1, "shape": [2**40, 4], "float_data": [1] * 4}]},
    "a pickle": {"tensors": [{"name": "boxes", "elem_type": 13, "byte_data": in_base64(b"\x80\x04N.")}]},
    "deep": b'{"key": ["words"], "value": ' + b"[" * DEEP + b"]" * DEEP + b"}",
    "a lod": {
        "key": [],
        "value": [],
        "tensors": [{"name": "boxes", "elem_type": 1, "shape": [1, 4], "float_data": [1] * 4, "lod": [0, 9]}],
    },
    "old: no fetch": {"feed": [{"boxes": [[1, 2, 3, 4]]}]},
    "old: feed is text": {"feed": "x", "fetch": ["told"]},
    "old: nothing to fetch": {"feed": [{"x": 1}], "fetch": [3]},
}


@pytest.mark.parametrize("name", PIPELINE_BODIES)
def test_paddle_servings_pipeline(server: RunningServer, name: str) -> None:
    """Which answers with the status 200 and an err_no for what it could read."""
    given = PIPELINE_BODIES[name]
    data = given if isinstance(given, bytes) else json.dumps(given).encode()
    answer = server.session.post(f"{server.inference}/mixed/prediction", data=data, headers=JSON, timeout=60)
    assert answer.status_code < 500, answer.text
    assert "Traceback" not in answer.text
    assert "internal error" not in answer.text
    found = answer.json()
    if answer.status_code == 200:
        assert found.get("err_no", 1) != 0, answer.text
        assert found.get("err_msg") or isinstance(found["result"], str)
    else:
        assert found["message"] or found["error"]


BODIES: dict[str, Any] = {
    "nothing": b"",
    "no JSON": b"[1,",
    "a list": [1],
    "null": None,
    "a number": 3,
    "empty": {},
    "one is missing": {"words": ["a"], "boxes": [[1, 2, 3, 4]]},
    "an unknown one": {"words": [], "boxes": [[1, 2, 3, 4]], "note": "n", "colour": 1},
    "words are a number": {"words": 1, "boxes": [[1, 2, 3, 4]], "note": "n"},
    "words are an object": {"words": {}, "boxes": [[1, 2, 3, 4]], "note": "n"},
    "too many words": {"words": [0] * 10_001, "boxes": [[1, 2, 3, 4]], "note": "n"},
    "boxes are ragged": {"words": [], "boxes": [[1, 2, 3, 4], [1]], "note": "n"},
    "boxes are text": {"words": [], "boxes": [["1", "2", "3", "4"]], "note": "n"},
    "boxes are too narrow": {"words": [], "boxes": [[1, 2, 3]], "note": "n"},
    "boxes are flat": {"words": [], "boxes": [1, 2, 3, 4], "note": "n"},
    "boxes are null": {"words": [], "boxes": None, "note": "n"},
    "boxes are too large": {"words": [], "boxes": [[1e300, 1, 1, 1]], "note": "n"},
    "NaN": b'{"words": [], "boxes": [[NaN, 1, 1, 1]], "note": "n"}',
    "infinite": b'{"words": [], "boxes": [[1e999, 1, 1, 1]], "note": "n"}',
    "boxes are deep": b'{"words": [], "boxes": ' + b"[" * DEEP + b"]" * DEEP + b', "note": "n"}',
    "boxes are 40 deep": b'{"words": [], "boxes": ' + b"[" * 40 + b"1" + b"]" * 40 + b', "note": "n"}',
    "options are deep": b'{"words": [], "boxes": [[1,2,3,4]], "note": "n", "options": '
    + b"[" * DEEP
    + b"]" * DEEP
    + b"}",
    "the note is a number": {"words": [], "boxes": [[1, 2, 3, 4]], "note": 5},
    "the note is half a surrogate": b'{"words": [], "boxes": [[1,2,3,4]], "note": "\\ud800"}',
    "a name twice": b'{"words": [], "words": [1], "boxes": [[1,2,3,4]], "note": "n"}',
    "a huge number": b'{"words": [], "boxes": [[' + b"9" * 5000 + b',1,1,1]], "note": "n"}',
}


@pytest.mark.parametrize("name", BODIES)
def test_plain_http(server: RunningServer, name: str) -> None:
    given = BODIES[name]
    data = given if isinstance(given, bytes) else json.dumps(given).encode()
    refused(server.predict("mixed", data, headers=JSON))


FORMS: dict[str, list[tuple[str, Any]]] = {
    "one is missing": [("words", "[]")],
    "one is there twice": [("words", "[]"), ("words", "[]"), ("boxes", "[[1,2,3,4]]"), ("note", "n")],
    "words are no JSON": [("words", "["), ("boxes", "[[1,2,3,4]]"), ("note", "n")],
    "boxes are no numbers": [("words", "[]"), ("boxes", "hello"), ("note", "n")],
    "an unknown one": [("words", "[]"), ("boxes", "[[1,2,3,4]]"), ("note", "n"), ("colour", "x")],
}


@pytest.mark.parametrize("name", FORMS)
def test_forms(server: RunningServer, name: str) -> None:
    refused(server.predict("mixed", files=[(each, (None, value)) for each, value in FORMS[name]]))


@pytest.mark.parametrize("name", BAD_PICTURES)
def test_pictures(server: RunningServer, name: str) -> None:
    assert "image" in refused(server.predict("picture", BAD_PICTURES[name]))


def tensor(name: str, datatype: str, shape: Any, data: Any, **more: Any) -> dict[str, Any]:
    return {"name": name, "datatype": datatype, "shape": shape, "data": data, **more}


WORDS, BOXES = tensor("words", "BYTES", [1], ["a"]), tensor("boxes", "FP32", [1, 4], [1, 2, 3, 4])
NOTE = tensor("note", "BYTES", [1], ["n"])
INFERENCES: dict[str, Any] = {
    "nothing": b"",
    "a list": [],
    "empty": {},
    "no inputs": {"inputs": []},
    "inputs are null": {"inputs": None},
    "an input is a number": {"inputs": [1]},
    "one is missing": {"inputs": [WORDS, BOXES]},
    "one is there twice": {"inputs": [WORDS, BOXES, NOTE, NOTE]},
    "an unknown one": {"inputs": [WORDS, BOXES, NOTE, tensor("colour", "FP32", [1], [1])]},
    "another dtype": {"inputs": [WORDS, tensor("boxes", "INT64", [1, 4], [1, 2, 3, 4]), NOTE]},
    "an unknown dtype": {"inputs": [WORDS, tensor("boxes", "FP31", [1, 4], [1, 2, 3, 4]), NOTE]},
    "another rank": {"inputs": [WORDS, tensor("boxes", "FP32", [4], [1, 2, 3, 4]), NOTE]},
    "another length": {"inputs": [WORDS, tensor("boxes", "FP32", [1, 5], [1, 2, 3, 4, 5]), NOTE]},
    "a negative length": {"inputs": [WORDS, tensor("boxes", "FP32", [-1, 4], [1, 2, 3, 4]), NOTE]},
    "a gigantic length": {"inputs": [WORDS, tensor("boxes", "FP32", [2**62, 4], [1, 2, 3, 4]), NOTE]},
    "an overflowing shape": {"inputs": [WORDS, tensor("boxes", "FP32", [2**63, 2**63], []), NOTE]},
    "too few data": {"inputs": [WORDS, tensor("boxes", "FP32", [2, 4], [1, 2, 3, 4]), NOTE]},
    "data are text": {"inputs": [WORDS, tensor("boxes", "FP32", [1, 4], "1234"), NOTE]},
    "data are null": {"inputs": [WORDS, tensor("boxes", "FP32", [1, 4], [None] * 4), NOTE]},
    "the note is two": {"inputs": [WORDS, BOXES, tensor("note", "BYTES", [2], ["n", "m"])]},
    "the note is a number": {"inputs": [WORDS, BOXES, tensor("note", "FP32", [1], [1])]},
    "words are a matrix of nothing": {"inputs": [tensor("words", "BYTES", [2**31 - 1, 0], []), BOXES, NOTE]},
    "no JSON in options": {"inputs": [WORDS, BOXES, NOTE, tensor("options", "BYTES", [1], ["{"])]},
    "an unknown output": {"inputs": [WORDS, BOXES, NOTE], "outputs": [{"name": "tolt"}]},
    "an output twice": {"inputs": [WORDS, BOXES, NOTE], "outputs": [{"name": "told"}] * 2},
    "classes of text": {
        "inputs": [WORDS, BOXES, NOTE],
        "outputs": [{"name": "told", "parameters": {"classification": 3}}],
    },
    "a binary size too large": {
        "inputs": [WORDS, tensor("boxes", "FP32", [1, 4], None, parameters={"binary_data_size": 10**12}), NOTE]
    },
    "no such memory": {
        "inputs": [
            WORDS,
            tensor(
                "boxes", "FP32", [1, 4], None, parameters={"shared_memory_region": "x", "shared_memory_byte_size": 16}
            ),
            NOTE,
        ]
    },
    "deep": b'{"inputs": [{"name": "boxes", "datatype": "FP32", "shape": [1, 4], "data": '
    + b"[" * DEEP
    + b"]" * DEEP
    + b"}]}",
    "NaN in a shape": b'{"inputs": [{"name": "boxes", "datatype": "FP32", "shape": [NaN, 4], "data": [1]}]}',
    "an infinite timeout": {"inputs": [WORDS, BOXES, NOTE], "parameters": {"timeout": "soon"}},
}


@pytest.mark.parametrize("name", INFERENCES)
def test_open_inference_protocol(server: RunningServer, name: str) -> None:
    given = INFERENCES[name]
    data = given if isinstance(given, bytes) else json.dumps(given).encode()
    answer = server.session.post(f"{server.inference}/v2/models/mixed/infer", data=data, headers=JSON, timeout=60)
    assert json.loads(refused(answer))["error"]


def grpc_input(name: str, value: Any, datatype: str) -> tritonclient.grpc.InferInput:
    found = tritonclient.grpc.InferInput(name, list(value.shape), datatype)
    found.set_data_from_numpy(value)
    return found


def test_open_inference_protocol_over_grpc(server: RunningServer) -> None:
    words = grpc_input("words", np.array([b"a"], object), "BYTES")
    boxes = grpc_input("boxes", np.ones((1, 4), np.float32), "FP32")
    note = grpc_input("note", np.array([b"n"], object), "BYTES")
    cases: list[list[Any]] = [
        [],
        [words],
        [words, grpc_input("boxes", np.ones((1, 3), np.float32), "FP32"), note],
        [words, grpc_input("boxes", np.ones((1, 4), np.int64), "INT64"), note],
        [words, boxes, grpc_input("note", np.array([b"n", b"m"], object), "BYTES")],
        [words, boxes, note, note],
    ]
    with tritonclient.grpc.InferenceServerClient(server.grpc_inference) as client:
        for number, inputs in enumerate(cases):
            with pytest.raises(InferenceServerException) as raised:
                client.infer("mixed", inputs)
            assert raised.value.status() == "StatusCode.INVALID_ARGUMENT", (number, raised.value)
        for name, picture in BAD_PICTURES.items():
            with pytest.raises(InferenceServerException) as raised:
                client.infer("picture", [grpc_input("image", np.array([picture], object), "BYTES")])
            assert raised.value.status() == "StatusCode.INVALID_ARGUMENT", (name, raised.value)


WORKFLOW_BODIES: dict[str, dict[str, Any]] = {
    "a broken form": {"data": b"--x\r\n", "headers": {"Content-Type": "multipart/form-data; boundary=x"}},
    "a form without a boundary": {"data": b"x", "headers": {"Content-Type": "multipart/form-data"}},
    "broken JSON": {"data": b"{", "headers": JSON},
    "deep JSON": {"data": b"[" * DEEP, "headers": JSON},
    "an unknown encoding": {"data": b"x", "headers": {"Content-Encoding": "bzip2"}},
    "no gzip": {"data": b"x", "headers": {"Content-Encoding": "gzip"}},
}


@pytest.mark.parametrize("name", WORKFLOW_BODIES)
def test_workflows(server: RunningServer, name: str) -> None:
    refused(server.session.post(f"{server.inference}/wfpredict/copies", timeout=60, **WORKFLOW_BODIES[name]))


def test_after_all_of_that_it_serves(server: RunningServer) -> None:
    assert server.ping().json()["status"] == "Healthy"
    given = {"words": ["a"], "boxes": [[1, 2, 3, 4]], "note": "n"}
    told = {"words": 1, "boxes": [1, 4], "note": "n", "options": None}
    assert server.predict("mixed", json=given).json() == told
    assert "Traceback" not in server.log()
    assert Path(server.log_file).stat().st_size < 1_000_000
