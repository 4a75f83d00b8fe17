"""Paddle is imported where a model may need it, and not before."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import requests

from pdserver.worker.preloading import may_need_paddle, preload
from tests.conftest import fit_file
from tests.handlers.engine_files import both as both
from tests.running import RunningServer
from tests.test_engine_trial import packed


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, both: Path, fit_model: Path) -> Iterator[RunningServer]:
    """It has started with a model that needs no Paddle."""
    folder = tmp_path_factory.mktemp("demand")
    store = folder / "store"
    packed(store, "linear", both / "linear.onnx", {})
    packed(store, "fit", fit_file(fit_model), {})
    with RunningServer(folder / "server", store, settings={"load_models": "linear.pdar"}) as started:
        yield started


def has_paddle(pid: int) -> bool:
    return "libpaddle" in Path(f"/proc/{pid}/maps").read_text()


def nursery(server: RunningServer) -> int:
    [pid] = {psutil.Process(worker).ppid() for worker in server.pids("linear")}
    return pid


def test_paddle_comes_with_the_first_model_that_needs_it(server: RunningServer) -> None:
    [worker] = server.pids("linear")
    assert not has_paddle(worker)
    assert not has_paddle(nursery(server))
    answer = server.manage("POST", "/models?url=fit.pdar&initial_workers=1&synchronous=true")
    assert answer.status_code == 200, answer.text
    assert has_paddle(nursery(server))
    assert server.predict("fit", json=[1.0] * 13).status_code == 200
    assert server.pids("linear") == {worker}
    assert not has_paddle(worker)


def test_the_nursery_still_leaves_signals_to_the_server(server: RunningServer) -> None:
    """Paddle takes SIGTERM for itself when it is imported."""
    before = nursery(server)
    os.kill(before, signal.SIGTERM)
    url = f"{server.management}/models/linear?min_worker=2&synchronous=true"
    assert requests.put(url, timeout=60).status_code == 200
    assert (len(server.pids("linear")), nursery(server)) == (2, before)


def test_the_next_nursery_has_paddle_too(server: RunningServer) -> None:
    workers = server.pids("linear")
    os.kill(nursery(server), signal.SIGKILL)
    url = f"{server.management}/models/linear?min_worker=3&synchronous=true"
    assert requests.put(url, timeout=60).status_code == 200
    [new] = server.pids("linear") - workers
    assert has_paddle(psutil.Process(new).ppid())


def test_a_machine_without_paddle_is_not_a_broken_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "paddle", None)
    monkeypatch.setitem(sys.modules, "broken", None)
    monkeypatch.delitem(sys.modules, "pdserver.handlers.runtime.engines.paddle", raising=False)
    assert preload(["pdserver.handlers.runtime.engines.paddle", "broken"]) == [
        "cannot import broken: ModuleNotFoundError: import of broken halted; None in sys.modules"
    ]


@pytest.mark.parametrize(
    ("handler", "model", "predictor", "needed"),
    [
        ("base_handler", {"serializedFile": "m.onnx"}, {}, False),
        ("base_handler", {"serializedFile": "m.json"}, {}, True),
        ("base_handler", {"serializedFile": "m.pdmodel"}, {"engine": "openvino"}, False),
        ("base_handler", {"serializedFile": "m.pdmodel"}, {"engine": "paddle"}, True),
        ("base_handler", {"serializedFile": "m.pdparams", "modelFile": "net.py"}, {"engine": "openvino"}, True),
        ("base_handler", {}, {}, True),
        ("handler.py", {"serializedFile": "m.onnx"}, {}, True),
        ("handler.py:handle", {}, {}, True),
        ("base_handler", {"serializedFile": "m.onnx"}, "wrong", False),
    ],
)
def test_what_may_need_it(handler: str, model: dict[str, str], predictor: Any, needed: bool) -> None:
    assert may_need_paddle(handler, {"model": model}, {"predictor": predictor}) is needed
