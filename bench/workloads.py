"""What the servers are asked: a model, a request, and the right answer to it."""

from __future__ import annotations

import contextlib
import io
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import orjson

from bench.paths import ROOT, WORK

_CONTENT_TYPES = {".json": "application/json", ".jpg": "image/jpeg", ".npy": "application/octet-stream"}
_TOLERANCE = 1e-3


@dataclass(frozen=True)
class Workload:
    """`handler` is that of our archive; the other servers run `model.MODELS[name]`."""

    name: str
    folder: Path
    """Contains model.json, model.pdiparams, request.*, answer."""
    handler: str

    @property
    def request_file(self) -> Path:
        return next(self.folder.glob("request.*"))

    @property
    def content_type(self) -> str:
        return _CONTENT_TYPES[self.request_file.suffix]

    def is_right(self, answer: bytes) -> bool:
        """Whether the answer equals the model's own, up to rounding."""
        try:
            return self.agrees(_parsed(answer))
        except ValueError:
            return False

    def agrees(self, answer: Any) -> bool:
        """The same for parsed JSON, or an array."""
        return _agree(answer, self.expected())

    def expected(self) -> Any:
        """The right answer: parsed JSON, or an array."""
        return _parsed((self.folder / "answer").read_bytes())


def prepare(name: str) -> Workload:
    """Make the workload once, in a process of its own, so that this one does not import paddle."""
    folder = WORK / "models" / name
    if not (folder / "answer").is_file():
        print(f"making the model {name}", flush=True)
        folder.parent.mkdir(parents=True, exist_ok=True)
        made = Path(tempfile.mkdtemp(dir=folder.parent))
        command = [sys.executable, "-W", "ignore", "-m", "bench.make_model", name, str(made)]
        try:
            subprocess.run(command, cwd=ROOT, check=True)
            with contextlib.suppress(OSError):
                # Whole or not at all. If another process made it meanwhile, this fails, and that one made the same.
                made.rename(folder)
        finally:
            shutil.rmtree(made, ignore_errors=True)
    handlers = {"image": "image_classifier", "large": str(ROOT / "bench" / "serving" / "npy_handler.py")}
    return Workload(name, folder, handlers.get(name, "base_handler"))


def float_row(workload: Workload) -> np.ndarray[Any, np.dtype[np.float32]]:
    """The row of numbers that the request asks about. Raises ValueError for a request of something else."""
    data = workload.request_file.read_bytes()
    row: np.ndarray[Any, np.dtype[np.float32]] = np.asarray(
        orjson.loads(data)["x"] if workload.content_type == "application/json" else np.load(io.BytesIO(data)),
        np.float32,
    )
    return row


def _parsed(answer: bytes) -> Any:
    return np.load(io.BytesIO(answer)) if answer.startswith(b"\x93NUMPY") else orjson.loads(answer)


def _agree(answer: Any, expected: Any) -> bool:
    if isinstance(expected, dict):
        return (
            isinstance(answer, dict)
            and answer.keys() == expected.keys()
            and all(_agree(answer[key], value) for key, value in expected.items())
        )
    return np.shape(answer) == np.shape(expected) and bool(np.allclose(answer, expected, _TOLERANCE))
