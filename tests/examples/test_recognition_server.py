"""The recognition example's gallery in a real server: what a call has added is there after whatever was killed."""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import psutil
import pytest

from examples.recognition import steps
from tests.packages import install
from tests.running import RunningServer, eventually

EXAMPLE = Path(steps.__file__).parent
COLOURS = """
import numpy as np


def embed(data, context):
    means = [row["crop"].mean((2, 3)) for row in data]
    return [{"vector": mean / np.linalg.norm(mean)} for mean in means]
"""
FEATURES = """
inputs: {image: bytes}
outputs: {vector: embed.vector}
nodes:
  whole: {python: "steps.py:Whole", inputs: {image: image}, outputs: {crop: "float32[1, 3, 32, 32]"}}
  embed: {python: "colours.py:embed", inputs: {crop: whole.crop}, outputs: {vector: "float32[1, 3]"}}
"""
KNOWN = """
inputs: {image: bytes}
outputs: {labels: search.labels, alike: search.alike}
nodes:
  embed: {model: features, opaque: true, inputs: {image: image}}
  rows: {python: "rows.py:rows", inputs: {rows: embed.body}, outputs: {vectors: "float32[-1, 3]"}}
  search:
    python: steps.py:Search
    inputs: {vectors: rows.vectors}
    outputs: {labels: json, alike: "float32[-1]"}
    settings: {minWorkers: 2}
"""
ROWS = """
import numpy as np


def rows(data, context):
    return [{"vectors": np.array(row["rows"], np.float32)} for row in data]
"""


def picture(*colour: int) -> bytes:
    return cv2.imencode(".png", np.full((32, 32, 3), colour, np.uint8))[1].tobytes()


RED, GREEN = picture(0, 0, 255), picture(0, 255, 0)


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[RunningServer]:
    files = {"features": (FEATURES, "colours.py", COLOURS), "known": (KNOWN, "rows.py", ROWS)}
    for name, (text, file, code) in files.items():
        own = tmp_path / "store" / name
        own.mkdir(parents=True)
        shutil.copy(EXAMPLE / "steps.py", own)
        (own / "pipeline.yaml").write_text(text)
        (own / file).write_text(code)
    entry_points = "[pdserver.endpoints]\ngallery = recognition_gallery.calls:endpoints\n"
    installed = install(tmp_path / "packages", "recognition_gallery_plugin", "", entry_points)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join((str(installed), str(EXAMPLE / "gallery"))))
    monkeypatch.setenv("RECOGNITION_GALLERY", str(tmp_path / "gallery"))
    settings = {"worker_env_vars": "RECOGNITION_GALLERY"}
    with RunningServer(tmp_path / "server", tmp_path / "store", settings=settings) as server:
        yield server


def known(server: RunningServer, image: bytes) -> tuple[str, float]:
    answer = server.predict("known", data=image)
    assert answer.status_code == 200, answer.text
    [label], [alike] = answer.json().values()
    return label, round(alike, 3)


def call(server: RunningServer, method: str, path: str, image: bytes = b"") -> tuple[int, Any]:
    answer = server.manage(method, path, data=image)
    return answer.status_code, answer.json()


def test_the_gallery_outlives_workers_and_the_server(server: RunningServer) -> None:
    status, told = call(server, "GET", "/gallery")
    assert (status, told["code"]) == (404, 404)
    assert "POST /gallery?label=NAME" in told["message"]
    assert call(server, "POST", "/gallery?label=Red", RED) == (200, {"id": 0, "label": "Red"})
    assert call(server, "POST", "/gallery?label=Green", GREEN) == (200, {"id": 1, "label": "Green"})
    status, told = call(server, "POST", "/gallery?label=Nothing", b"no picture")
    assert (status, told["code"]) == (400, 400)
    for _ in range(4):  # by either worker
        assert known(server, GREEN) == ("Green", 1.0)

    searching = {worker["pid"] for worker in server.describe("known")["workers"] if worker["node"] == "search"}
    assert len(searching) == 2
    for pid in searching:
        os.kill(pid, signal.SIGKILL)
    assert known(server, GREEN) == ("Green", 1.0)
    eventually(lambda: len(server.pids("known") - searching) == 3)

    assert server.process is not None
    family = server.family()
    server.process.kill()
    server.process.wait(60)
    assert not psutil.wait_procs(family, timeout=60)[1]
    server.log_file.write_bytes(b"")
    server.start()
    entries = [{"id": 0, "label": "Red"}, {"id": 1, "label": "Green"}]
    assert call(server, "GET", "/gallery") == (200, {"generation": 2, "entries": entries})
    assert known(server, GREEN) == ("Green", 1.0)
    assert call(server, "DELETE", "/gallery/1") == (200, {"id": 1, "label": "Green"})
    label, alike = known(server, GREEN)
    assert (label, alike < 1) == ("Red", True)
    assert call(server, "POST", "/gallery?label=Green", GREEN) == (200, {"id": 2, "label": "Green"})
    assert known(server, GREEN) == ("Green", 1.0)
