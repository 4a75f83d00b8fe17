"""PaddleX's contract: the bodies of its documentation's clients, sent to a pipeline in Python."""

from __future__ import annotations

import base64
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any

import pytest

from tests.running import RunningServer

STEPS = '''
class Describe:
    """What came, as PaddleX's OCR would answer a page."""

    def handle(self, data, context):
        answers = []
        for row in data:
            image, wanted = bytes(row["image"]), row.get("parameters") or {}
            if image == b"no picture":
                raise ValueError("it has no picture in it")
            found = {"rec_texts": [image[:20].decode("latin-1")], "size": len(image), "wanted": wanted}
            answers.append({"result": {"ocrResults": [{"prunedResult": found}], "dataInfo": {"type": "image"}}})
        return answers
'''
PIPELINE = """
inputs: {image: bytes, parameters: json}
outputs: {result: read.result}
contract: paddlex/ocr
nodes:
  read:
    python: steps.py:Describe
    inputs: {image: image, parameters: {from: parameters, optional: true}}
    outputs: {result: json}
"""
PLAIN = """
inputs: {image: bytes}
outputs: {result: read.result, again: read.result}
contract: paddlex/image-classification
nodes:
  read: {python: steps.py:Describe, inputs: {image: image}, outputs: {result: json}}
"""
PICTURE = b"\x89PNG a picture"


def in_base64(data: bytes = PICTURE) -> str:
    return base64.b64encode(data).decode("ascii")


class Files(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("content-length", str(len(PICTURE)))
        self.end_headers()
        self.wfile.write(PICTURE)

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture(scope="module")
def files() -> Iterator[str]:
    """Where `/page.png` can be had."""
    with HTTPServer(("127.0.0.1", 0), Files) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, files: str) -> Iterator[RunningServer]:
    store = tmp_path_factory.mktemp("store")
    for name, text in (("pages", PIPELINE), ("again", PIPELINE), ("plain", PLAIN)):
        (store / name).mkdir()
        (store / name / "pipeline.yaml").write_text(text)
        (store / name / "steps.py").write_text(STEPS)
    settings = {"image_urls": f"{files}/pictures/"}
    with RunningServer(tmp_path_factory.mktemp("server"), store, "pages,again,plain", settings) as server:
        yield server


def post(server: RunningServer, path: str, body: Any, **how: Any) -> tuple[int, dict[str, Any]]:
    """The status and the envelope."""
    given = {"data": body} if isinstance(body, bytes) else {"json": body}
    answer = server.session.post(f"{server.inference}{path}", timeout=60, **given, **how)
    assert answer.headers["content-type"] == "application/json"
    envelope: dict[str, Any] = answer.json()
    return answer.status_code, envelope


def read(envelope: dict[str, Any]) -> dict[str, Any]:
    """What the pipeline says that it was given."""
    [page] = envelope["result"]["ocrResults"]
    found: dict[str, Any] = page["prunedResult"]
    return found


def test_an_answer_is_in_the_envelope(server: RunningServer) -> None:
    body = {"file": in_base64(), "fileType": 1, "visualize": False, "textDetThresh": 0.3, "own": [1]}
    status, envelope = post(server, "/ocr", body, headers={"x-request-id": "page-7"})
    assert (status, envelope["errorCode"], envelope["errorMsg"]) == (200, 0, "Success")
    assert envelope["logId"] == "page-7"
    assert envelope["result"]["dataInfo"] == {"type": "image"}
    assert read(envelope) == {
        "rec_texts": [PICTURE.decode("latin-1")],
        "size": len(PICTURE),
        "wanted": {"fileType": 1, "visualize": False, "textDetThresh": 0.3, "own": [1]},
    }
    _, envelope = post(server, "/ocr", {"file": in_base64(b"%PDF-1.7")})
    assert read(envelope)["wanted"] == {"fileType": 0}, "as its first bytes say"
    assert len(envelope["logId"]) >= 32
    assert post(server, "/ocr", {"file": in_base64(), "logId": "page-8"})[1]["logId"] == "page-8"


def test_the_description_has_the_contract(server: RunningServer) -> None:
    names = [model["modelName"] for model in server.manage("GET", "/models").json()["models"]]
    assert "paddlex/ocr" in {server.describe(name).get("contract") for name in names}


