"""What a trial finds out of one engine: whether its answers are right, and how long they take."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence

import msgspec

from pdserver.handlers.runtime.engines.base import Engine
from pdserver.handlers.runtime.rows import Arrays
from pdserver.handlers.runtime.trial.comparison import Tolerance, compare

Clock = Callable[[], float]
_AT_MOST_RUNS = 50


class Figures(msgspec.Struct, frozen=True, kw_only=True):
    """Of one engine."""

    engine: str
    """Its name, with the precision if that is not the model's own."""
    milliseconds: tuple[float, ...] = ()
    """The median of a run, for each sample; none if the engine is out."""
    difference: float | None = None
    """The largest one from the reference, as a share of the largest number. None: it was not compared."""
    out: str = ""
    """Why it can't be chosen. "" if it can."""
    wrong: bool = False
    """Whether it is out because its answers are not the reference's."""


def answers(engine: Engine, samples: Sequence[Arrays]) -> list[Arrays]:
    """The outputs for each sample. Raises what the engine raises."""
    return [engine.run(sample) for sample in samples]


def milliseconds(engine: Engine, sample: Arrays, seconds: float, clock: Clock = time.perf_counter) -> float:
    """The median time of a run, of as many as fit into `seconds`, at least one. Raises what the engine raises."""
    times: list[float] = []
    begun = before = clock()
    while not times or (before - begun < seconds and len(times) < _AT_MOST_RUNS):
        engine.run(sample)
        now = clock()
        times.append(now - before)
        before = now
    return statistics.median(times) * 1000


def examine(
    name: str,
    engine: Engine,
    samples: Sequence[Arrays],
    reference: Sequence[Arrays],
    tolerance: Tolerance,
    seconds: float,
    clock: Clock = time.perf_counter,
) -> Figures:
    """The figures of a loaded engine. `seconds` are for all samples together.

    `reference` has the right outputs for each sample. Raises what the engine raises.
    """
    found = [compare(*both, tolerance) for both in zip(reference, answers(engine, samples), strict=True)]
    largest = max((difference.relative for difference in found), default=0.0)
    if problem := next((difference.problem for difference in found if difference.problem), ""):
        return Figures(engine=name, out=problem, wrong=True, difference=_told(largest))
    times = tuple(milliseconds(engine, sample, seconds / len(samples), clock) for sample in samples)
    return Figures(engine=name, milliseconds=times, difference=_told(largest))


def _told(difference: float) -> float | None:
    """JSON knows no infinity."""
    return difference if difference < float("inf") else None
