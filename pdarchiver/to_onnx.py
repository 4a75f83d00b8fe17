"""Converts Paddle's models to ONNX with paddle2onnx, in a process of its own: it imports Paddle, and may crash."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Mapping
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path

from pdarchiver.errors import PackingError

SECONDS = 600.0
"""A conversion that takes longer is given up."""
_PACKAGES = ("paddle2onnx", "paddlepaddle", "paddlepaddle-gpu")
_OPSET = 17
_REASON = re.compile(r"Failed to convert PaddlePaddle model: *(?P<reason>\S.*)")
_MAX_REASON = 300


class NotConverted(Exception):
    """paddle2onnx does not convert the model. The text says why, as far as it does."""


def check_installed() -> None:
    """Raises PackingError if paddle2onnx is missing."""
    if find_spec("paddle2onnx") is None:
        raise PackingError("converting models needs paddle2onnx: pip install 'pdserver[convert]'")


def versions() -> Mapping[str, str]:
    """Of the packages that convert."""
    installed = {each.metadata["Name"]: each.version for each in map(_distribution, _PACKAGES) if each}
    return dict(sorted(installed.items()))


def convert(model: Path, params: Path | None, target: Path, seconds: float = SECONDS) -> None:
    """Write the ONNX model `target`, a new file. Raises PackingError, NotConverted."""
    check_installed()
    # Its other tools for optimizing install packages by themselves.
    arguments = ["--model_dir", str(model.parent.resolve()), "--model_filename", model.name, "--optimize_tool", "None"]
    arguments += ["--save_file", str(target.resolve()), "--opset_version", str(_OPSET)]
    if params is not None:
        arguments += ["--params_filename", str(params.resolve())]
    command = [sys.executable, "-m", "paddle2onnx.command", *arguments]
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        # In a folder without anything that Python could import.
        done = subprocess.run(
            command, cwd=target.parent, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            timeout=seconds, check=False,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        target.unlink(missing_ok=True)
        raise NotConverted(f"it took longer than {seconds:g} s") from None
    if done.returncode or not target.is_file():
        target.unlink(missing_ok=True)
        raise NotConverted(_reason(done.stdout.decode(errors="replace"), done.returncode))


def _reason(output: str, status: int) -> str:
    """What paddle2onnx says in the end. `status` is that of its process."""
    if found := _REASON.search(output):
        return found["reason"][:_MAX_REASON]
    last = next((line.strip() for line in reversed(output.splitlines()) if line.strip()), "")
    how = f"its process was ended by signal {-status}" if status < 0 else f"its process ended with status {status}"
    return f"{how}: {last[:_MAX_REASON]}" if last else how


def _distribution(package: str) -> metadata.Distribution | None:
    try:
        return metadata.distribution(package)
    except metadata.PackageNotFoundError:
        return None