def test_a_pipeline_of_several_is_named(server: RunningServer) -> None:
    """Without a name, it is the first by name. A pipeline without parameters takes pictures, and ignores the rest."""
    for query, name in (("", "again"), ("?model=pages", "pages"), ("/?model=again", "again")):
        before = answered(server, name)
        assert post(server, f"/ocr{query}", {"file": in_base64()})[0] == 200
        assert answered(server, name) == before + 1
    status, envelope = post(server, "/image-classification", {"image": in_base64(), "topk": 2})
    assert (status, read(envelope)["wanted"]) == (200, {})


def answered(server: RunningServer, name: str) -> int:
    [stats] = server.session.get(f"{server.inference}/v2/models/{name}/stats", timeout=60).json()["model_stats"]
    count: int = stats["inference_stats"]["success"]["count"]
    return count


def test_large_pictures(server: RunningServer) -> None:
    """Read by another process, and passed to the worker in a memory file."""
    for size in (200_000, 5_000_000):
        status, envelope = post(server, "/ocr?model=pages", {"file": in_base64(PICTURE + bytes(size)), "page": 3})
        assert (status, read(envelope)["size"]) == (200, len(PICTURE) + size)
        assert read(envelope)["wanted"] == {"page": 3, "fileType": 1}


def test_urls_by_the_servers_rules(server: RunningServer, files: str) -> None:
    assert read(post(server, "/ocr", {"file": f"{files}/pictures/page.png"})[1])["size"] == len(PICTURE)
    for url in (f"{files}/page.png", "http://169.254.169.254/latest/meta-data/", f"{files}/pictures/../page.png"):
        status, envelope = post(server, "/ocr", {"file": url})
        assert (status, envelope["errorCode"]) in ((403, 403), (422, 422))
        assert "result" not in envelope
    assert (
        "not among the URLs that the operator allows (image_urls)"
        in post(server, "/ocr", {"file": f"{files}/x"})[1]["errorMsg"]
    )


@pytest.mark.parametrize(
    ("path", "body", "place", "words"),
    [
        ("/ocr", b"{nope", [], "JSON decode error: "),
        ("/ocr", b"[]", [], "Input should be a valid dictionary"),
        ("/ocr", {}, ["file"], "Field required"),
        ("/ocr", {"image": in_base64()}, ["file"], "Field required"),
        ("/ocr", {"file": 7}, ["file"], "Expected `str`"),
        ("/ocr", {"file": "no base64!"}, ["file"], "expected base64"),
        ("/ocr", {"file": ""}, ["file"], "it is empty"),
        ("/ocr", {"file": in_base64(), "fileType": 2}, ["fileType"], "Invalid enum value 2"),
        ("/ocr", {"file": in_base64(), "useDocUnwarping": "maybe"}, ["useDocUnwarping"], "Expected `bool"),
        ("/image-classification", {"image": in_base64(), "topk": 0}, ["topk"], "Expected `int` >= 1"),
    ],
)
def test_bad_bodies(server: RunningServer, path: str, body: Any, place: list[str], words: str) -> None:
    status, envelope = post(server, path, body)
    assert (status, envelope["errorCode"]) == (422, 422)
    [problem] = json.loads(envelope["errorMsg"])
    assert problem["loc"] == ["body", *place]
    assert words in problem["msg"]


def test_other_errors(server: RunningServer) -> None:
    status, envelope = post(server, "/ocr?model=pages", {"file": in_base64(b"no picture")})
    assert (status, envelope["errorCode"]) == (500, 500)
    assert "it has no picture in it" in envelope["errorMsg"]
    status, envelope = post(server, "/object-detection", {"image": in_base64()})
    assert (status, envelope["errorCode"]) == (404, 404)
    assert "`contract: paddlex/object-detection`" in envelope["errorMsg"]
    assert post(server, "/ocr?model=nobody", {"file": in_base64()})[0] == 404
    status, envelope = post(server, "/ocr?model=plain", {"file": in_base64()})
    assert (status, "no pipeline with the contract paddlex/ocr" in envelope["errorMsg"]) == (422, True)
    status, envelope = post(server, "/ocr", {"file": in_base64()}, headers={"content-encoding": "gzip"})
    assert (status, "send the body as it is" in envelope["errorMsg"]) == (422, True)


def test_health(server: RunningServer) -> None:
    answer = server.session.get(f"{server.inference}/health", timeout=60)
    assert (answer.status_code, answer.json()["errorCode"], answer.json()["errorMsg"]) == (200, 0, "Healthy")
