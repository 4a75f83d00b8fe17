"""What `make build` makes, installed by itself in an environment of its own, far from the checkout."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from pdserver import __version__
from tests.shell import Shell
from tests.test_docs import ROOT

PACK = """\
pd-model-archiver --model-name again --version 2.0 --handler image_classifier --serialized-file unpacked/model.json \
--config-file unpacked/model-config.yaml --extra-files unpacked/index_to_name.json --export-path store"""


@pytest.fixture
def environment(tmp_path: Path) -> Iterator[Path]:
    """A virtual environment with the wheel and what it asks for, and nothing else; it is a gigabyte, and removed."""
    built = tmp_path / "dist"
    run("-m", "build", "--outdir", str(built), str(ROOT))
    [wheel] = built.glob("*.whl")
    venv = tmp_path / "venv"
    run("-m", "venv", str(venv))
    run("-m", "pip", "--python", str(venv / "bin/python"), "install", "--quiet", f"{wheel}[cpu]")
    yield venv
    shutil.rmtree(venv)


def run(*arguments: str) -> None:
    done = subprocess.run([sys.executable, *arguments], cwd="/", capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


# Where pip has no cache, Paddle is a download of 190 MB.
@pytest.mark.timeout(900)
def test_the_wheel_packs_and_serves_far_from_the_checkout(environment: Path, tmp_path: Path) -> None:
    folder = tmp_path / "elsewhere"
    (folder / "store").mkdir(parents=True)
    shutil.copy(ROOT / "model_store/digits.pdar", folder / "store")
    shutil.copy(ROOT / "examples/digits/seven.png", folder)
    with zipfile.ZipFile(folder / "store/digits.pdar") as archive:
        archive.extractall(folder / "unpacked")
    shell = Shell(folder, environment / "bin")

    def said(command: str) -> str:
        done = shell.run(command)
        assert done.returncode == 0, done.stdout
        return done.stdout

    for package in ("pdserver", "pdarchiver"):
        assert said(f"python -c 'import {package}; print({package}.__file__)'").startswith(str(environment))
    try:
        assert said("pdserver --version") == f"pdserver {__version__}\n"
        assert said(PACK).startswith("wrote store/again.pdar")
        assert "Model server started." in said("pdserver --start --model-store store --models all")
        for model in ("digits", "again"):
            answer = json.loads(said(f"curl http://localhost:8080/predictions/{model} -T seven.png"))
            assert max(answer, key=answer.get) == "seven"
        assert said("pdserver --stop") == "pdserver has stopped.\n"
    finally:
        shell.close()
