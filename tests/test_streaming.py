"""Answers that arrive piece by piece, and the other routes by which predictions are asked for."""

from __future__ import annotations

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import pytest
import requests

from tests.conftest import Lent
from tests.running import RunningServer
from tests.security.raw import connect, read_all


@pytest.fixture(scope="module")
def server(servant: Lent) -> Iterator[RunningServer]:
    servant("stream", config="batchSize: 4\n")
    servant("parts")
    servant("parts", "enveloped", config="serviceEnvelope: json\n")
    servant("parts", "second", config="serviceEnvelope: kservev2\n")
    yield servant("chaos")
    servant.clear()


def stream(server: RunningServer, headers: dict[str, str] | None = None, **fields: Any) -> requests.Response:
    url = f"{server.inference}/predictions/stream"
    return requests.post(url, json=fields, stream=True, timeout=60, headers=headers)


def test_pieces_arrive_as_they_are_made(server: RunningServer, tmp_path: Path) -> None:
    go = tmp_path / "go"
    answer = stream(server, count=1, go=str(go))
    assert answer.headers["transfer-encoding"] == "chunked"
    pieces = answer.iter_content(None)
    assert next(pieces) == b"0 "
    go.touch()
    assert b"".join(pieces) == b"end"


def test_every_request_of_a_batch_has_its_own_stream(server: RunningServer) -> None:
    with ThreadPoolExecutor(8) as threads:
        texts = list(threads.map(lambda count: stream(server, count=count).text, range(8)))
    assert texts == ["".join(f"{n} " for n in range(count)) + "end" for count in range(8)]


def test_a_large_last_piece_arrives(server: RunningServer) -> None:
    for _ in range(20):  # whether pieces are read together is for the machine to say
        assert stream(server, count=5, last=1 << 20).content == b"0 1 2 3 4 " + bytes(1 << 20)


def test_a_connection_is_used_again_after_a_stream(server: RunningServer) -> None:
    with requests.Session() as session:
        for _ in range(3):
            answer = session.post(f"{server.inference}/predictions/stream", json={"count": 2}, timeout=60)
            assert answer.text == "0 1 end"


def test_server_sent_events(server: RunningServer) -> None:
    answer = stream(server, {"Accept": "text/event-stream"}, count=2)
    assert answer.headers["content-type"] == "text/event-stream"
    assert answer.text == "data: 0 \n\ndata: 1 \n\ndata: end\n\n"


def test_the_handlers_content_type(server: RunningServer) -> None:
    assert stream(server, count=1, content_type="text/csv").headers["content-type"] == "text/csv"


@pytest.mark.parametrize("how", ["raise", "die"])
def test_a_stream_that_fails_never_looks_complete(server: RunningServer, how: str) -> None:
    answer = stream(server, None, count=2, **{how: True})
    assert answer.status_code == 200
    with pytest.raises(requests.exceptions.ChunkedEncodingError):
        assert answer.content
    assert stream(server, count=1).text == "0 end"


def test_old_clients_get_the_stream_until_its_end(server: RunningServer) -> None:
    with connect(server.inference) as sock:
        sock.sendall(b'POST /predictions/stream HTTP/1.0\r\ncontent-length: 12\r\n\r\n{"count": 2}')
        data = read_all(sock)
    assert data.endswith(b"\r\n\r\n0 1 end")
    assert b"chunked" not in data


def test_what_follows_the_version_reaches_the_handler(server: RunningServer) -> None:
    body = {"op": "header", "name": "url_path"}
    answer = requests.post(f"{server.inference}/predictions/chaos/1.0/v1/some%20where", json=body, timeout=60)
    assert answer.text == "v1/some where"


@pytest.mark.parametrize("path", ["/models/parts/invoke", "/parts/predict", "/parts/1.0/predict"])
def test_other_routes_to_a_prediction(server: RunningServer, path: str) -> None:
    answer = requests.post(server.inference + path, json={"a": 1}, timeout=60)
    assert answer.json() == {"body": ["dict", {"a": 1}]}


@pytest.mark.parametrize(
    "path",
    [
        "/models/parts/invoke/",
        "/parts/predict/",
        "/parts/1.0/predict/",
        "/predictions/parts/",
        "/invocations/?model_name=parts",
    ],
)
def test_a_slash_at_the_end_of_a_prediction_changes_nothing(server: RunningServer, path: str) -> None:
    answer = requests.post(server.inference + path, json={"a": 1}, timeout=60, allow_redirects=False)
    assert answer.json()["body"] == ["dict", {"a": 1}]


@pytest.mark.parametrize(
    ("path", "more"),
    [
        ("/models/parts/invoke?", {}),
        ("/parts/predict?", {}),
        ("/parts/1.0/predict?", {}),
        ("/invocations?model_name=parts&", {"model_name": ["bytearray", b"parts".hex()]}),
    ],
)
def test_the_query_reaches_the_handler(server: RunningServer, path: str, more: dict[str, Any]) -> None:
    url = f"{server.inference}{path}threshold=0.5&word=a/b%20c+d"
    answer = requests.post(url, json={"a": 1}, timeout=60)
    expected = {"threshold": ["bytearray", b"0.5".hex()], "word": ["bytearray", b"a/b c d".hex()]}
    assert answer.json() == {"body": ["dict", {"a": 1}], **expected, **more}


def test_the_query_of_a_prediction_by_its_own_name_does_not(server: RunningServer) -> None:
    answer = requests.post(f"{server.inference}/predictions/parts?threshold=0.5", json={"a": 1}, timeout=60)
    assert answer.json() == {"body": ["dict", {"a": 1}]}


