"""The trial of one model's engines, with inputs made from its signature."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import msgspec

from pdserver.handlers.runtime.engines.base import Candidate, Engine
from pdserver.handlers.runtime.predictor_settings import PredictorSettings
from pdserver.handlers.runtime.trial import apart, choice, memory, samples
from pdserver.handlers.runtime.trial.apart import Failed, Result
from pdserver.handlers.runtime.trial.choice import Choice, Contender
from pdserver.handlers.runtime.trial.comparison import Tolerance
from pdserver.handlers.runtime.trial.memory import Memory


@dataclass(frozen=True)
class Conditions:
    """Under which a model's engines are tried."""

    memory: Memory
    rows: int
    """The largest batch that the server gives the model."""
    checksums: Mapping[str, str]
    """Of its archive's files; empty: the files themselves tell it from others."""


def choose(
    candidates: Sequence[Candidate],
    load: Callable[[Candidate], Engine],
    settings: PredictorSettings,
    ids_below: Mapping[str, int],
    conditions: Conditions,
    run_apart: choice.Apart | None = None,
) -> Choice:
    """The candidate to run the model, by its text. The first is the reference.

    `run_apart`: for a process that may have threads, but no engine. Raises OSError for missing files.
    """
    first = candidates[0]
    about = {
        "model": memory.of_files(first.model_file, first.params_file, conditions.checksums),
        "settings": msgspec.to_builtins(settings),
        **memory.circumstances(),
    }
    return choice.choose(
        [Contender(str(candidate), partial(load, candidate)) for candidate in candidates],
        samples.made(first.signature.inputs, sorted({1, conditions.rows}), ids_below),
        Tolerance(settings.engine_tolerance),
        conditions.memory,
        about,
        run_apart or _run_apart,
    )


def _run_apart(work: Callable[[], Result], seconds: float) -> Result:
    # A process forked from one with threads hangs in Paddle's first run.
    if len(list(Path(f"/proc/{os.getpid()}/task").iterdir())) > 1:
        raise Failed("this process runs another model already")
    return apart.run(work, seconds)
