"""The public stubs of TensorFlow Serving: `tensorflow-serving-api`, in a folder of its own.

That package asks for the whole of TensorFlow, of which its modules import the descriptions of messages alone. The
package `tensorflow-protobuf` has these in 160 KB, but for the codes of errors, which are gRPC's under another name: it
lacks that file, and TensorFlow has moved it since. protoc makes it of ours, where it is now.

Scripts run in a process of their own, since the names of the messages are those of ours. Where no index can be reached,
tests are skipped with that reason. A test file imports the fixture
(`from tests.tensorflow_clients import tensorflow_clients as tensorflow_clients`).
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

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
        with tempfile.TemporaryDirectory() as temporary:
            given, file = Path(temporary, "given.json"), Path(temporary, "script.py")
            file.write_text(_BEFORE + script)
            done = subprocess.run(
                [sys.executable, "-W", "ignore", str(file), *map(str, arguments)],
                cwd=temporary,
                env={**os.environ, "PYTHONPATH": str(FOLDER / "packages"), "GIVE_TO": str(given)},
                capture_output=True,
                text=True,
                timeout=seconds,
            )
            said = f"exit status {done.returncode}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
            assert done.returncode == 0, said
            assert given.exists(), f"nothing was given: {said}"
            return json.loads(given.read_text())


@pytest.fixture(scope="session")
def tensorflow_clients() -> TensorflowClients:
    _install()
    return TensorflowClients()


@contextmanager
def _locked() -> Iterator[None]:
    """Against other processes of tests."""
    FOLDER.parent.mkdir(exist_ok=True)
    with FOLDER.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _install() -> None:
    """Where that has not been done."""
    made = FOLDER / "made"
    wanted = "\n".join(PACKAGES)
    with _locked():
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
