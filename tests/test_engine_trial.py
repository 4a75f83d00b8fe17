"""Engines are tried where a model is loaded first, and the best one whose answers are Paddle's runs it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import requests
import yaml

from pdarchiver import to_onnx
from pdarchiver.optimize import optimize
from pdarchiver.pack import PackOptions, pack
from tests import onnx_files
from tests.handlers.engine_files import INPUTS, paddles_answers
from tests.handlers.engine_files import both as both
from tests.onnx_files import FLOAT, node, weights
from tests.pdarchiver.conftest import linear as linear
from tests.pdarchiver.conftest import models as models
from tests.running import RunningServer

TRIED = "for the trial's samples"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, both: Path, linear: Path) -> Iterator[RunningServer]:
    folder = tmp_path_factory.mktemp("trial")
    store, state = folder / "store", folder / "state"
    packed(store, "tried", both / "digits.pdmodel", {})
    packed(store, "untried", both / "digits.pdmodel", {"engine_trial": False})
    wrong = packed(store, "wrong", linear, {})
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(to_onnx, "convert", convert_wrongly)
        assert optimize(wrong).made is not None
    with RunningServer(folder / "server", store, settings={"state_location": str(state)}) as started:
        yield started


def convert_wrongly(model: Path, params: Path | None, target: Path, seconds: float) -> None:
    target.parent.mkdir(exist_ok=True)
    target.write_bytes(
        onnx_files.model(
            [("x", FLOAT, ["N", 13])],
            [("fetch_name_0", FLOAT, ["N", 1])],
            [node("MatMul", ["x", "w"], ["fetch_name_0"])],
            [weights("w", np.full((13, 1), 0.01, np.float32))],
        )
    )


def packed(store: Path, name: str, model: Path, predictor: dict[str, Any]) -> Path:
    config = store.parent / f"{name}.yaml"
    store.mkdir(exist_ok=True)
    config.write_text(yaml.safe_dump({"batchSize": 8, "predictor": predictor}))
    return pack(
        PackOptions(
            model_name=name, version="1.0", handler="base_handler", serialized_file=model, config_file=config,
            export_path=store,
        )
    )  # fmt: skip


def libraries(server: RunningServer, model: str) -> set[str]:
    """Of the engines other than Paddle that the model's workers have loaded."""
    names = ("/openvino/libs/", "/onnxruntime/capi/")  # Paddle brings libraries of OpenVINO's, too
    maps = [Path(f"/proc/{pid}/maps").read_text() for pid in server.pids(model)]
    return {name for name in names if any(name in text for text in maps)}


def outcome(server: RunningServer, engines: list[str]) -> dict[str, Any]:
    """The trial of these engines, as it is remembered."""
    found = [json.loads(path.read_bytes()) for path in (server.folder.parent / "state" / "engines").glob("*.json")]
    (one,) = [each for each in found if [figures["engine"] for figures in each["figures"]] == engines]
    return dict(one)


def test_the_chosen_engine_alone_is_loaded_and_the_answers_are_paddles(server: RunningServer, both: Path) -> None:
    said = outcome(server, ["paddle", "openvino"])
    assert [figures.get("out", "") for figures in said["figures"]] == ["", ""]
    assert [len(figures["milliseconds"]) for figures in said["figures"]] == [2, 2]
    assert said["sizes"] == [1, 8]
    assert libraries(server, "tried") == ({"/openvino/libs/"} if said["chosen"] == "openvino" else set())
    image = INPUTS["digits"]["image"]
    (answer,) = server.predict("tried", json=image[0].tolist()).json().values()
    np.testing.assert_allclose(answer, paddles_answers(both, "digits")[0][0], rtol=1e-4, atol=1e-6)


def test_further_workers_remember(server: RunningServer) -> None:
    server.logged(f"{TRIED}; chosen")
    before = server.log().count(TRIED)
    url = f"{server.management}/models/tried?min_worker=3&synchronous=true"
    assert requests.put(url, timeout=60).status_code == 200
    assert len(server.pids("tried")) == 3
    assert server.log().count(TRIED) == before


def test_descriptions_tell_what_was_tried(server: RunningServer) -> None:
    [trial] = server.describe("tried")["engineTrials"]
    said = outcome(server, ["paddle", "openvino"])
    assert (trial["chosen"], trial["batchSizes"], trial["remembered"]) == (said["chosen"], [1, 8], True)
    paddle, openvino = trial["engines"]
    assert (paddle["engine"], paddle["difference"], openvino["engine"]) == ("paddle", 0.0, "openvino")
    assert openvino["difference"] < 1e-4
    told = [each["milliseconds"] for each in (paddle, openvino)]
    np.testing.assert_allclose(told, [each["milliseconds"] for each in said["figures"]], rtol=1e-3)
    described = server.describe("tried")
    assert [described["engine"], *(worker["engine"] for worker in described["workers"])] == [said["chosen"]] * 4
    [wrong] = server.describe("wrong")["engineTrials"]
    assert not wrong["remembered"]
    assert [each.get("out", "")[:27] for each in wrong["engines"]] == ["", *['output "fetch_name_0" diffe'] * 2]
    assert "engineTrials" not in server.describe("untried")


def test_a_wrong_engine_does_not_run_the_model(server: RunningServer) -> None:
    """The archive has another model in ONNX's form, which both engines run faster."""
    said = outcome(server, ["paddle", "onnxruntime", "openvino"])
    assert said["chosen"] == "paddle"
    assert [figures.get("wrong", False) for figures in said["figures"]] == [False, True, True]
    assert libraries(server, "wrong") == set()
    server.logged('onnxruntime is not used: its answers are not those of paddle: output "fetch_name_0" differs by')
    assert server.predict("wrong", json=[1.0] * 13).status_code == 200


def test_without_a_trial_paddle_runs_its_own_models(server: RunningServer) -> None:
    assert libraries(server, "untried") == set()
