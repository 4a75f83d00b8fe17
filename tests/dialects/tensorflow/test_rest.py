"""TensorFlow Serving's REST API, asked as its users ask it: with `requests`."""

from __future__ import annotations

import base64
import gzip
import json
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import requests

from tests.conftest import Lent, fit_file
from tests.running import RunningServer

HALF = "inputs: {x: [float32, [-1]]}\noutputs: {y: [float32, [-1], x]}\n"
CONFIGS = {
    "half": HALF,
    "half_column": "inputs: {x: [float32, [-1, 1]]}\noutputs: {y: [float32, [-1, 1], x]}\n",
    "whole": "inputs: {x: [int32, [-1, -1]]}\noutputs: {y: [float64, [-1, -1], x]}\n",
    "twice": f"{HALF}twice: true\n",
    "picture": "inputs: {x: [float32, [-1, 2, 2]]}\noutputs: {y: [float32, [-1, 2, 2], x]}\n",
    "words": "inputs: {word: [bytes, [-1]]}\noutputs: {word: [bytes, [-1], word], word_bytes: [bytes, [-1], word]}\n",
    "two": "inputs: {a: [float32, [-1, 2]], b: [int64, [-1]]}\n"
    "outputs: {c: [float32, [-1, 2], a], d: [int64, [-1, 1], b]}\n",
    "classes": "inputs: {x: [float32, [-1, 3]]}\n"
    "outputs: {scores: [float32, [-1, 3], x]}\nlabels: {0: cat, 2: 'null'}\n",
}
"""Of the zoo's `signature`."""
Ask = Callable[..., requests.Response]


@pytest.fixture(scope="module")
def server(servant: Lent, fit_model: Path) -> Iterator[RunningServer]:
    for name, config in CONFIGS.items():
        servant("signature", name, config)
    servant("signature", "half", HALF, version="2.0")
    servant("base_handler", "fit", "batchSize: 8\nmaxBatchDelay: 300\n", serialized_file=fit_file(fit_model))
    server = servant("mirror")
    yield server
    server.manage("DELETE", "/models/half/2.0")  # before the default version
    servant.clear()


@pytest.fixture(scope="module")
def ask(server: RunningServer) -> Ask:
    """Posts to a path below /v1/models/."""

    def ask(path: str, body: Any, **headers: str) -> requests.Response:
        given = {name.replace("_", "-"): value for name, value in headers.items()}
        data: dict[str, Any] = {"data": body} if isinstance(body, bytes) else {"json": body}
        return server.session.post(f"{server.inference}/v1/models/{path}", headers=given, timeout=60, **data)

    return ask


OK = {"error_code": "OK", "error_message": ""}
LETTERS = base64.b64encode(b"abc").decode()
SMALLEST = {"b64": base64.b64encode(b"\xff\x00").decode()}


