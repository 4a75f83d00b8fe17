"""Real Paddle models, saved once for all tests of this folder, by other processes: paddle is never imported here."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

_SCRIPT = Path(__file__).with_name("make_models.py")


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `pir/` and `desc/`, the same models in both formats, each with a `facts.json`."""
    root = tmp_path_factory.mktemp("models")
    running = []
    for folder, flag in (("pir", "1"), ("desc", "0")):
        (root / folder).mkdir()
        command = [sys.executable, "-W", "ignore", str(_SCRIPT), str(root / folder)]
        environment = {**os.environ, "FLAGS_enable_pir_api": flag}
        running.append(subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL))
    for process in running:
        _, errors = process.communicate()
        assert process.returncode == 0, errors.decode()
    return root


@pytest.fixture(scope="session")
def linear(models: Path) -> Path:
    """A PIR model with one input, x float32[-1, 13], and one output; its weights lie beside it."""
    return models / "pir" / "linear.json"