@pytest.mark.parametrize(
    ("query", "words"),
    [("a=1&a=2", 'two fields called "a"'), ("a=%ff", "not UTF-8"), ("=1", "no name")],
)
def test_a_query_that_says_two_things_or_nothing_is_refused(server: RunningServer, query: str, words: str) -> None:
    answer = requests.post(f"{server.inference}/invocations?model_name=parts&{query}", json={}, timeout=60)
    assert answer.status_code == 400
    assert words in answer.json()["message"]


@pytest.mark.parametrize(
    "how", [{"data": {"model_name": "parts", "a": "1"}}, {"files": {"model_name": (None, "parts"), "a": (None, "1")}}]
)
def test_invocations_take_the_name_from_a_form(server: RunningServer, how: Any) -> None:
    answer = requests.post(f"{server.inference}/invocations", timeout=60, **how)
    assert answer.status_code == 200, answer.text
    assert answer.json()["model_name"] == ["bytearray", b"parts".hex()]
    assert answer.json().keys() == {"model_name", "a"}


def test_a_query_before_the_first_slash_ends_the_path(server: RunningServer) -> None:
    host, _, port = server.inference.removeprefix("http://").partition(":")
    for target in ("/invocations?model_name=parts&u=a/b", f"{server.inference}/invocations?model_name=parts&u=a/b"):
        with closing(HTTPConnection(host, int(port), timeout=60)) as client:
            client.request("POST", target, b"{}", {"content-type": "application/json"})
            answer = client.getresponse()
            assert (answer.status, json.loads(answer.read())["u"]) == (200, ["bytearray", b"a/b".hex()])
    with closing(HTTPConnection(host, int(port), timeout=60)) as client:
        client.request("GET", f"{server.inference}?u=/ping")
        answer = client.getresponse()
        assert (answer.status, json.loads(answer.read())) == (200, {"status": "alive"}), "it is / that is asked for"


def test_without_further_path_the_header_url_path_is_empty(server: RunningServer) -> None:
    body = {"op": "header", "name": "url_path"}
    answer = requests.post(f"{server.inference}/predictions/chaos", json=body, timeout=60)
    assert answer.text == ""


def test_invocations_need_a_name_when_there_are_several_models(server: RunningServer) -> None:
    answer = requests.post(f"{server.inference}/invocations", json={}, timeout=60)
    assert (answer.status_code, answer.json()["message"]) == (400, "Parameter model_name is required.")


@pytest.mark.parametrize("path", ["/models/parts", "/models/parts/other", "/parts", "/a/b/c/predict"])
def test_what_is_no_route_stays_none(server: RunningServer, path: str) -> None:
    assert requests.post(server.inference + path, json={}, timeout=60).json()["type"] == "ResourceNotFoundException"


@pytest.mark.parametrize("path", ["/v1/models/parts:predict", "/v1/models/parts/versions/1.0:predict"])
def test_kserves_first_protocol(server: RunningServer, path: str) -> None:
    """A handler that reads requests itself is shown all of one, unless its settings name an envelope."""
    body = {"instances": [{"a": 1}, {"b": {"b64": "AQI="}}, {"c": "x"}]}
    answer = requests.post(server.inference + path, json=body, timeout=60)
    assert answer.json() == {"body": ["dict", body]}
    path = path.replace("parts", "enveloped")
    answer = requests.post(server.inference + path, json=body, timeout=60)
    assert answer.json() == {"predictions": [{"a": ["int", 1]}, {"b": ["bytes", "0102"]}, {"c": ["str", "x"]}]}
    wrong = requests.post(server.inference + path, json={"inputs": 1}, timeout=60)
    assert (wrong.status_code, "instances" in wrong.json()["error"]) == (400, True), "as KServe and TF Serving say it"


@pytest.mark.parametrize("version", ["", "/versions/1.0"])
@pytest.mark.parametrize("content_type", ["application/json", ""])
def test_kserves_second_protocol_in_its_envelope(server: RunningServer, version: str, content_type: str) -> None:
    given = {"name": "x", "shape": [2], "datatype": "FP32", "data": [1.0, 2.0]}
    body = json.dumps({"id": "7", "inputs": [given]}).encode()
    for verb, name in (("infer", "predict"), ("explain", "explain")):
        url = f"{server.inference}/v2/models/second{version}/{verb}"
        answer = requests.post(url, body, headers={"Content-Type": content_type}, timeout=60)
        assert answer.status_code == 200, answer.text
        [output] = answer.json().pop("outputs")
        assert (answer.json()["id"], answer.json()["model_name"], output["name"]) == ("7", "second", name)
        assert json.loads(output["data"][0]) == {"data": ["list", [1.0, 2.0]], "datatype": ["str", "FP32"],
                                                 "name": ["str", "x"], "shape": ["list", [2]]}  # fmt: skip
    assert requests.post(f"{server.inference}/v2/models/second/infer", b"x", timeout=60).status_code == 400
    without = requests.post(f"{server.inference}/v2/models/parts/explain", body, timeout=60)
    assert (without.status_code, "service_envelope" in without.json()["error"]) == (501, True)
    assert requests.post(f"{server.inference}/v2/models/nobody/explain", body, timeout=60).status_code in (400, 404)


def test_the_protocols_share_a_worker(server: RunningServer) -> None:
    def ask(number: int) -> bool:
        if number % 2:
            body = {"instances": [{"a": number}]}
            answer = requests.post(f"{server.inference}/v1/models/enveloped:predict", json=body, timeout=60)
            return bool(answer.json() == {"predictions": [{"a": ["int", number]}]})
        answer = requests.post(f"{server.inference}/predictions/parts", json={"a": number}, timeout=60)
        return bool(answer.json() == {"body": ["dict", {"a": number}]})

    with ThreadPoolExecutor(8) as threads:
        assert all(threads.map(ask, range(80)))
