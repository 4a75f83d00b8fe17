"""The OCR example for the comparisons: its archive, pages that differ, and what a plain loop reads on them."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.paths import ROOT, WORK

PAGES = 32
EXAMPLE = ROOT / "examples" / "ocr"
_MADE = WORK / "ocr"


@dataclass(frozen=True)
class Ocr:
    """`make` has put the models into `models`, and the pipeline's archive into `store`."""

    models: Path
    store: Path
    folder: Path
    """Of the pages and results, as NUMBER.png and NUMBER.json."""
    pages: tuple[bytes, ...]
    """Pictures of receipts, no two alike."""
    results: tuple[Any, ...]
    """What the loop answers to each."""


def prepare(goods: int = 8) -> Ocr:
    """Make what is not there yet. A receipt has 2 × `goods` + 3 texts. Raises RuntimeError where the models can't be
    had."""
    models, store = make()
    folder = WORK / "pages" / str(goods)
    if not (folder / f"{PAGES - 1}.json").is_file():
        print(f"drawing {PAGES} pages and reading them", flush=True)
        folder.mkdir(parents=True, exist_ok=True)
        command = [sys.executable, "-W", "ignore", "-m", "bench.serving.ocr_loop", str(models), str(folder)]
        subprocess.run([*command, "--draw", str(PAGES), "--goods", str(goods)], check=True, env=environment())
    pages = tuple((folder / f"{number}.png").read_bytes() for number in range(PAGES))
    results = tuple(json.loads((folder / f"{number}.json").read_bytes()) for number in range(PAGES))
    return Ocr(models, store, folder, pages, results)


def make() -> tuple[Path, Path]:
    """The folder of the models, det, cls and rec, and the store with the pipeline's archive. Raises RuntimeError."""
    store = _MADE / "demo" / "store"
    here = [f"BUILD={_MADE}", f"PY={sys.executable}", f"BIN={Path(sys.executable).parent}"]
    command = ["make", "--old-file=.venv/.installed-demo", *here, str(store / "ocr.pdar")]
    made = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env=_without_make())
    if made.returncode or not (store / "ocr.pdar").is_file():
        raise RuntimeError(f"the OCR example could not be made: {made.stdout}{made.stderr}")
    return _MADE / "ocr", store


def pack(made: Ocr, engine: str) -> Path:
    """A store with the same pipeline, whose models' settings name the engine."""
    folder = WORK / f"ocr-{engine}"
    folder.mkdir(exist_ok=True)
    archiver = [str(Path(sys.executable).parent / "pd-model-archiver"), "--version", "1.0", "--force"]
    for model in ("det", "cls", "rec"):
        settings = folder / f"{model}.yaml"
        settings.write_text(f"{(EXAMPLE / settings.name).read_text()}predictor: {{engine: {engine}}}\n")
        flags = ["--model-name", model, "--serialized-file", str(made.models / model / "inference.pdmodel")]
        flags += ["--config-file", str(settings), "--export-path", str(folder)]
        flags += ["--handler", str(EXAMPLE / "likeliest.py")] if model == "rec" else []
        subprocess.run([*archiver, *flags], check=True, stdout=subprocess.DEVNULL)
    for file in (EXAMPLE / "pipeline.yaml", EXAMPLE / "steps.py", made.models / "receipt.png"):
        shutil.copy(file, folder)
    flags = ["--model-name", "ocr", "--pipeline", str(folder / "pipeline.yaml")]
    flags += ["--extra-files", str(made.models / "characters.txt"), "--export-path", str(folder / "store")]
    subprocess.run([*archiver, *flags], check=True, stdout=subprocess.DEVNULL)
    return folder / "store"


def environment() -> dict[str, str]:
    """Of processes that run the example's code."""
    path = os.pathsep.join([str(ROOT), str(EXAMPLE)])
    return {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}


def _without_make() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if not name.startswith(("MAKE", "MFLAGS"))}
