"""Autoscaling: how many copies a cell has, as Kubernetes' horizontal autoscaler would decide, and what that costs.

Copies begin after a delay: a server has to fetch and load a model, or a machine has
to start. They are added by the mean time in queues or by how busy workers are.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from bench.simulation.cluster import Answers, Cell, LeastConnections, Node, Times

_PERIOD_SECONDS = 15.0
"""How often the autoscaler looks."""
_TOLERANCE = 0.1
_MOST_GROWTH, _LEAST_ADDED = 2.0, 4
"""In one period: to twice as many, or by four."""
_STABLE_SECONDS = 300.0
"""It takes away only what it did not want in this time."""


@dataclass(frozen=True)
class Rule:
    """What is aimed at. Of several aims, the one counts that asks for the most copies."""

    queue_seconds: float = 0.0
    """The mean wait; 0: whatever it is."""
    busy: float = 0.0
    """The part of the time in which workers are busy; 0: whatever it is."""


@dataclass(frozen=True)
class Scaled:
    answers: Answers
    mean_copies: float
    most_copies: int


class Autoscaler:
    """Changes how many nodes a cell has, from `least` to `most`."""

    def __init__(self, cell: Cell, rule: Rule, start_seconds: float, least: int, most: int) -> None:
        self._cell = cell
        self._rule = rule
        self._start_seconds = start_seconds
        self._least, self._most = least, most
        self._wanted: list[tuple[float, int]] = []
        self._starting = 0
        self._numbers = len(cell.nodes)
        self._copy_seconds = 0.0
        self._since = 0.0
        self.most_copies = len(cell.nodes)
        self._again(None)

    def _again(self, _: Any) -> None:
        self._count()
        if self._cell.env.now:
            self._change()
        self._cell.env.timeout(_PERIOD_SECONDS).callbacks.append(self._again)

    def _change(self) -> None:
        copies = len(self._cell.nodes)
        wanted = self._stable(copies)
        if wanted > copies + self._starting:
            for _ in range(wanted - copies - self._starting):
                self._starting += 1
                self._cell.env.timeout(self._start_seconds).callbacks.append(self._started)
        elif wanted < copies:
            self._set(list(self._cell.nodes[:wanted]))

    def _stable(self, copies: int) -> int:
        """The copies wanted now; fewer than there are only if none of the last wishes was higher."""
        now, ratio = self._cell.env.now, self._ratio()
        wanted = copies if abs(ratio - 1) <= _TOLERANCE else math.ceil(copies * ratio)
        most = max(math.floor(copies * _MOST_GROWTH), copies + _LEAST_ADDED)
        wanted = max(self._least, min(wanted, most, self._most))
        self._wanted = [(at, count) for at, count in self._wanted if at > now - _STABLE_SECONDS] + [(now, wanted)]
        return max(count for _, count in self._wanted) if wanted < copies else wanted

    def _ratio(self) -> float:
        """What is measured, to what the rule wants."""
        cell, ratios = self._cell, [0.0]
        waits, cell.recent_waits = cell.recent_waits, []
        work, cell.recent_work = cell.recent_work, 0.0
        if self._rule.queue_seconds and waits:
            ratios.append(sum(waits) / len(waits) / self._rule.queue_seconds)
        if self._rule.busy:
            ratios.append(work / (len(cell.nodes) * cell.workers * _PERIOD_SECONDS) / self._rule.busy)
        return max(ratios)

    def _started(self, _: Any) -> None:
        self._starting -= 1
        self._numbers += 1
        self._set([*self._cell.nodes, Node(self._numbers, self._cell.workers)])

    def _set(self, nodes: list[Node]) -> None:
        self._count()
        self._cell.nodes = nodes
        self.most_copies = max(self.most_copies, len(nodes))

    def _count(self) -> None:
        now = self._cell.env.now
        self._copy_seconds += (now - self._since) * len(self._cell.nodes)
        self._since = now

    def mean_copies(self) -> float:
        self._count()
        return self._copy_seconds / self._since


def run(
    times: Times,
    rate: Callable[[float], float],
    most_rate: float,
    seconds: float,
    rule: Rule,
    start_seconds: float,
    *,
    workers: int,
    first: int,
    most: int,
    queue_size: float = math.inf,
    seed: int = 1,
) -> Scaled:
    """A cell behind one entrance with least connections, which begins with `first` copies and keeps at least 2."""
    cell = Cell(first, workers, times, LeastConnections, queue_size=queue_size, seed=seed)
    scaler = Autoscaler(cell, rule, start_seconds, 2, most)
    answers = cell.run(rate, most_rate, 0.0, seconds)
    return Scaled(answers, scaler.mean_copies(), scaler.most_copies)


def day(low: float, high: float, seconds: float) -> Callable[[float], float]:
    """A day's load: a sine from `low` to `high` and back."""
    return lambda now: low + (high - low) * (1 - math.cos(2 * math.pi * now / seconds)) / 2


def burst(usual: float, high: float, begin: float, end: float) -> Callable[[float], float]:
    return lambda now: high if begin <= now < end else usual
