"""Writes the measurements as tables and plots to docs/performance.md, or to the page with markers for them.

The text around them stays.
"""

from __future__ import annotations

import re
from pathlib import Path

from bench import svg, tables
from bench.results import Results, ScenarioResults, read, write
from bench.scenarios.base import Scenario

PAGE = "performance.md"
DATA = "performance.json"


def update(folder: Path, scenario: Scenario, results: ScenarioResults) -> None:
    """Write this scenario's part of the page, its plot, and its data. Other scenarios' parts stay."""
    folder.mkdir(parents=True, exist_ok=True)
    everything: Results = read(folder / DATA)
    everything[scenario.name] = results
    write(folder / DATA, everything)
    text = f"{_described(results)}\n{scenario.report(results)}"
    if plot := _plot(scenario.name, results):
        file = f"performance-{scenario.name}.svg"
        (folder / file).write_text(plot)
        text += f"\n![{scenario.name}: requests per second]({file})\n"
    if targets := scenario.targets(results):
        text += f"\n{tables.targets_table(targets)}"
    if failures := tables.failures(results):
        text += f"\n{failures}"
    for page in _pages(folder, scenario.name):
        page.write_text(insert(page.read_text() if page.is_file() else "# Performance\n", scenario.name, text))


def _pages(folder: Path, name: str) -> list[Path]:
    """Those with markers for it, or else the page for all."""
    found = [page for page in sorted(folder.glob("*.md")) if _begin(name) in page.read_text()]
    return found or [folder / PAGE]


def _begin(name: str) -> str:
    return f"<!-- bench:{name} begin -->"


def insert(page: str, name: str, text: str) -> str:
    """The page with `text` between the markers of `name`. If it has none, they are added at its end."""
    begin, end = _begin(name), f"<!-- bench:{name} end -->"
    part = f"{begin}\n{text}{end}"
    pattern = re.compile(f"{re.escape(begin)}.*?{re.escape(end)}", re.DOTALL)
    if not pattern.search(page):
        return f"{page.rstrip()}\n\n## {name}\n\n{part}\n"
    return pattern.sub(lambda _: part, page)


def _described(results: ScenarioResults) -> str:
    machine = results.machine
    versions = ", ".join(f"{name} {version}" for name, version in results.versions.items())
    how = f"medians of {results.rounds} rounds, {results.seconds:g} s for each cell" if results.seconds else "simulated"
    return (
        f"{results.date}, `{results.command}`: {how}. "
        f"{machine.cores} cores of {machine.cpu}, {machine.memory_gib:g} GiB, Linux {machine.kernel}, "
        f"Python {machine.python}; {versions}.\n"
    )


def _plot(name: str, results: ScenarioResults) -> str:
    groups = {
        case: [
            (server, best[0])
            for server in results.servers()
            if (best := results.best("requests_per_second", case, server)) is not None
        ]
        for case in results.cases()
        if case.startswith("c=")
    }
    return (
        svg.bars(f"{name}: requests per second, each server in its best configuration", "/s", groups) if groups else ""
    )
