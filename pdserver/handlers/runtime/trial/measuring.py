"""What a trial finds out of one engine: whether its answers are right, and how long they take."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Sequence

from pdserver.handlers.runtime.engines.base import Engine
from pdserver.handlers.runtime.rows import Arrays
from pdserver.handlers.runtime.trial.comparison import Tolerance, compare
from pdserver.handlers.runtime.trial.inputs import Inputs
from pdserver.types import EngineFigures

Clock = Callable[[], float]
_AT_MOST_RUNS = 50
_LEAST_SHARE = 0.2


class Budget:
    """The time that an engine has for its trial, from now on: loading, first runs and those that are measured."""

    def __init__(self, seconds: float, clock: Clock) -> None:
        self.clock = clock
        self._seconds, self._end = seconds, clock() + seconds

    def left(self) -> float:
        """Seconds for runs that are measured: what is left, but at least a fifth, however long the rest has taken."""
        return max(self._end - self.clock(), self._seconds * _LEAST_SHARE)


def answers(engine: Engine, samples: Sequence[Arrays]) -> list[Arrays]:
    """The outputs for each sample. Raises what the engine raises."""
    return [engine.run(sample) for sample in samples]


def milliseconds(engine: Engine, sample: Arrays, seconds: float, clock: Clock) -> float:
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
    inputs: Inputs,
    right: Sequence[Arrays],
    tolerance: Tolerance | None,
    budget: Budget,
) -> EngineFigures:
    """The figures of a loaded engine.

    `right` has the outputs for each of the inputs, those that are timed first. Without a tolerance, all answers are
    good. Raises what the engine raises.
    """
    given = answers(engine, [*inputs.timed, *inputs.compared])
    found = [compare(*both, tolerance or Tolerance(math.inf)) for both in zip(right, given, strict=True)]
    largest = max((difference.relative for difference in found), default=0.0)
    problem = next((difference.problem for difference in found if difference.problem), "")
    if problem and tolerance is not None:
        return EngineFigures(engine=name, out=problem, wrong=True, difference=_told(largest))
    seconds = budget.left() / len(inputs.timed)
    times = tuple(milliseconds(engine, each, seconds, budget.clock) for each in inputs.timed)
    return EngineFigures(engine=name, milliseconds=times, difference=_told(largest))


def _told(difference: float) -> float | None:
    """JSON knows no infinity."""
    return difference if difference < float("inf") else None