@pytest.mark.parametrize(
    ("path", "body", "text"),
    [
        # Rows
        ("half:predict", {"instances": [1.0, 2.0, 5.0]}, '{"predictions":[2.5,3.0,4.5]}'),
        ("half_column:predict", {"instances": [1.0, 2.0, 5.0]}, '{"predictions":[[2.5],[3.0],[4.5]]}'),
        ("half_column:predict", {"instances": [[1.0], [2]]}, '{"predictions":[[2.5],[3.0]]}'),
        ("half:predict", {"instances": [[1.0], [2.0]]}, '{"predictions":[2.5,3.0]}'),
        ("half:predict", {"instances": [{"x": 1}, {"x": 2.0}]}, '{"predictions":[2.5,3.0]}'),
        ("half:predict", {"instances": [0.2, 1e20, 3e-7]}, '{"predictions":[2.1,5e+19,2.0000002]}'),
        ("half:predict", b' {"instances": [NaN, Infinity, -Infinity, 1]}',
         '{"predictions":[NaN,Infinity,-Infinity,2.5]}'),
        ("half:predict", b'{"instances": [1]} and what follows', '{"predictions":[2.5]}'),
        ("half:predict", {"instances": [1], "signature_name": "serving_default"}, '{"predictions":[2.5]}'),
        ("half:predict", {"instances": [1], "signature_name": "", "more": {"a": [None]}}, '{"predictions":[2.5]}'),
        ("whole:predict", {"instances": [[1, 2], [3, 4]]}, '{"predictions":[[2.5,3.0],[3.5,4.0]]}'),
        ("picture:predict", {"instances": [[[1, 2], [3, 4]]]}, '{"predictions":[[[2.5,3.0],[3.5,4.0]]]}'),
        ("two:predict", {"instances": [{"a": [1, 2], "b": 4}, {"b": 5, "a": [3, 4]}]},
         '{"predictions":[{"c":[2.5,3.0],"d":[4]},{"c":[3.5,4.0],"d":[4]}]}'),
        ("two:predict", b'{"instances": [{"a": [NaN, 2], "b": 4}]}', '{"predictions":[{"c":[NaN,3.0],"d":[4]}]}'),
        # Columns
        ("half:predict", {"inputs": [1.0, 2.0]}, '{"outputs":[2.5,3.0]}'),
        ("half:predict", {"inputs": {"x": [1.0, 2]}}, '{"outputs":[2.5,3.0]}'),
        ("two:predict", {"inputs": {"b": [4, 5], "a": [[1, 2], [3, 4]], "more": 1}},
         '{"outputs":{"c":[[2.5,3.0],[3.5,4.0]],"d":[[4],[4]]}}'),
        # Strings and bytes
        ("words:predict", {"instances": ["abc", "null"]},
         '{"predictions":[{"word":"abc","word_bytes":{"b64":"YWJj"}},{"word":"null","word_bytes":{"b64":"bnVsbA=="}}]}'),
        ("words:predict", {"instances": [{"b64": LETTERS}, {"word": "x"}][:1]},
         '{"predictions":[{"word":"abc","word_bytes":{"b64":"YWJj"}}]}'),
        ("words:predict", {"inputs": {"word": [SMALLEST, "é"]}},
         '{"outputs":{"word":[{"b64":"/wA="},"é"],"word_bytes":[{"b64":"/wA="},{"b64":"w6k="}]}}'),
        ("words:predict", {"inputs": {"word": {"b64": LETTERS}}},
         '{"outputs":{"word":["abc"],"word_bytes":[{"b64":"YWJj"}]}}'),
        # Examples
        ("half:regress", {"examples": [{"x": 1}, {"x": [2.0]}]}, '{"results":[2.5,3.0]}'),
        ("half_column:regress", {"examples": [{"x": 1, "y": "z"}]}, '{"results":[2.5]}'),
        ("classes:classify", {"examples": [{"x": [1, 2, 3.0]}]}, '{"results":[[["cat",2.5],["1",3.0],["null",3.5]]]}'),
        ("classes:classify", {"context": {"x": [0, 0, 0]}, "examples": [{}, {"x": [2, 2, 2]}], "signature_name": ""},
         '{"results":[[["cat",2.0],["1",2.0],["null",2.0]],[["cat",3.0],["1",3.0],["null",3.0]]]}'),
        ("classes:classify", b'{"examples": [{"x": [NaN, 2, Infinity]}]}',
         '{"results":[[["cat",NaN],["1",3.0],["null",Infinity]]]}'),
        ("picture:predict", {"inputs": [[[1, 2], [3, 4]]]}, '{"outputs":[[[2.5,3.0],[3.5,4.0]]]}'),
        # Versions, and other spellings of a path
        ("half/versions/1:predict", {"instances": [1]}, '{"predictions":[2.5]}'),
        ("half/versions/2.0:predict", {"instances": [1]}, '{"predictions":[2.5]}'),
        ("half/VERSIONS/2:Predict", {"instances": [1]}, '{"predictions":[2.5]}'),
        ("h%61lf%3Apredict?x=1", {"instances": [1]}, '{"predictions":[2.5]}'),
    ],
)  # fmt: skip
def test_answers(ask: Ask, path: str, body: Any, text: str) -> None:
    answer = ask(path, body)
    assert (answer.status_code, answer.text) == (200, text)
    assert answer.headers["content-type"] == "application/json"


ELEMENT = "Failed to process input 'x' of 'instances'. Error: "


