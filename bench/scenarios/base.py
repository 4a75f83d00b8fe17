"""What a scenario is."""

from __future__ import annotations

from typing import ClassVar, Protocol

from bench.results import ScenarioResults
from bench.run import Run
from bench.tables import Target


class Scenario(Protocol):
    """One module, one class."""

    name: ClassVar[str]

    def measure(self, run: Run) -> None:
        """One round."""

    def report(self, results: ScenarioResults) -> str:
        """Markdown: tables of medians."""

    def targets(self, results: ScenarioResults) -> list[Target]:
        """What is to be reached, and what is."""
