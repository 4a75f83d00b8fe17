"""The examples, trained and packed from nothing by the commands that `make demo` uses."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import MadeOnce

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="session")
def built(made_once: MadeOnce) -> Path:
    """A folder as `build/` is after `make demo`: the exports, and the archives in demo/store."""
    return made_once("examples", lambda folder: build(folder, "digits", "diabetes"))


def build(folder: Path, *names: str) -> None:
    archives = [f"{folder}/demo/store/{name}.pdar" for name in names]
    # The environment is the one that runs the tests: make takes it as it is.
    here = [f"BUILD={folder}", f"PY={sys.executable}", f"BIN={Path(sys.executable).parent}"]
    environ = {name: value for name, value in os.environ.items() if not name.startswith(("MAKE", "MFLAGS"))}
    command = ["make", "--old-file=.venv/.installed-demo", *here, *archives]
    made = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env=environ)
    assert made.returncode == 0, made.stdout + made.stderr