@pytest.mark.parametrize(
    ("path", "body", "status", "text"),
    [
        # JSON
        ("half:predict", b"", 400, "JSON Parse error: The document is empty"),
        ("half:predict", b'{"instances": [1', 400, "JSON Parse error: Input data was truncated"),
        ("half:predict", b'{"instances": [1.0.0]}', 400, "JSON Parse error: JSON is malformed: …"),
        ("half:predict", b'{"instances": ["\xff"]}', 400, "JSON Parse error: …"),
        ("half:predict", b'{"instances": ' + b"[" * 5000 + b"]" * 5000 + b"}", 400, "JSON Parse error: …"),
        ("half:predict", [1.0], 400, "JSON Value: [1.0] Is not object"),
        ("half:predict", {}, 400, "Missing 'inputs' or 'instances' key"),
        ("half:predict", {"examples": [{"x": 1}]}, 400, "Missing 'inputs' or 'instances' key"),
        ("half:predict", {"instances": [1], "inputs": [1]}, 400,
         'JSON Value: {"instances":[1],"inputs":[1]} Not formatted correctly expecting only one of \'inputs\' or '
         "'instances' keys to exist"),
        ("half:predict", {"instances": []}, 400, "No values in 'instances' array"),
        ("half:predict", {"instances": 3}, 400, "JSON Value: 3 Expecting 'instances' to be an list/array"),
        ("half:predict", {"instances": [1], "signature_name": 7}, 400,
         'JSON Value: {"instances":[1],"signature_name":7} not formatted correctly. \'signature_name\' key must be a '
         "string value."),
        ("half:predict", {"instances": [1], "signature_name": "other"}, 400,
         'Serving signature name: "other" not found in signature def: models have the one signature serving_default'),
        # Types
        ("half:predict", {"instances": ["a"]}, 400,
         f'{ELEMENT}JSON Value: "a" Type: String is not of expected type: float'),
        ("half:predict", {"instances": [None]}, 400,
         f"{ELEMENT}JSON Value: null Type: Null is not of expected type: float"),
        ("half:predict", {"instances": [True]}, 400,
         f"{ELEMENT}JSON Value: true Type: True is not of expected type: float"),
        ("half:predict", {"instances": [{"b64": "YQ=="}]}, 400,
         f'{ELEMENT}JSON Value: {{"b64":"YQ=="}} Type: Object is not of expected type: float'),
        ("half:predict", {"instances": [1e39]}, 400,
         f"{ELEMENT}Cannot convert JSON value: 1e+39 to float without loss of precision."),
        ("whole:predict", {"instances": [[1.0]]}, 400,
         f"{ELEMENT}JSON Value: 1.0 Type: Number is not of expected type: int32"),
        ("whole:predict", {"instances": [[2**31]]}, 400,
         f"{ELEMENT}JSON Value: 2147483648 Type: Number is not of expected type: int32"),
        ("words:predict", {"instances": [1]}, 400,
         "Failed to process input 'word' of 'instances'. Error: JSON Value: 1 Type: Number is not "
         "of expected type: string"),
        ("words:predict", {"instances": [{"b64": "a.b"}]}, 400,
         "Failed to process input 'word' of 'instances'. Error: Unable to base64 decode: JSON "
         "Value: {\"b64\":\"a.b\"}"),
        ("words:predict", {"inputs": [{"b64": 1}]}, 400,
         "Failed to process input 'word' of 'inputs'. Error: JSON Value: {\"b64\":1} not formatted "
         "correctly for base64 data"),
        ("words:predict", b'{"instances": ["\\ud800"]} x', 400, "Failed to process input 'word' of 'instances'. …"),
        # Lists
        ("whole:predict", {"instances": [[1, 2], [3]]}, 400,
         f"{ELEMENT}Encountered list at unexpected size: 1 at level: 1 expected size: 2"),
        ("whole:predict", {"instances": [[1], 2]}, 400,
         f"{ELEMENT}JSON Value: 2 found at incorrect level: 2 in the JSON DOM. Expected at level: 3"),
        ("whole:predict", {"instances": [1, [2]]}, 400,
         f"{ELEMENT}Encountered list at unexpected level: 1 expected < 1"),
        ("picture:predict", {"instances": [[1, 2]]}, 400,
         "unexpected shape for input 'x' for model 'picture'. Expected [-1,2,2], got [1,2]"),
        ("fit:predict", {"instances": [[1, 2]]}, 400,
         "unexpected shape for input 'x' for model 'fit'. Expected [-1,13], got [1,2]"),
        # Names
        ("half:predict", {"instances": [{"y": 1}]}, 400,
         'Failed to process element: 0 of \'instances\' list. JSON object: {"y":1} keys must be equal to: x'),
        ("half:predict", {"instances": [1, {"x": 1}]}, 400,
         "Expecting value/list but got object at item 1 of input list"),
        ("half:predict", {"instances": [{"x": 1}, 1]}, 400, "Expecting object but got list at item 1 of input list"),
        ("two:predict", {"instances": [1]}, 400,
         "instances is a plain list, but expecting list of objects as multiple input tensors required: a, b"),
        ("two:predict", {"instances": [{"a": [1, 2]}]}, 400,
         'Failed to process element: 0 of \'instances\' list. JSON object: {"a":[1,2]} keys must be equal to: a,b'),
        ("two:predict", {"inputs": [1]}, 400,
         "inputs is a plain value/list, but expecting an object as multiple input tensors required: a, b"),
        ("two:predict", {"inputs": {"a": [[1, 2]]}}, 400, "Missing named input: b in 'inputs' object."),
        ("two:predict", {"inputs": {"a": [[1, 2]], "b": [1, 2]}}, 400,
         "the batch size of all inputs of model 'two' must be the same; got a 1, b 2"),
        # Examples
        ("half:classify", {"instances": [1]}, 400,
         'JSON Value: {"instances":[1]} When method is classify, key \'examples\' is expected and was not found'),
        ("half:regress", {"examples": 1}, 400,
         "JSON Value: {\"examples\":1} Expecting 'examples' value to be an list/array"),
        ("half:regress", {"examples": []}, 400, "JSON Value: 'examples' value is an empty array"),
        ("half:regress", {"examples": [1]}, 400, "Example must be JSON object but got JSON 1"),
        ("half:regress", {"examples": [{"x": 1}], "context": []}, 400, "Example must be JSON object but got JSON []"),
        ("classes:classify", {"examples": [{}] * 8000, "context": {"x": [1] * 6000}}, 400,
         "the context has 48,008 bytes, and 8,000 examples have all of them: …"),
        ("half:regress", {"examples": [{"x": 1}, {}]}, 400,
         "Example 1, Feature: x (data type: float) is required but could not be found."),
        ("half:regress", {"examples": [{"x": "a"}]}, 400,
         'Feature: x: JSON Value: "a" Type: String is not of expected type: float'),
        ("half:regress", {"examples": [{"x": 1}], "signature_name": "classify"}, 400,
         'Serving signature name: "classify" not found…'),
        ("classes:regress", {"examples": [{"x": [1, 2, 3]}]}, 400,
         "output 'scores' has shape [1, 3]: regress needs one number for each example. Use predict"),
        ("words:classify", {"examples": [{"word": "a"}]}, 400,
         "the model can't classify: that needs exactly one output of floating-point numbers; its "
         "outputs are word (BYTES), "
         "word_bytes (BYTES). Use predict"),
        # What is asked
        ("nobody:predict", {"instances": [1]}, 404, "Servable not found for request: Latest(nobody)"),
        ("nobody/versions/1:predict", {"instances": [1]}, 404, "Servable not found for request: Specific(nobody, 1)"),
        ("half/versions/3:predict", {"instances": [1]}, 404, "Servable not found for request: Specific(half, 3)"),
        ("half/versions/x:predict", {"instances": [1]}, 404, "Servable not found for request: Specific(half, x)"),
        ("half/labels/production:predict", {"instances": [1]}, 400, "Unrecognized servable version label: production"),
        (":predict", {"instances": [1]}, 400, "Missing model name in request."),
        ("h%fflf:predict", {"instances": [1]}, 400, "the URL is not UTF-8"),
        ("half:guess", {"instances": [1]}, 400, "Malformed request: POST /v1/models/half:guess"),
        ("half", {"instances": [1]}, 400, "Malformed request: POST /v1/models/half"),
        ("half/sub:predict", {"instances": [1]}, 400, "Malformed request: POST /v1/models/half/sub:predict"),
        ("fit:explain", {"instances": [[0.5] * 13]}, 501, "BaseHandler explains nothing: …"),
    ],
)  # fmt: skip
def test_what_is_refused(ask: Ask, path: str, body: Any, status: int, text: str) -> None:
    """Texts that end with an ellipsis only begin so."""
    answer = ask(path, body)
    said = answer.json()
    assert (answer.status_code, said.keys()) == (status, {"error"}), said
    assert said["error"].startswith(text[:-1]) if text.endswith("…") else said["error"] == text


