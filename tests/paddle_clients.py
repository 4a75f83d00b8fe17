"""The public clients of Paddle Serving 0.9, in a Python that they still run in.

`paddle_serving_client` has a compiled part for Python 3.6 to 3.9, and its `HttpClient` fails with 3.10 and later, so it
gets an environment of its own: once per checkout, by pip. Where the machine has no such Python or no index can be
reached, tests are skipped with that reason. A test file imports the fixture that it needs
(`from tests.paddle_clients import paddle_clients as paddle_clients`).
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parent.parent
FOLDER = ROOT / "build" / "paddle-clients"
VERSIONS = ("3.8", "3.9")
PACKAGES = (
    *("paddle_serving_client==0.9.0", "paddle_serving_server==0.9.0"),
    *("protobuf==3.20.3", "numpy==1.23.5", "setuptools<60"),  # what was made for later ones does not load
)
_BEFORE = """
import json, os, sys
import numpy

def give(value):
    def plain(found):
        if isinstance(found, numpy.ndarray):
            return {"dtype": str(found.dtype), "shape": list(found.shape), "data": found.ravel().tolist()}
        if isinstance(found, numpy.generic):
            return found.item()
        raise TypeError(type(found))
    with open(os.environ["GIVE_TO"], "w") as file:
        json.dump(value, file, default=plain)

"""


class PaddleClients:
    """The environment."""

    def __init__(self, python: Path) -> None:
        self.python = python

    def run(self, script: str, *arguments: object, folder: Path | None = None, seconds: float = 120) -> Any:
        """What the script gives: it calls `give` once, with anything that is JSON or a NumPy array. An array becomes
        {"dtype": …, "shape": …, "data": …}. The script runs in `folder`, since these clients write logs where they
        are."""
        with tempfile.TemporaryDirectory() as temporary:
            given = Path(temporary, "given.json")
            done = subprocess.run(
                [str(self.python), "-W", "ignore", "-c", _BEFORE + script, *map(str, arguments)],
                cwd=folder or temporary,
                env={**os.environ, "GIVE_TO": str(given), "PYTHONPATH": ""},
                capture_output=True,
                text=True,
                timeout=seconds,
            )
            said = f"exit status {done.returncode}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
            assert done.returncode == 0, said
            assert given.exists(), f"nothing was given: {said}"
            return json.loads(given.read_text())


@pytest.fixture(scope="session")
def paddle_clients() -> PaddleClients:
    """With everything but the compiled `Client`."""
    return PaddleClients(_environment())


@pytest.fixture(scope="session")
def compiled_client(paddle_clients: PaddleClients) -> PaddleClients:
    """With the compiled `Client`."""
    done = subprocess.run(
        [str(paddle_clients.python), "-c", "import paddle_serving_client.serving_client"],
        capture_output=True,
        text=True,
    )
    if done.returncode:
        pytest.skip(f"the compiled client can't be loaded: {done.stderr.strip().splitlines()[-1]}")
    return paddle_clients


def _environment() -> Path:
    """The environment's Python. It is made where it is not yet there."""
    made, python = FOLDER / "made", FOLDER / "bin" / "python"
    wanted = "\n".join(PACKAGES)
    FOLDER.parent.mkdir(exist_ok=True)
    with FOLDER.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not made.exists() or made.read_text() != wanted:
            shutil.rmtree(FOLDER, ignore_errors=True)
            _make(python)
            made.write_text(wanted)
    return python


def _make(python: Path) -> None:
    base = _base()
    if base is None:
        pytest.skip(f"there is no Python {' or '.join(VERSIONS)}, which Paddle Serving's clients need")
    pip = [str(python), "-m", "pip", "install", "--disable-pip-version-check", "-q", "--retries", "1", *PACKAGES]
    for command in ([str(base), "-m", "venv", str(FOLDER)], pip):
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            last = (done.stderr or done.stdout).strip().splitlines()[-1:]
            pytest.skip(f"Paddle Serving's clients can't be installed: {' '.join(last)}")


def _base() -> Path | None:
    """A Python of one of these versions: on the path, or of pyenv."""
    for version in VERSIONS:
        found = shutil.which(f"python{version}")
        kept = sorted(Path.home().glob(f".pyenv/versions/{version}.*/bin/python"))
        for python in [*([Path(found)] if found else []), *kept]:
            if subprocess.run([str(python), "-c", "import ensurepip, venv"], capture_output=True).returncode == 0:
                return python
    return None
