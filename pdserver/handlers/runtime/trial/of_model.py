"""The trial of one model's engines."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import msgspec

from pdserver.errors import ConfigError
from pdserver.handlers.runtime.engines.base import Candidate, Engine
from pdserver.handlers.runtime.engines.candidates import Candidates
from pdserver.handlers.runtime.predictor_settings import PredictorSettings
from pdserver.handlers.runtime.trial import apart, choice, inputs, memory
from pdserver.handlers.runtime.trial.apart import Failed, Result
from pdserver.handlers.runtime.trial.choice import Choice, Contender
from pdserver.handlers.runtime.trial.comparison import Tolerance
from pdserver.handlers.runtime.trial.inputs import Inputs
from pdserver.handlers.runtime.trial.memory import Memory

_NO_SAMPLES = (
    "predictor.precision: auto: the archive has no samples, by which answers in a lower precision are compared: name "
    "some in the model's config file, such as samples: [{x: x.npy}], or name a precision"
)
_NO_TRIAL = "predictor.precision: auto: only a trial can choose one: leave engine_trial out, or name a precision"


@dataclass(frozen=True)
class Conditions:
    """Under which a model's engines are tried."""

    memory: Memory
    rows: int
    """The largest batch that the server gives the model."""
    checksums: Mapping[str, str]
    """Of its archive's files; empty: the files themselves tell it from others."""
    directory: Path
    """The archive's."""
    config: Mapping[str, Any]
    """The model's own YAML."""
    part: str = ""
    """Which of the archive's models it is; empty: the only one."""
    has_threads: bool = False
    """Whether this process has threads by itself, although it has loaded no engine."""


def choose(
    found: Candidates,
    load: Callable[[Candidate], Engine],
    settings: PredictorSettings,
    ids_below: Mapping[str, int],
    conditions: Conditions,
    check: Callable[[], None],
) -> Choice | None:
    """The candidate to run the model, by its text. None where there is nothing to try.

    `check` is called before a trial, and stops it by what it raises. Raises that, OSError for missing files, and
    ConfigError for samples that are wrong, and for a precision to be chosen without samples.
    """
    signature = found.reference.signature
    source = inputs.source(
        conditions.config, conditions.directory, signature, settings.reshape, conditions.rows, ids_below,
        conditions.checksums,
    )  # fmt: skip
    if settings.precision == "auto" and (source.kind != "samples" or not settings.engine_trial):
        raise ConfigError(_NO_SAMPLES if source.kind != "samples" else _NO_TRIAL)
    is_open = settings.precision == "auto" or (
        not found.named and (settings.precision == "float32" or source.kind == "samples")
    )
    if not settings.engine_trial or not is_open or set(found.wanted) == {found.reference}:
        return None
    reference = Contender(str(found.reference), partial(load, found.reference))
    contenders = [
        reference if candidate == found.reference else _contender(candidate, load, settings, named=found.named)
        for candidate in found.wanted
    ]
    about = {
        "model": memory.of_files(found.reference.model_file, found.reference.params_file, conditions.checksums),
        "part": conditions.part,
        "settings": msgspec.to_builtins(settings),
        "inputs": [source.kind, source.about()],
        **memory.circumstances(),
    }

    def given() -> Inputs:
        check()
        return source.read()

    run_apart = apart.run if conditions.has_threads else _run_apart
    return choice.choose(contenders, given, conditions.memory, about, reference, run_apart=run_apart)


def _contender(
    candidate: Candidate, load: Callable[[Candidate], Engine], settings: PredictorSettings, *, named: bool
) -> Contender:
    tolerance: Tolerance | None = Tolerance(settings.precision_tolerance)
    if candidate.precision == "float32":
        # An engine that is named runs the model however far its answers are.
        tolerance = None if named else Tolerance(settings.engine_tolerance)
    return Contender(str(candidate), partial(load, candidate), tolerance)


def _run_apart(work: Callable[[], Result], seconds: float) -> Result:
    # A process forked from one with threads hangs in Paddle's first run.
    if len(list(Path(f"/proc/{os.getpid()}/task").iterdir())) > 1:
        raise Failed("this process runs another model already")
    return apart.run(work, seconds)