def version(number: int, state: str = "AVAILABLE") -> dict[str, Any]:
    return {"version": str(number), "state": state, "status": OK}


def tensor(dtype: str, name: str, *sizes: int) -> dict[str, Any]:
    dims = [{"size": str(size), "name": ""} for size in sizes]
    return {name: {"dtype": dtype, "tensor_shape": {"dim": dims, "unknown_rank": False}, "name": name}}


def metadata(model: str, number: int, inputs: dict[str, Any], outputs: dict[str, Any]) -> dict[str, Any]:
    signature = {
        "inputs": inputs, "outputs": outputs, "method_name": "tensorflow/serving/predict", "defaults": {},
    }  # fmt: skip
    return {
        "model_spec": {"name": model, "signature_name": "", "version": str(number)},
        "metadata": {"signature_def": {"signature_def": {"serving_default": signature}}},
    }


X, Y = tensor("DT_FLOAT", "x", -1), tensor("DT_FLOAT", "y", -1)
BOTH = [version(2), version(1)]


@pytest.mark.parametrize(
    ("path", "status", "expected"),
    [
        ("half", 200, {"name": "half", "ready": True, "model_version_status": BOTH}),
        ("half/", 200, {"name": "half", "ready": True, "model_version_status": BOTH}),
        ("half/labels/any", 200, {"model_version_status": BOTH}),
        ("half/versions/2", 200, {"model_version_status": [version(2)]}),
        ("half/versions/1.0", 200, {"model_version_status": [version(1)]}),
        ("h%61lf/Versions/1", 200, {"model_version_status": [version(1)]}),
        ("half/versions/3", 404, {"error": "Could not find version 3 of model half"}),
        ("nobody", 404, {"error": "Could not find any versions of model nobody"}),
        ("nobody/versions/1", 404, {"error": "Could not find any versions of model nobody"}),
        ("half/metadata", 200, metadata("half", 1, X, Y)),
        ("half/versions/2/metadata", 200, metadata("half", 2, X, Y)),
        ("words/metadata", 200, metadata("words", 1, tensor("DT_STRING", "word", -1),
         tensor("DT_STRING", "word", -1) | tensor("DT_STRING", "word_bytes", -1))),
        ("two/metadata", 200, metadata("two", 1, tensor("DT_FLOAT", "a", -1, 2) | tensor("DT_INT64", "b", -1),
         tensor("DT_FLOAT", "c", -1, 2) | tensor("DT_INT64", "d", -1, 1))),
        ("nobody/metadata", 404, {"error": "Servable not found for request: Latest(nobody)"}),
        ("half/versions/3/metadata", 404, {"error": "Servable not found for request: Specific(half, 3)"}),
        ("half/labels/any/metadata", 400, {"error": "Unrecognized servable version label: any"}),
        ("half:predict", 400, {"error": "Malformed request: GET /v1/models/half:predict"}),
        ("half/what", 400, {"error": "Malformed request: GET /v1/models/half/what"}),
        ("half%2Fversions", 400, {"error": "Malformed request: GET /v1/models/half%2Fversions"}),
        ("../what?x=1", 400, {"error": "Malformed request: GET /v1/what"}),
    ],
)  # fmt: skip
def test_status_and_metadata(server: RunningServer, path: str, status: int, expected: dict[str, Any]) -> None:
    for below in ("/v1/models/", "/V1/MODELS/"):
        answer = server.session.get(f"{server.inference}{below}{path}", timeout=60)
        expected_here = json.loads(json.dumps(expected).replace("GET /v1/models/", f"GET {below}"))
        if "what?" in path:
            expected_here = {"error": f"Malformed request: GET {below[:4]}what"}
        assert (answer.status_code, answer.json()) == (status, expected_here)


