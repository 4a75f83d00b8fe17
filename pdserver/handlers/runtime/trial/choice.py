"""Chooses the engine that runs a model: the fastest one whose answers are right."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import msgspec

from pdserver.handlers.runtime.engines.base import Engine
from pdserver.handlers.runtime.rows import Arrays
from pdserver.handlers.runtime.trial import apart
from pdserver.handlers.runtime.trial.apart import Failed, Result
from pdserver.handlers.runtime.trial.comparison import Tolerance
from pdserver.handlers.runtime.trial.inputs import Inputs
from pdserver.handlers.runtime.trial.measuring import Budget, Clock, answers, examine, milliseconds
from pdserver.handlers.runtime.trial.memory import Memory
from pdserver.types import EngineFigures, EngineTrial

_log = logging.getLogger(__name__)
TRIAL_SECONDS = 1.5
"""For all engines together. One that takes longer to load has a little time on top, to be measured."""
_REFERENCE_SECONDS = 120.0
"""A reference that has not loaded the model and answered by then is none."""
_HANGS_SECONDS, _HANGS_TIMES = 10.0, 10.0
"""Another engine is out if it takes so long, and so many times as long as the reference, with all of it."""
_WORTH = 0.97
"""Another engine than the first is chosen only if it takes less than this share of its time: the rest is chance."""

Apart = Callable[[Callable[[], Result], float], Result]


@dataclass(frozen=True)
class Contender:
    """One engine that may run the model."""

    name: str
    load: Callable[[], Engine]
    """Raises what the engine raises for a model that it cannot load."""
    tolerance: Tolerance | None = Tolerance()  # noqa: RUF009 (frozen)
    """How far its answers may be from the reference's. None: however far."""


@dataclass(frozen=True)
class Choice:
    """Which contender runs the model, and why."""

    chosen: Contender
    outcome: EngineTrial | None
    """None: there was no trial."""
    remembered: bool = False


def choose(
    contenders: Sequence[Contender],
    inputs: Callable[[], Inputs],
    memory: Memory,
    about: Mapping[str, object],
    reference: Contender | None = None,
    run_apart: Apart = apart.run,
    clock: Clock = time.perf_counter,
) -> Choice:
    """The fastest of the contenders whose answers are those of the reference, which is the first one unless another is
    given. The reference is also what is left if no contender is right.

    `about` is what the outcome depends on, besides the contenders: the model, the machine, versions, settings, inputs.
    This process must not have loaded an engine yet: each contender is tried in a process forked from it.

    Never raises for what engines do; raises what `inputs` raises. If the reference itself fails, the first contender is
    chosen: loading it will tell why.
    """
    first = contenders[0]
    reference = reference or first
    if all(contender is reference for contender in contenders):
        return Choice(first, None)
    all_of_them = [reference, *(contender for contender in contenders if contender is not reference)]
    tolerances = [each.tolerance.relative if each.tolerance else None for each in all_of_them]
    names = [each.name for each in all_of_them]
    key = {**about, "engines": names, "tolerances": tolerances, "first": first.name}
    outcome = _recalled(memory, key, names)
    remembered = outcome is not None
    if outcome is None:
        with memory.turn():
            outcome = _recalled(memory, key, names)  # another worker's trial may have ended meanwhile
            remembered = outcome is not None
            if outcome is None:
                outcome = _Trial(contenders, reference, inputs(), run_apart, clock).outcome()
                if outcome is None:
                    return Choice(first, None)
                memory.keep(key, outcome)
    chosen = next(each for each in all_of_them if each.name == outcome.chosen)
    return Choice(chosen, outcome, remembered)


def _recalled(memory: Memory, key: Mapping[str, object], names: Sequence[str]) -> EngineTrial | None:
    """The outcome of a trial of these engines; None where the file is not as a trial has written it, too."""
    outcome = memory.recall(key)
    if outcome is None or outcome.chosen not in names or [each.engine for each in outcome.figures] != names:
        return None
    return outcome


