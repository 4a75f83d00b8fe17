"""What `make build` makes, installed by itself in an environment of its own, far from the checkout."""

from __future__ import annotations

import importlib.metadata
import json
import shutil
import subprocess
import sys
import zipfile
from importlib.metadata import Distribution
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from pdserver import __version__
from tests.shell import Shell
from tests.test_docs import ROOT

PACK = """\
pd-model-archiver --model-name again --version 2.0 --handler image_classifier --serialized-file unpacked/model.json \
--config-file unpacked/model-config.yaml --extra-files unpacked/index_to_name.json --export-path store"""


@pytest.fixture
def environment(tmp_path: Path) -> Path:
    """A virtual environment with the wheel and what it asks for, and nothing else."""
    built = tmp_path / "dist"
    run("-m", "build", "--no-isolation", "--outdir", str(built), str(ROOT))
    [wheel] = built.glob("*.whl")
    venv = tmp_path / "venv"
    run("-m", "venv", "--without-pip", str(venv))
    run("-m", "pip", "--python", str(venv / "bin/python"), "install", "--quiet", "--no-deps", "--no-index", str(wheel))
    [metadata] = venv.glob("lib/*/site-packages/pdserver-*.dist-info")
    for needed in required(Distribution.at(metadata), {"cpu"}).values():
        link(needed, metadata.parent)
    if sys.version_info < (3, 12):  # such a Python puts it beside pip, and Paddle relies on that
        link(importlib.metadata.distribution("setuptools"), metadata.parent)
    return venv


def required(distribution: Distribution, extras: set[str]) -> dict[str, Distribution]:
    """What it asks for with these extras, and what that asks for in turn, from the tests' environment; by name."""
    found: dict[str, Distribution] = {}
    waiting = [(distribution, extras)]
    for asking, its_extras in waiting:
        for requirement in map(Requirement, asking.requires or ()):
            marker = requirement.marker
            if marker and not any(marker.evaluate({"extra": extra}) for extra in ("", *its_extras)):
                continue
            has = importlib.metadata.distribution(requirement.name)
            assert requirement.specifier.contains(has.version, prereleases=True), f"{requirement}, not {has.version}"
            if found.setdefault(has.name, has) is has:
                waiting.append((has, requirement.extras))
    return found


def link(distribution: Distribution, folder: Path) -> None:
    """Install a distribution into `folder` by links to its files: Paddle alone is half a gigabyte."""
    for file in distribution.files or ():
        if ".." not in file.parts:  # a command
            linked = folder / file
            linked.parent.mkdir(parents=True, exist_ok=True)
            linked.symlink_to(str(distribution.locate_file(file)))


def run(*arguments: str) -> None:
    done = subprocess.run([sys.executable, *arguments], cwd="/", capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


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
