"""The models of engine_models.py, for the tests of engines: the files, what they are given, and what Paddle answers.

A test file imports the fixture (`from tests.handlers.engine_files import both as both`).
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from pdarchiver.manifest import Signature, TensorSpec
from pdarchiver.signature import read as read_program
from pdserver.handlers.runtime.rows import Arrays
from tests.conftest import MadeOnce, run_script

NUMBERS = np.random.default_rng(5)
INPUTS: dict[str, Arrays] = {
    "linear": {"x": NUMBERS.normal(size=(5, 13)).astype(np.float32)},
    "digits": {"image": NUMBERS.normal(size=(5, 1, 8, 8)).astype(np.float32)},
    "words": {
        "ids": NUMBERS.integers(0, 10, (5, 7)),
        "flag": np.array([True, False, True, True, False]),
        "weight": NUMBERS.normal(size=5).astype(np.float32),
    },
    "doubled": {"x": np.array([[1, -0.5, 3.140625], [1e30, 0, -7]], np.float32)},
}
_OUTPUTS: dict[str, dict[str, tuple[str, tuple[int, ...]]]] = {
    "linear": {"y": ("float32", (-1, 1))},
    "digits": {"y": ("float32", (-1, 10))},
    "words": {"words": ("float32", (-1, -1, 4)), "number": ("int64", (-1,)), "truth": ("bool", (-1,))},
    "doubled": {"y": ("bfloat16", (-1, 3))},
}
"""Of the .onnx files."""


@pytest.fixture(scope="session")
def both(made_once: MadeOnce) -> Path:
    """A folder with each model as .pdmodel and as .onnx."""
    script = "tests.handlers.engine_models"
    return made_once("engines", lambda root: run_script("-m", script, root, FLAGS_enable_pir_api="0"))


def signature_of(model: Path) -> Signature:
    if model.suffix != ".onnx":
        return read_program(model).signature
    inputs = read_program(model.with_suffix(".pdmodel")).signature.inputs
    outputs = (TensorSpec(name, dtype, shape, source=name) for name, (dtype, shape) in _OUTPUTS[model.stem].items())
    return Signature(inputs, tuple(outputs))


def paddles_answers(both: Path, name: str) -> Arrays:
    """To INPUTS[name], as the layer itself gave them, by the names in the .onnx file."""
    with np.load(both / f"{name}.npz") as held:
        return {output: held[f"arr_{i}"] for i, output in enumerate(_OUTPUTS[name])}
