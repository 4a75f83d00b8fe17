"""Repositories in Triton's layout, made of real models."""

from __future__ import annotations

import shutil
from pathlib import Path

from pdarchiver import signature


def add_version(repository: Path, fit_model: Path, name: str = "fit", version: str = "1") -> Path:
    """A version of `name` with the model that `fit_model` has: x float32 [-1, 13] → one float. Gives its folder."""
    folder = repository / name / version
    folder.mkdir(parents=True)
    shutil.copy(fit_model / "fit.json", folder / "model.json")
    shutil.copy(fit_model / "fit.pdiparams", folder / "model.pdiparams")
    return folder


def configure(repository: Path, text: str, name: str = "fit") -> None:
    (repository / name).mkdir(parents=True, exist_ok=True)
    (repository / name / "config.pbtxt").write_text(text)


def output_of(fit_model: Path) -> str:
    """The name that Paddle has given the model's output."""
    [output] = signature.read(fit_model / "fit.json").signature.outputs
    return output.name


def add_ensemble(repository: Path, text: str, name: str) -> None:
    """One whose version has no files."""
    (repository / name / "1").mkdir(parents=True)
    configure(repository, text, name)
