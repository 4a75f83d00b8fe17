"""Services as PaddleClas and PaddleOCR have them, without any change: their hooks, their imports, what they keep in
`self`, what their clients send. Models are small stand-ins (`web_services/models.py`)."""

from __future__ import annotations

import ast
import base64
import json
import runpy
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import requests

from tests.paddle_clients import PaddleClients
from tests.paddle_clients import paddle_clients as paddle_clients
from tests.running import RunningServer
from tests.test_web_service import Describe, local, started
from tests.test_web_service import home as home
from tests.test_web_service import serve_script as serve_script

BLUE, GREEN, RED = (220, 0, 0), (0, 220, 0), (0, 0, 220)
TOGETHER = {"batch_size": 4, "auto_batching_timeout": 60_000}
"""Four requests are one batch."""


def encoded(picture: Any) -> str:
    """As pipeline_http_client.py and pipeline_rpc_client.py send a picture."""
    return base64.b64encode(cv2.imencode(".png", picture)[1].tobytes()).decode("utf8")


def plain(colour: tuple[int, int, int]) -> Any:
    return np.full((48, 64, 3), colour, np.uint8)


def halves(left: tuple[int, int, int], right: tuple[int, int, int], width: int = 64) -> Any:
    picture = np.full((48, width, 3), left, np.uint8)
    picture[:, width // 2 :] = right
    return picture


def page(*lines: tuple[int, int, int], height: int = 400) -> Any:
    """Lines of one colour each on white, below each other."""
    picture = np.full((height, 320, 3), 255, np.uint8)
    for number, colour in enumerate(lines):
        cv2.rectangle(picture, (40, 20 + 45 * number), (240, 45 + 45 * number), colour, -1)
    return picture


def ask(server: RunningServer, service: str, *pictures: Any) -> dict[str, Any]:
    """As pipeline_http_client.py asks."""
    data = {"key": ["image", *(f"image_{i}" for i in range(1, len(pictures)))], "value": list(map(encoded, pictures))}
    answer = requests.post(f"{server.inference}/{service}/prediction", data=json.dumps(data), timeout=60).json()
    assert (answer["err_no"], answer["err_msg"]) == (0, ""), answer
    return dict(zip(answer["key"], answer["value"], strict=True))


def at_once(server: RunningServer, service: str, pictures: list[Any]) -> list[Any]:
    """What their clients read of `result`, of requests sent together."""
    with ThreadPoolExecutor(len(pictures)) as threads:
        answers = list(threads.map(lambda picture: ask(server, service, picture), pictures))
    return [ast.literal_eval(answer["result"]) for answer in answers]


RPC = """
from paddle_serving_server.pipeline import PipelineClient

client = PipelineClient()
client.connect([sys.argv[1]])
ret = client.predict(feed_dict={"image": sys.argv[2]}, fetch=["label", "prob"])
give([ret.err_no, dict(zip(ret.key, ret.value))])
"""


def test_classification(serve_script: Describe, home: Path, paddle_clients: PaddleClients) -> None:
    """Also for pipeline_rpc_client.py."""
    (home / "imagenet.label").write_text("blue\ngreen\nred\n")
    server = serve_script("imagenet", {"imagenet": {"local_service_conf": local("imagenet", devices="")}})
    answer = ask(server, "imagenet", plain(RED), plain(GREEN))
    assert ast.literal_eval(answer["label"]) == ["blue", "green"], "the script swaps red and blue, as PaddleClas's does"
    assert all(0.9 < share < 1 for share in ast.literal_eval(answer["prob"]))
    number, answer = paddle_clients.run(RPC, server.grpc_inference, encoded(plain(BLUE)), folder=home)
    assert (number, answer["label"]) == (0, "['red']")


def test_recognition_keeps_pictures_and_boxes_apart(serve_script: Describe, home: Path) -> None:
    """Four requests are prepared before the first one is finished: each has its own picture, boxes and scores."""
    (home / "label_list.txt").write_text("left\nright\n")
    det = {**TOGETHER, "local_service_conf": local("mainbody")}
    rec = {**TOGETHER, "local_service_conf": local("features", fetch_list=["features"])}
    server = serve_script("recognition", {"rec": rec, "det": det})
    colours = [(BLUE, GREEN), (GREEN, RED), (RED, BLUE), (GREEN, BLUE)]
    names = {BLUE: "blue", GREEN: "green", RED: "red"}
    widths = [64, 80, 96, 112]
    found = at_once(server, "recognition", [halves(*pair, w) for pair, w in zip(colours, widths, strict=True)])
    for (left, right), width, results in zip(colours, widths, found, strict=True):
        results.sort(key=lambda result: result["bbox"])
        assert [result["rec_docs"] for result in results] == [names[left], names[right]]
        expected = [[0, 0, width // 2 - 1, 47], [width // 2, 0, width - 1, 47]]
        assert np.abs(np.array([result["bbox"] for result in results]) - expected).max() <= 1
        assert all(0.99 < result["rec_scores"] <= 1.001 for result in results)


def test_recognition_without_detection(serve_script: Describe) -> None:
    """config.yml describes an Op that this service leaves out."""
    ops = {"rec": {"local_service_conf": local("features")}, "det": {"local_service_conf": local("mainbody")}}
    server = serve_script("recognition", ops, "--det", "False")
    (result,) = ast.literal_eval(ask(server, "recognition", plain(RED))["result"])
    assert (result["rec_docs"], result["bbox"]) == ("red", [0, 0, 64, 48])


def test_ocr_reads_each_page_for_its_own_client(serve_script: Describe, home: Path) -> None:
    """Pages with eight lines (two small batches), three, one and none are one batch. Ops have workers of their own, so
    that pictures and boxes pass between processes."""
    (home / "keys.txt").write_text("b\ng\nr\n")
    ops = {
        "det": {**TOGETHER, "concurrency": 2, "local_service_conf": local("textmap")},
        "rec": {**TOGETHER, "local_service_conf": local("letters")},
    }
    server = serve_script("ocr", ops)
    eight = [BLUE, GREEN, RED, RED, GREEN, BLUE, RED, BLUE]
    lines = [eight, [RED, BLUE, GREEN], [GREEN], []]
    names = {BLUE: "b", GREEN: "g", RED: "r"}
    for colours, result in zip(lines, at_once(server, "ocr", [page(*each) for each in lines]), strict=True):
        assert [text for (text, _), _ in result] == [names[colour] for colour in colours]
        for number, ((_, score), box) in enumerate(result):
            assert score > 0.5
            assert abs(np.array(box) - _corners(number)).max() <= 12, "a line's box grows a little"


def _corners(number: int) -> Any:
    top, bottom = 20 + 45 * number, 45 + 45 * number
    return np.array([[40, top], [240, top], [240, bottom], [40, bottom]])


def test_compat_runs_a_script_as_python_does(tmp_path: Path) -> None:
    (tmp_path / "beside.py").write_text("NAME = 'beside'\n")
    (tmp_path / "script.py").write_text(
        "import sys, beside, numpy\n"
        "from paddle_serving_server.pipeline import PipelineServer, RequestOp\n"
        "from paddle_serving_server.pipeline.channel import ChannelDataEcode\n"
        "from paddle_serving_server.pipeline.proto import pipeline_service_pb2\n"
        "from paddle_serving_server.util import ArgsParser\n"
        "from paddle_serving_app.local_predict import LocalPredictor\n"
        "from paddle_serving_app.reader import *\n"
        "from paddle_serving_app.reader.imdb_reader import IMDBDataset\n"
        "from pdserver.pipeline_service import WebService\n"
        "import paddle_serving_server.web_service as theirs\n"
        "assert theirs.WebService is WebService and __name__ == '__main__' and 'paddle' not in sys.modules\n"
        "assert pipeline_service_pb2.Response().err_no == ChannelDataEcode.OK.value\n"
        "assert numpy.fromstring(b'ab', numpy.uint8).tolist() == [97, 98] and numpy.int is int\n"
        "assert numpy.fromstring('1 2', sep=' ').tolist() == [1, 2]\n"
        "print(beside.NAME, sys.argv[1:], Sequential([]))\n"
        "from paddle_serving_server.web_service import WebServise\n"
    )
    done = started(tmp_path, "-m", "pdserver.compat", "script.py", "--config", "x").wait(60)
    said = (tmp_path / "log").read_text()
    assert done == 1
    assert "beside ['--config', 'x'] Sequential" in said
    assert "paddle_serving_server.web_service" in said
    assert "WebServise" in said


@pytest.mark.parametrize("installed", [False, True])
def test_with_one_import_changed_the_operators_are_found(tmp_path: Path, installed: bool) -> None:
    """Under Paddle Serving's own names, unless they are installed."""
    if installed:
        (tmp_path / "paddle_serving_app").mkdir()
        (tmp_path / "paddle_serving_app" / "__init__.py").write_text("")
        (tmp_path / "paddle_serving_app" / "reader.py").write_text("Sequential = Resize = 'theirs'\n")
    (tmp_path / "script.py").write_text(
        "from pdserver.pipeline_service import WebService, Op\n"
        "from paddle_serving_app.reader import Sequential, Resize\n"
        "import sys\n"
        "assert 'paddle' not in sys.modules\n"
        "print(Sequential if isinstance(Sequential, str) else Sequential([Resize(3)]))\n"
    )
    assert started(tmp_path, "script.py").wait(60) == 0, (tmp_path / "log").read_text()
    said = (tmp_path / "log").read_text()
    assert said.startswith("theirs" if installed else "Sequential")


@pytest.mark.parametrize("arguments", [[], ["nowhere.py"]])
def test_compat_names_what_it_needs(arguments: list[str], monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    monkeypatch.setattr(sys, "argv", ["compat", *arguments])
    with pytest.raises(SystemExit) as ended:
        runpy.run_module("pdserver.compat", run_name="__main__")
    assert ended.value.code == 2
    assert "web_service.py" in capsys.readouterr().err
