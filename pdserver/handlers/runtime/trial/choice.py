"""Chooses the engine that runs a model: the fastest one whose answers are right."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import msgspec

from pdserver.handlers.runtime.engines.base import Engine
from pdserver.handlers.runtime.rows import Arrays
from pdserver.handlers.runtime.trial import apart
from pdserver.handlers.runtime.trial.apart import Failed, Result
from pdserver.handlers.runtime.trial.comparison import Tolerance
from pdserver.handlers.runtime.trial.measuring import Clock, answers, examine, milliseconds
from pdserver.handlers.runtime.trial.memory import Memory
from pdserver.types import EngineFigures, EngineTrial

_log = logging.getLogger(__name__)
TRIAL_SECONDS = 1.5
"""For all runs that are measured. Loading comes on top."""
_LOADS_SECONDS = 60.0
"""An engine that has not loaded the model and answered by then is out."""
_WORTH = 0.97
"""Another engine is chosen only if it takes less than this share of the reference's time: the rest is chance."""

Apart = Callable[[Callable[[], Result], float], Result]


@dataclass(frozen=True)
class Contender:
    """One engine that may run the model."""

    name: str
    load: Callable[[], Engine]
    """Raises what the engine raises for a model that it cannot load."""


@dataclass(frozen=True)
class Choice:
    """Which contender runs the model, and why."""

    chosen: Contender
    outcome: EngineTrial | None
    """None: there was no trial."""
    remembered: bool = False


def choose(
    contenders: Sequence[Contender],
    samples: Sequence[Arrays],
    tolerance: Tolerance,
    memory: Memory,
    about: Mapping[str, object],
    run_apart: Apart = apart.run,
    clock: Clock = time.perf_counter,
) -> Choice:
    """The fastest of the contenders whose answers are those of the first one, the reference.

    `samples` are inputs for single runs, the smallest first. `about` is what the outcome depends on, besides the
    samples' shapes and the tolerance: the model, the machine, versions, settings. This process must not have loaded an
    engine yet: each contender is tried in a process forked from it.

    Never raises for what engines do. If the reference itself fails, it is chosen: loading it will tell why.
    """
    first = contenders[0]
    if len(contenders) == 1 or not samples:
        return Choice(first, None)
    shapes = [{name: list(array.shape) for name, array in sample.items()} for sample in samples]
    names = [contender.name for contender in contenders]
    key = {**about, "engines": names, "samples": shapes, "tolerance": tolerance.relative}
    with memory.turn():
        outcome = memory.recall(key)
        remembered = outcome is not None
        if outcome is None:
            outcome = _Trial(contenders, samples, tolerance, run_apart, clock).outcome()
            if outcome is None:
                return Choice(first, None)
            memory.keep(key, outcome)
    chosen = next((each for each in contenders if each.name == outcome.chosen), first)
    return Choice(chosen, outcome, remembered)


class _Trial:
    """Of contenders that nobody has tried yet."""

    def __init__(
        self,
        contenders: Sequence[Contender],
        samples: Sequence[Arrays],
        tolerance: Tolerance,
        run_apart: Apart,
        clock: Clock,
    ) -> None:
        self._contenders, self._samples, self._tolerance = contenders, samples, tolerance
        self._apart, self._clock = run_apart, clock
        self._seconds = TRIAL_SECONDS / len(contenders)

    def outcome(self) -> EngineTrial | None:
        """None if the reference does not run."""
        reference, *others = self._contenders
        try:
            first, right = self._reference(reference)
        except Failed as error:
            _log.warning("no trial of engines, so that %s runs the model: %s", reference.name, error)
            return None
        samples = self._samples[: len(right)]
        figures = [first, *(self._examined(other, samples, right) for other in others)]
        chosen = fastest(figures)
        for each in figures:
            _tell(each, is_chosen=each.engine == chosen)
        return EngineTrial(chosen=chosen, figures=tuple(figures), sizes=tuple(map(_rows, samples)))

    def _reference(self, contender: Contender) -> tuple[EngineFigures, list[Arrays]]:
        """Its figures, and the right answers to as many of the samples as there is time for. Raises Failed."""
        result = self._apart(partial(self._run_reference, contender), _LOADS_SECONDS)
        figures, names = msgspec.json.decode(result.text, type=tuple[EngineFigures, list[list[str]]])
        outputs = [
            {name: result.arrays[f"{sample}.{i}"] for i, name in enumerate(own)} for sample, own in enumerate(names)
        ]
        return figures, outputs

    def _run_reference(self, contender: Contender) -> Result:
        engine = contender.load()
        outputs: list[Arrays] = []
        times: list[float] = []
        left = self._seconds
        for sample in self._samples:
            # A run to warm up and a measured one are the least.
            if times and 2 * times[-1] / 1000 * _rows(sample) / _rows(self._samples[len(times) - 1]) > left:
                break
            outputs += answers(engine, [sample])
            begun = self._clock()
            times.append(milliseconds(engine, sample, left / (len(self._samples) - len(times)), self._clock))
            left -= self._clock() - begun
        figures = EngineFigures(engine=contender.name, milliseconds=tuple(times), difference=0.0)
        arrays = {
            f"{number}.{i}": array for number, given in enumerate(outputs) for i, array in enumerate(given.values())
        }
        return Result(msgspec.json.encode([figures, list(map(list, outputs))]), arrays)

    def _examined(self, contender: Contender, samples: Sequence[Arrays], right: Sequence[Arrays]) -> EngineFigures:
        def work() -> Result:
            found = examine(
                contender.name, contender.load(), samples, right, self._tolerance, self._seconds, self._clock
            )
            return Result(msgspec.json.encode(found), {})

        try:
            return msgspec.json.decode(self._apart(work, _LOADS_SECONDS).text, type=EngineFigures)
        except Failed as error:
            return EngineFigures(engine=contender.name, out=str(error))


def fastest(figures: Sequence[EngineFigures]) -> str:
    """The name of the engine with the shortest times by geometric mean. The first is the reference.

    One that is slower than the reference for any of the samples is never it, and neither is one that gains too little.
    """
    reference = figures[0]
    best, shortest = reference.engine, _WORTH
    for each in figures[1:]:
        if each.out:
            continue
        shares = [own / wanted for own, wanted in zip(each.milliseconds, reference.milliseconds, strict=True)]
        mean = math.exp(sum(map(math.log, shares)) / len(shares))
        if max(shares) <= 1 and mean < shortest:
            best, shortest = each.engine, mean
    return best


def _tell(figures: EngineFigures, *, is_chosen: bool) -> None:
    if figures.wrong:
        _log.warning("%s is not used: its answers are not the reference's: %s", figures.engine, figures.out)
    elif figures.out:
        _log.info("%s is not used: %s", figures.engine, figures.out)
    else:
        times = ", ".join(f"{time:.3g} ms" for time in figures.milliseconds)
        _log.info("%s: %s for the trial's samples%s", figures.engine, times, "; chosen" if is_chosen else "")


def _rows(sample: Arrays) -> int:
    """The length of the first axis, at least 1."""
    return max((array.shape[0] for array in sample.values() if array.ndim), default=1) or 1
