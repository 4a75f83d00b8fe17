"""The models of engine_models.py, for the tests of engines: the files, what they are given, and what Paddle answers.

A test file imports the fixture (`from tests.handlers.engine_files import both as both`).
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from pdarchiver.manifest import Signature
from pdserver.handlers.runtime.described import Described
from pdserver.handlers.runtime.engines.candidates import Converted, ModelFiles
from pdserver.handlers.runtime.predictor import Predictor
from pdserver.handlers.runtime.predictor_settings import PredictorSettings
from pdserver.handlers.runtime.rows import Array, Arrays
from tests.conftest import MadeOnce, run_script

NUMBERS = np.random.default_rng(5)
INPUTS: dict[str, Arrays] = {
    "linear": {"x": NUMBERS.normal(size=(5, 13)).astype(np.float32)},
    "layers": {"x": NUMBERS.normal(size=(5, 13)).astype(np.float32)},
    "digits": {"image": NUMBERS.normal(size=(5, 1, 8, 8)).astype(np.float32)},
    "words": {
        "ids": NUMBERS.integers(0, 10, (5, 7)),
        "flag": np.array([True, False, True, True, False]),
        "weight": NUMBERS.normal(size=5).astype(np.float32),
    },
    "doubled": {"x": np.array([[1, -0.5, 3.140625], [1e30, 0, -7]], np.float32)},
}


@pytest.fixture(scope="session")
def both(made_once: MadeOnce) -> Path:
    """A folder with each model as .pdmodel and as .onnx."""
    script = "tests.handlers.engine_models"
    return made_once("engines", lambda root: run_script("-m", script, root, FLAGS_enable_pir_api="0"))


def predictor_of(
    model: Path, params: Path | None, signature: Signature, settings: PredictorSettings, made: Converted | None = None
) -> Predictor:
    """The model, loaded without a trial."""
    return Predictor(Described(ModelFiles(model, params, signature, made), settings, None))


def paddles_answers(both: Path, name: str) -> list[Array]:
    """To INPUTS[name], as the layer itself gave them, in the order of the model's outputs."""
    with np.load(both / f"{name}.npz") as held:
        return [held[key] for key in held]
