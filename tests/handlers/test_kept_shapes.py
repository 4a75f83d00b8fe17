"""What engines keep of the shapes that a model's inputs have had: bounded, and enough for those that are known."""

from __future__ import annotations

import ctypes
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import openvino
import pytest

from pdarchiver import graph_files
from pdarchiver.signature import read as read_program
from pdserver.handlers.runtime.engines import paddle as paddle_engine
from pdserver.handlers.runtime.engines.base import KEPT_OPERATIONS
from pdserver.handlers.runtime.engines.paddle import PaddleModel
from pdserver.handlers.runtime.predictor import Predictor
from pdserver.handlers.runtime.predictor_settings import PredictorSettings
from tests.handlers.engine_files import predictor_of

ONEDNN: Any = paddle_engine._ONEDNN
MANY = 400


def opened(file: Path, engine: str, **settings: Any) -> Predictor:
    program = read_program(file)
    given = PredictorSettings(engine=engine, **settings)  # type: ignore[arg-type]  # as a config file has it
    return predictor_of(file, file.with_suffix(".pdiparams"), program.signature, given)


def picture(width: int) -> dict[str, Any]:
    return {"x": np.ones((1, 3, 16, width), np.float32)}


def operations(file: Path) -> int:
    return len(graph_files.read(file.read_bytes()).operations)


@pytest.fixture
def onednns_own() -> Iterator[None]:
    """oneDNN begins with nothing, and gets its number back."""
    ONEDNN.dnnl_set_primitive_cache_capacity(0)
    ONEDNN.dnnl_set_primitive_cache_capacity(KEPT_OPERATIONS)
    yield
    ONEDNN.dnnl_set_primitive_cache_capacity(KEPT_OPERATIONS)


def kept_by_onednn() -> int:
    count = ctypes.c_int(0)
    ONEDNN._ZN4dnnl4impl24get_primitive_cache_sizeEPi(ctypes.byref(count))
    return count.value


@pytest.mark.usefixtures("onednns_own")
@pytest.mark.parametrize("model", ["legacy/lines.pdmodel", "pir/lines.json"])
def test_onednn_keeps_the_operations_of_all_known_shapes(models: Path, model: str) -> None:
    predictor = opened(models / model, "paddle", engine_shapes=MANY)
    for width in range(4, 4 + MANY):
        predictor.run(picture(width))
    kept = kept_by_onednn()
    assert KEPT_OPERATIONS < kept <= MANY * operations(models / model)
    for width in range(4, 4 + MANY):
        predictor.run(picture(width))
    assert kept_by_onednn() == kept, "nothing was prepared again"


@pytest.mark.usefixtures("onednns_own")
def test_onednn_keeps_a_bounded_number_of_operations(models: Path) -> None:
    predictor = opened(models / "legacy/lines.pdmodel", "paddle")
    for width in range(4, 4 + MANY):
        predictor.run(picture(width))
    assert kept_by_onednn() == KEPT_OPERATIONS


@pytest.mark.usefixtures("onednns_own")
def test_a_second_model_does_not_lower_the_number(models: Path) -> None:
    file = models / "legacy/lines.pdmodel"
    for shapes in (MANY, 1):
        opened(file, "paddle", engine_shapes=shapes)
        assert paddle_engine._kept() == MANY * operations(file)


def test_the_operators_number_is_kept(models: Path) -> None:
    code = f"""
from pathlib import Path
from tests.handlers.test_kept_shapes import opened, paddle_engine
opened(Path({str(models)!r}) / "legacy/lines.pdmodel", "paddle", engine_shapes={MANY})
print("kept", paddle_engine._kept())
"""
    environment = {"ONEDNN_PRIMITIVE_CACHE_CAPACITY": "64"}
    done = subprocess.run([sys.executable, "-c", code], env=environment, check=True, capture_output=True, text=True)
    assert "kept 64\n" in done.stdout


@pytest.mark.parametrize("shapes", [0, MANY])
def test_openvino_keeps_a_bounded_number_of_operations(
    models: Path, shapes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It does not tell how many, so this is what it is told."""
    told: list[int] = []

    class Core(openvino.Core):  # type: ignore[misc]  # openvino has no types
        def compile_model(self, model: Any, device: str, config: dict[str, Any]) -> Any:
            told.append(config["CPU_RUNTIME_CACHE_CAPACITY"])
            return super().compile_model(model, device, config)

    monkeypatch.setattr(openvino, "Core", Core)
    predictor = opened(models / "legacy/lines.pdmodel", "openvino", engine_shapes=shapes)
    assert predictor.run(picture(8))
    [capacity] = told
    assert capacity >= MANY * 9 if shapes else capacity == KEPT_OPERATIONS


@dataclass
class Told:
    """A predictor of Paddle's, and when it was told to forget its buffers."""

    predictor: Any
    calls: list[str] = field(default_factory=list)

    def clear_intermediate_tensor(self) -> None:
        self.calls.append("forget")
        self.predictor.clear_intermediate_tensor()

    def run(self) -> None:
        self.calls.append("run")
        self.predictor.run()


@pytest.mark.parametrize(
    ("model", "settings", "forgets"),
    [
        ("legacy/lines.pdmodel", {}, True),
        ("legacy/lines.pdmodel", {"memory_optim": False}, False),
        ("pir/lines.json", {}, False),
    ],
    ids=str,
)
def test_buffers_are_made_anew_for_larger_inputs_alone(
    models: Path, model: str, settings: dict[str, Any], forgets: bool
) -> None:
    loaded = opened(models / model, "paddle", **settings)._loaded
    assert isinstance(loaded, PaddleModel)
    told = loaded.predictor = Told(loaded.predictor)
    for width in (8, 8, 12, 10, 16):
        loaded.run(picture(width))
    assert told.calls == (["forget", "run", "run", "forget", "run", "run", "forget", "run"] if forgets else ["run"] * 5)