class _Trial:
    """Of contenders that nobody has tried yet."""

    def __init__(
        self, contenders: Sequence[Contender], reference: Contender, inputs: Inputs, run_apart: Apart, clock: Clock
    ) -> None:
        self._first, self._reference = contenders[0], reference
        self._others = [contender for contender in contenders if contender is not reference]
        self._inputs = inputs
        self._apart, self._clock = run_apart, clock
        self._seconds = TRIAL_SECONDS / (1 + len(self._others))

    def outcome(self) -> EngineTrial | None:
        """None if the reference does not run."""
        reference = self._reference
        begun = time.monotonic()
        try:
            figures, right = self._right()
        except Failed as error:
            _log.warning(
                "no trial of engines, so that %s runs the model: %s fails: %s", self._first.name, reference.name, error
            )
            return None
        seconds = _HANGS_SECONDS + _HANGS_TIMES * (time.monotonic() - begun)
        timed = self._inputs.timed[: len(figures.milliseconds)]
        inputs = replace(self._inputs, timed=timed)
        tried = [self._examined(other, inputs, right, seconds) for other in self._others]
        able = [each for each in tried if not each.out]
        if self._first is reference:
            able.insert(0, figures)
        chosen = fastest(able) if able else reference.name
        for each in (figures, *tried):
            _tell(each, reference.name, is_chosen=each.engine == chosen)
        sizes = tuple(map(_rows, timed))
        return EngineTrial(chosen=chosen, figures=(figures, *tried), sizes=sizes, inputs=inputs.kind)

    def _right(self) -> tuple[EngineFigures, list[Arrays]]:
        """The reference's figures, and the right answers to what it had time for. Raises Failed."""
        result = self._apart(self._run_reference, _REFERENCE_SECONDS)
        figures, names = msgspec.json.decode(result.text, type=tuple[EngineFigures, list[list[str]]])
        outputs = [
            {name: result.arrays[f"{number}.{i}"] for i, name in enumerate(own)} for number, own in enumerate(names)
        ]
        return figures, outputs

    def _run_reference(self) -> Result:
        budget = Budget(self._seconds, self._clock)
        engine = self._reference.load()
        outputs: list[Arrays] = []
        times: list[float] = []
        row_seconds = 0.0
        timed = self._inputs.timed
        for given in timed:
            # A run to warm up and a measured one are the least.
            if 2 * row_seconds * _rows(given) > self._seconds:
                break
            begun = self._clock()
            outputs += answers(engine, [given])
            first = self._clock() - begun
            times.append(milliseconds(engine, given, budget.left() / (len(timed) - len(times)), self._clock))
            row_seconds = min(first, times[-1] / 1000) / _rows(given)  # one may have had to wait for a CPU
        outputs += answers(engine, self._inputs.compared)
        figures = EngineFigures(engine=self._reference.name, milliseconds=tuple(times), difference=0.0)
        arrays = {
            f"{number}.{i}": array for number, given in enumerate(outputs) for i, array in enumerate(given.values())
        }
        return Result(msgspec.json.encode([figures, list(map(list, outputs))]), arrays)

    def _examined(self, contender: Contender, inputs: Inputs, right: Sequence[Arrays], seconds: float) -> EngineFigures:
        def work() -> Result:
            budget = Budget(self._seconds, self._clock)
            found = examine(contender.name, contender.load(), inputs, right, contender.tolerance, budget)
            return Result(msgspec.json.encode(found), {})

        try:
            return msgspec.json.decode(self._apart(work, seconds).text, type=EngineFigures)
        except Failed as error:
            return EngineFigures(engine=contender.name, out=str(error))


def fastest(figures: Sequence[EngineFigures]) -> str:
    """The name of the engine with the shortest times by geometric mean.

    One that is slower than the first for any of the inputs is never it, and neither is one that gains too little.
    """
    first = figures[0]
    best, shortest = first.engine, _WORTH
    for each in figures[1:]:
        shares = [own / wanted for own, wanted in zip(each.milliseconds, first.milliseconds, strict=True)]
        mean = math.exp(sum(map(math.log, shares)) / len(shares))
        if max(shares) <= 1 and mean < shortest:
            best, shortest = each.engine, mean
    return best


def _tell(figures: EngineFigures, reference: str, *, is_chosen: bool) -> None:
    if figures.wrong:
        _log.warning("%s is not used: its answers are not those of %s: %s", figures.engine, reference, figures.out)
    elif figures.out:
        _log.info("%s is not used: %s", figures.engine, figures.out)
    else:
        times = ", ".join(f"{time:.3g} ms" for time in figures.milliseconds)
        _log.info("%s: %s for the trial's samples%s", figures.engine, times, "; chosen" if is_chosen else "")


def _rows(sample: Arrays) -> int:
    """The length of the first axis, at least 1."""
    return max((array.shape[0] for array in sample.values() if array.ndim), default=1) or 1
