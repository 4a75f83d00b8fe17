"""The public clients of Paddle Serving 0.9, in a Python that they still run in.

`paddle_serving_client` has a compiled part for Python 3.6 to 3.9, and its `HttpClient` fails with 3.10 and later, so it
gets an environment of its own: once per checkout, by pip. Where the machine has no such Python or no index can be
reached, tests are skipped with that reason. A test file imports the fixture that it needs
(`from tests.paddle_clients import paddle_clients as paddle_clients`).
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from tests.public_clients import given_by, locked

ROOT = Path(__file__).parent.parent
FOLDER = ROOT / "build" / "paddle-clients"
VERSIONS = ("3.8", "3.9")
PACKAGES = (
    *("paddle_serving_client==0.9.0", "paddle_serving_server==0.9.0"),
    *("protobuf==3.20.3", "numpy==1.23.5", "setuptools<60"),  # what was made for later ones does not load
)
_STAND_INS = """
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdlib.h>
void *_dl_sym(void *handle, const char *name, void *who) { return dlsym(RTLD_DEFAULT, name); }
void *DH_new(void) { return calloc(1, 4096); }
int BN_dec2bn(void **number, const char *text) { *number = calloc(1, 64); return 1; }
void *get_rfc2409_prime_1024(void *number) { return calloc(1, 64); }
void *get_rfc3526_prime_2048(void *number) { return calloc(1, 64); }
void *get_rfc3526_prime_4096(void *number) { return calloc(1, 64); }
void *get_rfc3526_prime_8192(void *number) { return calloc(1, 64); }
"""
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

    def __init__(self, python: Path, libraries: Path | None = None) -> None:
        self.python = python
        self.environment = {**os.environ, "PYTHONPATH": ""}
        if libraries is not None:
            self.environment["LD_LIBRARY_PATH"] = str(libraries)

    def run(self, script: str, *arguments: object, folder: Path | None = None, seconds: float = 120) -> Any:
        """What the script gives: it calls `give` once, with anything that is JSON or a NumPy array. An array becomes
        {"dtype": …, "shape": …, "data": …}. The script runs in `folder`, since these clients write logs where they
        are."""
        return given_by(self.python, _BEFORE + script, arguments, self.environment, folder=folder, seconds=seconds)


@pytest.fixture(scope="session")
def paddle_clients() -> PaddleClients:
    """With everything but the compiled `Client`."""
    return PaddleClients(_environment())


@pytest.fixture(scope="session")
def compiled_client(paddle_clients: PaddleClients) -> PaddleClients:
    """With the compiled `Client`.

    It wants OpenSSL 1.0.2 as CentOS 7 has it (libcrypto.so.10, libssl.so.10), and of the C library what glibc 2.34 took
    away. Debian has no package of these. It needs them to set up TLS, which it does not use: so stand-ins do, which a C
    compiler makes of the names that it looks for.
    """
    libraries = FOLDER / "libraries"
    able = PaddleClients(paddle_clients.python, libraries)
    with locked(FOLDER):
        if not libraries.exists():
            _make_libraries(able.python, libraries)
    done = subprocess.run(
        [str(able.python), "-c", "import paddle_serving_client.serving_client"],
        env=able.environment,
        capture_output=True,
        text=True,
    )
    if done.returncode:
        pytest.skip(f"the compiled client can't be loaded: {done.stderr.strip().splitlines()[-1]}")
    return able


def _environment() -> Path:
    """The environment's Python. It is made where it is not yet there."""
    made, python = FOLDER / "made", FOLDER / "bin" / "python"
    wanted = "\n".join(PACKAGES)
    with locked(FOLDER):
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


def _make_libraries(python: Path, folder: Path) -> None:
    """The compiled client's libraries that no system has any more: functions that do nothing."""
    told = subprocess.run(
        [str(python), "-c", "import sysconfig; print(sysconfig.get_paths()['platlib'])"],
        capture_output=True,
        text=True,
        check=True,
    )
    compiled = Path(told.stdout.strip(), "paddle_serving_client", "serving_client.so")
    if shutil.which("cc") is None or shutil.which("nm") is None:
        what = "the compiled client needs CentOS 7's libcrypto.so.10 and libssl.so.10"
        pytest.skip(f"{what}; their stand-ins are made by cc and nm, which are not here")
    wanted = subprocess.run(["nm", "-D", "--undefined-only", str(compiled)], capture_output=True, text=True, check=True)
    names = re.findall(r" (\w+)@(?:libcrypto|libssl|OPENSSL)", wanted.stdout)
    empty = [f"long {name}(void) {{ return 0; }}" for name in sorted(set(names)) if f"{name}(" not in _STAND_INS]
    with tempfile.TemporaryDirectory(dir=folder.parent) as temporary:
        for library, source in (("libcrypto.so.10", _STAND_INS + "\n".join(empty)), ("libssl.so.10", "")):
            command = ["cc", "-w", "-shared", "-fPIC", "-fno-builtin", f"-Wl,-soname,{library}", "-x", "c", "-"]
            subprocess.run([*command, "-o", str(Path(temporary, library)), "-ldl"], input=source, text=True, check=True)
        shutil.copytree(temporary, folder)


if __name__ == "__main__":  # before the tests, whose time is limited
    with suppress(pytest.skip.Exception):
        _environment()