def test_outside_of_it_paths_are_as_ever(server: RunningServer) -> None:
    assert server.session.get(f"{server.inference}/v3/models/half", timeout=60).status_code == 404
    assert server.session.get(f"{server.inference}/v1x/models", timeout=60).status_code == 404
    assert server.session.get(f"{server.inference}/v1", timeout=60).json() == {"error": "Malformed request: GET /v1"}


def test_compressed_bodies_and_answers(server: RunningServer, ask: Ask) -> None:
    numbers = np.arange(1000, dtype=np.float32)
    body = gzip.compress(json.dumps({"instances": numbers.tolist()}).encode())
    answer = ask("half:predict", body, Content_Encoding="gzip", Accept_Encoding="gzip")
    assert (answer.status_code, answer.headers["content-encoding"]) == (200, "gzip")
    assert answer.json() == {"predictions": (numbers / 2 + 2).tolist()}
    answer = ask("half:predict", b'{"instances": [1]}', Accept_Encoding="gzip")
    assert (answer.text, "content-encoding" in answer.headers) == ('{"predictions":[2.5]}', False)
    for body, encoding, status in ((b"no gzip", "gzip", 400), (b"", "br", 501)):
        answer = ask("half:predict", body, Content_Encoding=encoding)
        assert (answer.status_code, answer.json().keys()) == (status, {"error"})


