"""The models that engines are compared with: packed as users do it, with `--optimize`, and unpacked as workers do."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bench import ocr
from bench.environments import CONVERT
from bench.paths import ROOT, WORK
from bench.peers.ours import BIN
from bench.workloads import prepare
from pdarchiver import archive

_FOLDER = WORK / "engines"
_SAMPLE = "sample.npy"
_WORDS = 1000


@dataclass(frozen=True)
class EngineModel:
    name: str
    title: str
    row: tuple[int, ...]
    """The shape of one row of its input."""
    batch_sizes: tuple[int, ...]
    """One, and the `batchSize` that it would be served with."""

    def file(self) -> Path:
        """Its program, which is made if it is missing. Raises RuntimeError where it can't be had."""
        if self.name in ("det", "rec", "cls"):
            return ocr.make()[0] / self.name / "inference.pdmodel"
        if self.name in ("bert", "picodet"):
            return _of_shape(self.name, ".json" if self.name == "bert" else ".pdmodel")
        return prepare(self.name).folder / "model.json"

    def numbers(self) -> NDArray[Any]:
        """A row of its input, x."""
        random = np.random.default_rng(7)
        if self.name == "bert":
            return random.integers(1, _WORDS, (1, *self.row))
        return random.random((1, *self.row), np.float32)

    def engines(self) -> tuple[str, ...]:
        """Those that can run it: nothing converts .pdmodel for ONNX Runtime. Paddle first."""
        return ("paddle", "openvino") if self.file().suffix == ".pdmodel" else ("paddle", "onnxruntime", "openvino")


MODELS = (
    EngineModel("image", "MobileNetV3-small", (3, 224, 224), (1, 8)),
    EngineModel("resnet50", "ResNet50", (3, 224, 224), (1, 4)),
    EngineModel("det", "PP-OCRv4, detection", (3, 640, 640), (1,)),
    EngineModel("rec", "PP-OCRv4, recognition", (3, 48, 320), (1, 8)),
    EngineModel("cls", "PP-OCRv4, direction", (3, 48, 192), (1, 8)),
    EngineModel("bert", "BERT's shape, 6 layers", (64,), (1, 8)),
    EngineModel("picodet", "PicoDet's shape", (3, 320, 320), (1, 4)),
    EngineModel("fit", "fit", (13,), (1, 32)),
)


@cache
def pack(model: EngineModel, engine: str = "") -> Path:
    """An archive of the model, converted where other engines don't read it as it is, with a sample of what it is asked.
    `engine`: the one that its settings name. Raises RuntimeError where paddle2onnx does not convert it."""
    file = model.file()
    name = f"{model.name}-{engine}" if engine else model.name
    folder = _FOLDER / name
    folder.mkdir(parents=True, exist_ok=True)
    settings, sample = folder / "settings.yaml", folder / _SAMPLE
    lines = [f"batchSize: {model.batch_sizes[-1]}\n", f"samples: [{{x: {_SAMPLE}}}]\n"]
    lines += [f"predictor: {{engine: {engine}}}\n"] if engine else []
    settings.write_text("".join(lines))
    np.save(sample, model.numbers())
    converts = file.suffix == ".json"
    archiver = (CONVERT.bin if converts else BIN) / "pd-model-archiver"
    command = [str(archiver), "--model-name", name, "--version", "1.0", "--serialized-file", str(file), "--force"]
    command += ["--config-file", str(settings), "--extra-files", str(sample), "--export-path", str(folder)]
    done = subprocess.run([*command, *(["--optimize"] if converts else [])], capture_output=True, text=True)
    made = folder / f"{name}.pdar"
    if done.returncode or (converts and not archive.inspect(made).manifest.engines):
        raise RuntimeError(f"{name}: {done.stdout}{done.stderr}")
    return made


def unpack(model: EngineModel) -> Path:
    """The folder of the archive's files."""
    made = pack(model)
    folder = made.with_name("unpacked")
    shutil.rmtree(folder, ignore_errors=True)
    archive.unpack(made, folder)
    return folder


def inputs(folder: Path, rows: int) -> dict[str, NDArray[Any]]:
    """So many rows for the model in the folder: its sample, again and again."""
    return {"x": np.concatenate([np.load(folder / _SAMPLE)] * rows)}


def _of_shape(name: str, suffix: str) -> Path:
    """Saved in the one or the other of Paddle's forms."""
    folder = WORK / "models" / name
    file = folder / f"model{suffix}"
    if not file.is_file():
        print(f"making the model {name}", flush=True)
        command = [sys.executable, "-W", "ignore", "-m", "bench.shapes", name, str(folder)]
        subprocess.run(
            command, cwd=ROOT, env={**os.environ, "FLAGS_enable_pir_api": str(int(suffix == ".json"))}, check=True
        )
    return file
