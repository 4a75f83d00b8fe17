"""A model in a bare loop: one process, one thread, our Predictor, and nothing else.

The child loads the model and then runs as many rows for as long as it is told, so that the engines' children can have
their turns.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from bench.engine_models import inputs
from bench.paths import ROOT
from bench.processes import clean_environment
from pdarchiver import manifest, modelconfig

_LEAST_RUNS = 3


class EngineLoop:
    """The child of one model and one engine, or of `auto`. `with` waits until it is ready, and ends it."""

    def __init__(self, model: Path, engine: str, sizes: tuple[int, ...], folder: Path) -> None:
        """`model` has the files of an unpacked archive; `folder` is for the log and the answers."""
        self._log, self.answers = folder / f"{engine}.log", folder / f"{engine}.npz"
        command = [sys.executable, "-W", "ignore", "-m", "bench.engine_loop", str(model), engine, str(self.answers)]
        command += [json.dumps(sizes)]
        with self._log.open("wb") as log:
            self._child = subprocess.Popen(
                command, cwd=ROOT, env=clean_environment() | {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"},
                text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log,
            )  # fmt: skip
        self.engine = engine
        """What runs the model: of `auto`, the one that it chose."""

    def __enter__(self) -> EngineLoop:
        try:
            self.engine = self._said()
        except BaseException:
            self._end()
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        self._end()

    def run(self, rows: int, seconds: float) -> list[float]:
        """The seconds of each run of so many rows, for about so long. Raises RuntimeError if the child dies."""
        assert self._child.stdin
        self._child.stdin.write(json.dumps([rows, seconds]) + "\n")
        self._child.stdin.flush()
        times: list[float] = self._said()
        return times

    def _said(self) -> Any:
        assert self._child.stdout
        if not (line := self._child.stdout.readline()):
            log = self._log.read_text(errors="replace").strip()
            raise RuntimeError(log.splitlines()[-1] if log else "its process has ended")
        return json.loads(line)

    def _end(self) -> None:
        self._child.kill()
        self._child.communicate()


def main(folder: Path, engine: Any, answers: Path, sizes: list[int]) -> None:
    from pdserver.handlers.runtime.predictor import Predictor

    said = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # engines may print
    predictor = Predictor(_described(folder, engine, sizes[-1]))
    given = {size: inputs(folder, size) for size in sizes}
    for size in sizes:
        for _ in range(_LEAST_RUNS):
            found = predictor.run(given[size])
    np.savez(answers, **found)  # type: ignore[arg-type]  # no output is called allow_pickle
    print(json.dumps(predictor.engine), file=said, flush=True)
    for line in sys.stdin:
        size, seconds = json.loads(line)
        times: list[float] = []
        begun = before = time.perf_counter()
        while before - begun < seconds or len(times) < _LEAST_RUNS:
            predictor.run(given[size])
            times.append((now := time.perf_counter()) - before)
            before = now
        print(json.dumps(times), file=said, flush=True)


def _described(folder: Path, engine: Any, rows: int) -> Any:
    """The model as a worker of a server describes it that has never seen it."""
    from pdserver.handlers.runtime.described import Described
    from pdserver.handlers.runtime.engines.candidates import ModelFiles
    from pdserver.handlers.runtime.model import converted
    from pdserver.handlers.runtime.predictor_settings import PredictorSettings
    from pdserver.handlers.runtime.trial.memory import Memory
    from pdserver.handlers.runtime.trial.of_model import Conditions

    described = manifest.parse((folder / manifest.MANIFEST_PATH).read_bytes())
    assert described.signature
    assert described.serialized_file
    assert described.config_file
    params = folder / described.params_file if described.params_file else None
    made = converted(folder, described, described.signature)
    files = ModelFiles(folder / described.serialized_file, params, described.signature, made)
    config = modelconfig.read(folder / described.config_file)
    conditions = Conditions(Memory(None), rows, described.files, folder, config)
    return Described(files, PredictorSettings(engine=engine), None, conditions)


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], Path(sys.argv[3]), json.loads(sys.argv[4]))
