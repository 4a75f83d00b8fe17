"""The OCR example, made by its page's commands: real models read pages whose texts are known. Skipped where the wheel
with the models can't be had."""

from __future__ import annotations

import base64
import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import requests
import yaml

from examples.ocr import ask, pages
from examples.ocr.steps import WIDTHS
from tests.examples.conftest import ROOT
from tests.running import BIN
from tests.shell import Shell
from tests.test_docs_commands import check, steps

pytestmark = pytest.mark.timeout(400)
PAGE = ROOT / "examples/ocr/README.md"
SURELY = {"page.png": 0.7, "photo.jpg": 0.6, "receipt.png": 0.5}
"""How much the boxes must overlap with the ink. Detection leaves a margin, which is much for short words."""


@pytest.fixture(scope="module")
def shell(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shell]:
    """In a folder where the page's commands have been run, so that its server answers."""
    folder = tmp_path_factory.mktemp("reader")
    shutil.copytree(ROOT / "examples", folder / "examples", ignore=shutil.ignore_patterns("__pycache__"))
    shell = Shell(folder, BIN)
    try:
        first, *others = steps(PAGE.read_text())
        fetched = shell.run(first.command)
        if "could not download" in fetched.stdout:
            pytest.skip(fetched.stdout.strip())
        for step in others:
            check(shell, step)
        yield shell
    finally:
        shell.close()


@pytest.fixture(scope="module")
def url(shell: Shell) -> str:
    return shell.real("http://localhost:8080")


def post(url: str, page: bytes) -> requests.Response:
    return requests.post(f"{url}/predictions/ocr", page, timeout=60)


@pytest.mark.parametrize("name", SURELY)
def test_texts_and_boxes_are_those_that_were_drawn(name: str, shell: Shell, url: str) -> None:
    """In the order of reading, the upside-down line among them; and exactly as without a server."""
    file = shell.folder / "build/ocr" / name
    answer = post(url, file.read_bytes()).json()
    assert answer["failures"] == []
    said = ask.texts(answer["result"])
    lines = json.loads(file.with_suffix(".json").read_text())
    assert [ask.folded(text.text) for text in said] == [ask.folded(line["text"]) for line in lines]
    assert [text.turned for text in said] == [line["text"].startswith("Upside down") for line in lines]
    assert min(text.score for text in said) > 0.8
    found = ask.compare(said, lines)
    assert found.accuracy == 1
    assert found.overlap > SURELY[name]
    alone = shell.run(f"python -W ignore examples/ocr/plain.py build/ocr/{name} 2>/dev/null")
    assert json.loads(alone.stdout) == answer["result"]


def test_workers_run_the_widths_that_lines_are_filled_up_to() -> None:
    padding = yaml.safe_load((ROOT / "examples/ocr/rec.yaml").read_text())["padding"]
    usual, longer = WIDTHS[: len(padding["buckets"])], WIDTHS[len(padding["buckets"]) :]
    assert list(usual) == padding["buckets"]
    assert not [width for width in longer if width % padding["multiple"]]


def test_each_of_many_pages_gets_its_own_texts_from_common_batches(shell: Shell, url: str) -> None:
    many = [pages.receipt(number, goods=4) for number in range(24)]
    with ThreadPoolExecutor(12) as threads:
        answers = list(threads.map(lambda page: post(url, page.encoded(".png")).json(), many))
    for page, answer in zip(many, answers, strict=True):
        said = ask.texts(answer["result"])
        assert [ask.folded(text.text) for text in said] == [ask.folded(line.text) for line in page.lines]
    metrics = requests.get(shell.real("http://localhost:8082/metrics"), timeout=60).text
    total, count = (
        float(line.rpartition(" ")[2])
        for part in ("sum", "count")
        for line in metrics.splitlines()
        if line.startswith(f'pd_batch_size_{part}{{model_name="ocr:recognise"')
    )
    assert total / count > 2


def test_an_empty_page_has_no_texts_and_no_page_is_refused(url: str) -> None:
    empty = cv2.imencode(".png", np.full((100, 200, 3), 255, np.uint8))[1].tobytes()
    answer = post(url, empty).json()
    assert ask.texts(answer["result"]) == []
    assert answer["failures"] == []
    refused = post(url, b"no picture")
    assert refused.status_code == 400
    assert "expected a JPEG, PNG, WebP or BMP image" in refused.json()["message"]


def test_every_door_gives_the_same(shell: Shell, url: str) -> None:
    page = (shell.folder / "build/ocr/receipt.png").read_bytes()
    result: dict[str, Any] = post(url, page).json()["result"]
    text = base64.b64encode(page).decode()
    paddlex = requests.post(f"{url}/ocr", json={"file": text, "fileType": 1}, timeout=60).json()
    assert (paddlex["errorCode"], paddlex["errorMsg"], paddlex["result"]) == (0, "Success", result)
    refused = requests.post(f"{url}/ocr", json={"file": base64.b64encode(b"no picture").decode()}, timeout=60)
    assert (refused.status_code, refused.json()["errorCode"]) == (422, 422)


def test_the_demo_shows_it(shell: Shell, built: Path, tmp_path: Path) -> None:
    shutil.copytree(built / "demo/store", tmp_path / "store")
    shutil.copy(shell.folder / "build/store/ocr.pdar", tmp_path / "store")
    command = [sys.executable, "examples/demo.py", "--folder", str(tmp_path), "--once", "--port", "0"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, stdin=subprocess.DEVNULL, timeout=150)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "ocr: 100.0% of the characters of a photographed page" in done.stdout
    assert "北京市海淀区中关村大街27号" in done.stdout
    picture: Any = cv2.imread(str(tmp_path / "page.png"))
    assert picture.shape[1] == ask.SHOWN_WIDTH
