"""A model that crashes with an acceleration which is on by itself is served without it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from pdserver.configuration.model import ModelSpec
from pdserver.engine.accelerations import without
from tests.conftest import Lent, fit_file, pack_handler
from tests.running import RunningServer

ROW = [1.0] * 13
WARNING = "before it answered anything; tried again with predictor: {onednn: false"


def served(lent: Lent, model: Path, handler: str, config: str = "") -> RunningServer:
    archive = pack_handler(lent.store, handler, config=config, serialized_file=model)
    answer = lent.server.manage("POST", f"/models?url={archive.name}")
    assert answer.status_code == 200, answer.text
    return lent.server


def test_a_graph_that_crashes_with_onednn(lent: Lent, odd_models: Path) -> None:
    server = served(lent, odd_models / "leaky.json", "base_handler")
    answer = server.predict("base_handler", json=[[[1.0] * 4] * 4] * 3)
    assert answer.json() == {"fetch_name_0": [[[pytest.approx(-0.135)] * 2] * 2] * 2}


@pytest.mark.parametrize("when", ["load", "run"])
def test_a_crash_before_the_first_answer(lent: Lent, fit_model: Path, when: str) -> None:
    before = lent.server.log().count(WARNING)
    server = served(lent, fit_file(fit_model), "fragile", f"crash: {when}\n")
    answer = server.predict("fragile", json=ROW)
    assert answer.status_code == 200, answer.text
    server.logged(WARNING, before + 1)


def test_a_crash_with_and_without(lent: Lent, fit_model: Path) -> None:
    """It is tried once, and then no more."""
    before = lent.server.log().count(WARNING)
    archive = pack_handler(
        lent.store, "fragile", config="crash: load\nalways: true\n", serialized_file=fit_file(fit_model)
    )
    answer = lent.server.manage("POST", f"/models?url={archive.name}")
    assert answer.status_code == 500
    assert "SIGSEGV" in answer.text
    assert lent.server.log().count(WARNING) == before + 1


@pytest.mark.parametrize(
    ("section", "expected"),
    [
        (None, {"onednn": False, "memory_optim": False, "engine": "paddle"}),
        (
            {"onednn": "auto", "threads": 2},
            {"onednn": False, "memory_optim": False, "engine": "paddle", "threads": 2},
        ),
        ({"onednn": True, "engine": "openvino"}, {"onednn": True, "memory_optim": False, "engine": "openvino"}),
        (
            {"engine": "paddle", "precision": "bfloat16"},
            {"memory_optim": False, "engine": "paddle", "precision": "bfloat16"},
        ),
        (
            {"precision": "auto"},
            {"onednn": False, "memory_optim": False, "engine": "paddle", "precision": "float32"},
        ),
        ({"onednn": False, "memory_optim": True, "engine": "paddle"}, None),
        ("wrong", None),
    ],
)
def test_what_is_on_by_itself(section: Any, expected: Any) -> None:
    spec = ModelSpec(
        name="m", version="1", url="m", directory="", handler="", manifest={"model": {"serializedFile": "m.json"}},
        model_config={"predictor": section, "a": 1}, min_workers=1, max_workers=1,
    )  # fmt: skip
    found = without(spec)
    assert (found and found[0].model_config) == (expected and {"predictor": expected, "a": 1})


@pytest.mark.parametrize(
    ("section", "expected"),
    [
        ({"threads": 2}, {"threads": 2, "engine_trial": False}),
        ({"engine": "auto", "precision": "auto"}, {"engine": "auto", "precision": "float32", "engine_trial": False}),
        ({"engine": "openvino"}, None),
        ({"engine_trial": False}, None),
    ],
)
def test_an_onnx_is_run_by_the_reference_then(section: Any, expected: Any) -> None:
    spec = ModelSpec(
        name="m", version="1", url="m", directory="", handler="", manifest={"model": {"serializedFile": "m.onnx"}},
        model_config={"predictor": section}, min_workers=1, max_workers=1,
    )  # fmt: skip
    found = without(spec)
    assert (found and found[0].model_config) == (expected and {"predictor": expected})
