"""The public stubs of TensorFlow Serving: `tensorflow-serving-api`, in a folder of its own.

That package asks for the whole of TensorFlow, of which its modules import the descriptions of messages alone. The
package `tensorflow-protobuf` has these in 160 KB, but for the codes of errors, which are gRPC's under another name: it
lacks that file, and TensorFlow has moved it since. protoc makes it of ours, where it is now.

Scripts run in a process of their own, since the names of the messages are those of ours. Where no index can be reached,
tests are skipped with that reason. A test file imports the fixture
(`from tests.tensorflow_clients import tensorflow_clients as tensorflow_clients`).
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from tests.public_clients import given_by, locked

ROOT = Path(__file__).parent.parent
FOLDER = ROOT / "build" / "tensorflow-clients"
PROTOS = ROOT / "pdserver" / "dialects" / "protos"
PACKAGES = ("tensorflow-protobuf==2.11.0", "tensorflow-serving-api==2.21.0")
"""The second one brings newer versions of modules that are in the first one, too."""
_CODES = "xla/tsl/protobuf/error_codes.proto"
_OLD_PLACE = "tensorflow/core/protobuf/error_codes.proto"
_BEFORE = """
import json, os, sys
import grpc

def give(value):
    with open(os.environ["GIVE_TO"], "w") as file:
        json.dump(value, file)

"""


class TensorflowClients:
    """The folder with the packages."""

    def run(self, script: str, *arguments: object, seconds: float = 60) -> Any:
        """What the script gives: it calls `give` once, with anything that is JSON."""
        environment = {**os.environ, "PYTHONPATH": str(FOLDER / "packages")}
        return given_by(sys.executable, _BEFORE + script, arguments, environment, seconds=seconds)


@pytest.fixture(scope="session")
def tensorflow_clients() -> TensorflowClients:
    _install()
    return TensorflowClients()


def _install() -> None:
    """Where that has not been done."""
    made = FOLDER / "made"
    wanted = "\n".join(PACKAGES)
    with locked(FOLDER):
        if not made.exists() or made.read_text() != wanted:
            shutil.rmtree(FOLDER, ignore_errors=True)
            _make(FOLDER / "packages")
            made.write_text(wanted)


def _make(packages: Path) -> None:
    for package in PACKAGES:
        pip = [
            sys.executable,
            "-m",
            "pip",
            "install",
            "--disable-pip-version-check",
            "-q",
            "--retries",
            "1",
            "--no-deps",
        ]
        command = [*pip, "--upgrade", "--target", str(packages), package]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            last = (done.stderr or done.stdout).strip().splitlines()[-1:]
            pytest.skip(f"TensorFlow Serving's stubs can't be installed: {' '.join(last)}")
    (packages / _CODES).parent.mkdir(parents=True)
    shutil.copy(PROTOS / "tensorflow_error.proto", packages / _CODES)
    forwarding = f'syntax = "proto3"; package tensorflow.error.dummy; import public "{_CODES}";'
    (packages / _OLD_PLACE).write_text(forwarding)
    command = [sys.executable, "-m", "grpc_tools.protoc", "-I.", "--python_out=.", _CODES, _OLD_PLACE]
    subprocess.run(command, cwd=packages, check=True)


if __name__ == "__main__":  # before the tests, whose time is limited
    with suppress(pytest.skip.Exception):
        _install()
