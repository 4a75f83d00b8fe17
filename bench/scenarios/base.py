"""The interface of a scenario."""

from __future__ import annotations

from typing import ClassVar, Protocol

from bench.results import ScenarioResults
from bench.run import Run
from bench.tables import Target


class Scenario(Protocol):
    """A scenario. Each is one class in one module."""

    name: ClassVar[str]

    def measure(self, run: Run) -> None:
        """Measure one round."""

    def report(self, results: ScenarioResults) -> str:
        """Markdown: tables of medians."""

    def targets(self, results: ScenarioResults) -> list[Target]:
        """The targets, and what was reached."""