@pytest.mark.parametrize("compressed", [False, True])
def test_large_bodies_and_answers(ask: Ask, compressed: bool) -> None:
    """Other processes read and write them, with the same words for what is wrong."""
    pictures = np.arange(80_000, dtype=np.float32).reshape(-1, 2, 2)

    def asked(path: str, given: Any) -> requests.Response:
        body = json.dumps(given).encode()
        assert len(body) > 100_000
        if compressed:
            return ask(path, gzip.compress(body), Content_Encoding="gzip", Accept_Encoding="gzip")
        return ask(path, body, Accept_Encoding="identity")

    answer = asked("picture:predict", {"instances": pictures.tolist()})
    assert answer.json() == {"predictions": (pictures / 2 + 2).tolist()}
    assert answer.headers.get("content-encoding") == ("gzip" if compressed else None)
    answer = asked("two:predict", {"inputs": {"a": pictures[:, 0].tolist(), "b": [4] * 20_000}})
    assert answer.json()["outputs"]["c"] == (pictures[:, 0] / 2 + 2).tolist()
    answer = asked("classes:classify", {"examples": [{"x": [1, 2, 3]}] * 20_000})
    assert answer.json()["results"] == [[["cat", 2.5], ["1", 3.0], ["null", 3.5]]] * 20_000
    answer = asked("picture:predict", {"instances": [*pictures.tolist(), "a"]})
    assert (answer.status_code, "incorrect level" in answer.json()["error"]) == (400, True)


def test_an_answer_in_pieces_has_a_line_for_each(ask: Ask) -> None:
    assert ask("twice:predict", {"instances": [1, 2]}).text == '{"predictions":[2.5,3.0]}\n' * 2
    large = ask("twice:predict", {"inputs": list(range(40_000))}).text.split("\n")
    assert [len(json.loads(line)["outputs"]) for line in large[:2]] == [40_000] * 2
    assert large[2:] == [""]


def test_more_rows_than_a_batch_has(ask: Ask) -> None:
    rows = np.random.default_rng(3).random((50, 13), np.float32)
    predictions = ask("fit:predict", {"instances": rows.tolist()}).json()["predictions"]
    ones = [ask("fit:predict", {"instances": [row]}).json()["predictions"][0] for row in rows.tolist()[:3]]
    assert (len(predictions), np.shape(predictions)) == (50, (50, 1))
    assert np.allclose(predictions[:3], ones)


def test_one_wrong_instance_fails_nobody_else(server: RunningServer) -> None:
    """Even if all would be of one batch."""

    def one(row: Any) -> tuple[int, str]:
        url = f"{server.inference}/v1/models/fit:predict"
        answer = requests.post(url, json={"instances": [row]}, timeout=60)
        return answer.status_code, next(iter(answer.json()))

    right = [0.5] * 13
    rows = [right, "a", right, [1], {"b64": "?"}, right, [None] * 13, right]
    with ThreadPoolExecutor(8) as threads:
        found = list(threads.map(one, rows))
    assert found == [(200, "predictions") if row is right else (400, "error") for row in rows]


def test_handlers_with_a_form_of_their_own_are_asked_by_kserves_rules(ask: Ask) -> None:
    """By all the ways to name a version."""
    body = b'{"instances": ["a"]}'
    for path in ("mirror:predict", "mirror/versions/1:predict", "mirror/versions/1.0:predict", "Mirror:predict"):
        answer = ask(path, body)
        expected = (404, None) if path.startswith("M") else (200, body[::-1])
        assert (answer.status_code, answer.content if answer.ok else None) == expected
    assert ask("mirror/versions/7:predict", body).status_code == 404
    assert ask("mirror/labels/a:predict", body).json() == {"error": "Unrecognized servable version label: a"}


def test_a_request_that_its_client_does_not_wait_for(ask: Ask) -> None:
    answer = ask("half:predict", {"instances": [1]}, X_Request_Timeout_Ms="x")
    assert (answer.status_code, "x-request-timeout-ms" in answer.json()["error"]) == (400, True)
    assert ask("half:predict", {"instances": [1]}, X_Request_Timeout_Ms="60000").status_code == 200
