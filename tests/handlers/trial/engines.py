"""Engines for tests of trials. A run of theirs takes as long as is said, by a clock that only they move."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from pdserver.handlers.runtime.engines.base import Engine
from pdserver.handlers.runtime.rows import Arrays
from pdserver.handlers.runtime.trial.choice import Contender
from pdserver.handlers.runtime.trial.comparison import Tolerance

WEIGHT = np.linspace(-1, 1, 12, dtype=np.float32).reshape(4, 3)


@dataclass
class Clock:
    """Goes when an engine runs, and not otherwise."""

    seconds: float = 0.0

    def __call__(self) -> float:
        return self.seconds


@dataclass
class Double:
    """An engine: y = x · WEIGHT + off."""

    clock: Clock
    milliseconds: float
    """Of a run with one row."""
    more: float
    """For each further row, as a share of that."""
    off: float

    def run(self, inputs: Arrays) -> Arrays:
        rows = len(inputs["x"])
        self.clock.seconds += self.milliseconds / 1000 * (1 + self.more * (rows - 1))
        return {"y": inputs["x"] @ WEIGHT + np.float32(self.off), "count": np.arange(rows)}

    def close(self) -> None:
        pass


def contender(
    clock: Clock,
    name: str,
    milliseconds: float,
    *,
    more: float = 1.0,
    off: float = 0.0,
    tolerance: Tolerance | None = Tolerance(),  # noqa: B008 (frozen)
) -> Contender:
    def load() -> Engine:
        return Double(clock, milliseconds, more, off)

    return Contender(name, load, tolerance)


def samples(*sizes: int) -> list[Arrays]:
    return [{"x": np.random.default_rng(rows).random((rows, 4), np.float32)} for rows in sizes]
