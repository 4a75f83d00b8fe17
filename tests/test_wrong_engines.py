"""Engines that give wrong answers, crash or hang: Paddle serves, and the description says why."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import requests

from pdarchiver.pack import PackOptions, pack
from tests.handlers.engine_files import INPUTS, paddles_answers
from tests.handlers.engine_files import both as both
from tests.running import RunningServer, eventually

DOUBLE = '''
"""OpenVINO, which does with a model what its file's name says."""

import os, signal, sys, time
from pathlib import Path

here = str(Path(__file__).parents[1])
sys.path.remove(here)
del sys.modules["openvino"]
import numpy as np
import openvino
import openvino.opset8 as operations

as_it_is = openvino.Core.read_model

def read_model(core, model, *weights):
    name = Path(model).stem
    if name == "crash":
        os.kill(os.getpid(), signal.SIGSEGV)
    if name == "hang":
        time.sleep(3600)
    read = as_it_is(core, model, *weights)
    off = {"wrong": 1e-2, "near": 1e-6}[name]
    for result in read.get_results():
        right = result.input_value(0)
        names = right.get_names()
        moved = operations.add(right, operations.constant(np.float32(off))).output(0)
        right.set_names(set())
        moved.set_names(names)
        result.input(0).replace_source_output(moved)
    return read

openvino.Core.read_model = read_model
'''


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, both: Path) -> Iterator[RunningServer]:
    folder = tmp_path_factory.mktemp("wrong")
    (folder / "site" / "openvino").mkdir(parents=True)
    (folder / "site" / "openvino" / "__init__.py").write_text(DOUBLE)
    for name in ("crash", "hang", "wrong", "near"):
        for suffix in (".pdmodel", ".pdiparams"):
            shutil.copy(both / f"digits{suffix}", folder / f"{name}{suffix}")
        model = folder / f"{name}.pdmodel"
        pack(PackOptions(model_name=name, version="1.0", serialized_file=model, export_path=folder))
    started = RunningServer(folder / "server", folder, "near.pdar,wrong.pdar,crash.pdar")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(folder / "site"), prepend=os.pathsep)
        started.start()
    try:
        url = f"{started.management}/models?url=hang.pdar&initial_workers=1&synchronous=false"
        assert requests.post(url, timeout=60).status_code == 202
        yield started
    finally:
        started.stop()


def tried(server: RunningServer, model: str) -> dict[str, Any]:
    """What the description says of OpenVINO."""
    [trial] = server.describe(model)["engineTrials"]
    paddle, other = trial["engines"]
    assert (paddle["engine"], other["engine"]) == ("paddle", "openvino")
    return dict(other)


def served_by_paddle(server: RunningServer, both: Path, model: str) -> None:
    assert server.describe(model)["engine"] == "paddle"
    [pid] = server.pids(model)
    assert "/openvino/libs/" not in Path(f"/proc/{pid}/maps").read_text()
    (answer,) = server.predict(model, json=INPUTS["digits"]["image"][0].tolist()).json().values()
    np.testing.assert_allclose(answer, paddles_answers(both, "digits")[0][0], rtol=1e-4, atol=1e-6)


def test_one_that_is_near_enough_may_be_chosen(server: RunningServer) -> None:
    """The same double: so what it says of the others is because of what they do."""
    said = tried(server, "near")
    assert "out" not in said
    assert 1e-7 < said["difference"] < 1e-4


def test_one_that_is_off_by_a_hundredth(server: RunningServer, both: Path) -> None:
    said = tried(server, "wrong")
    assert 1e-2 <= said["difference"] < 1e-1
    assert "and may by 1.0e-04" in said["out"]
    server.logged("openvino is not used: its answers are not those of paddle")
    served_by_paddle(server, both, "wrong")


def test_one_that_crashes(server: RunningServer, both: Path) -> None:
    assert tried(server, "crash")["out"] == "its process was ended by SIGSEGV"
    served_by_paddle(server, both, "crash")


def test_one_that_hangs(server: RunningServer, both: Path) -> None:
    """It is given ten seconds, and what it has begun is gone then."""
    eventually(lambda: "engineTrials" in server.describe("hang"), 120)
    assert tried(server, "hang")["out"].startswith("took longer than 1")
    served_by_paddle(server, both, "hang")
    assert len(server.pids("hang")) == 1
