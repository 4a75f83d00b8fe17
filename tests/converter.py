"""paddle2onnx, in a folder of its own: it needs an older onnx than others may have, and 80 MB.

It takes all else, Paddle too, from the environment of the tests. Where no index can be reached, tests are skipped with
that reason. A test file imports the fixture (`from tests.converter import converter as converter`).
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

import pytest

from tests.public_clients import locked

FOLDER = Path(__file__).parent.parent / "build" / "converter"
PACKAGES = ("paddle2onnx==2.1.0", "onnx==1.17.0")


@pytest.fixture(scope="session")
def converter() -> Mapping[str, str]:
    """The environment variables with which Python finds it."""
    _install()
    return {**os.environ, "PYTHONPATH": str(FOLDER / "packages")}


def _install() -> None:
    """Where that has not been done."""
    made, wanted = FOLDER / "made", "\n".join(PACKAGES)
    with locked(FOLDER):
        if made.exists() and made.read_text() == wanted:
            return
        shutil.rmtree(FOLDER, ignore_errors=True)
        pip = [sys.executable, "-m", "pip", "install", "--disable-pip-version-check", "-q", "--retries", "1"]
        command = [*pip, "--no-deps", "--no-compile", "--target", str(FOLDER / "packages"), *PACKAGES]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            last = (done.stderr or done.stdout).strip().splitlines()[-1:]
            pytest.skip(f"paddle2onnx can't be installed: {' '.join(last)}")
        made.write_text(wanted)


if __name__ == "__main__":  # before the tests, whose time is limited
    with suppress(pytest.skip.Exception):
        _install()
