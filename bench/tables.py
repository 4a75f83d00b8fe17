"""Medians as Markdown tables."""

from __future__ import annotations

import operator
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from bench.results import ScenarioResults
from bench.ways import REST

OURS = "pdserver"
FLOOR = "floor"
"""The least that a server of our design does: no peer, but shown beside them."""
_NOT_MEASURED = "–"


@dataclass(frozen=True)
class Target:
    """A target. `reached` is None if it was not measured."""

    case: str
    text: str
    reached: float | None
    relation: Literal["≥", "≤"]
    limit: float
    unit: str = "×"

    @property
    def is_met(self) -> bool:
        compare = operator.ge if self.relation == "≥" else operator.le
        return self.reached is not None and compare(self.reached, self.limit)


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table with the first column aligned left and the others right."""
    lines = [head, ["---", *["---:"] * (len(head) - 1)], *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def targets_table(targets: Sequence[Target]) -> str:
    rows = [
        [
            f"{target.case}: {target.text}",
            f"{target.relation} {target.limit:g} {target.unit}",
            "not measured" if target.reached is None else f"{number(target.reached)} {target.unit}",
            "–" if target.reached is None else "yes" if target.is_met else "**no**",
        ]
        for target in targets
    ]
    return table(["Target", "Wanted", "Measured", "Met"], rows)


def closed_loop_table(results: ScenarioResults, all_of: str = "") -> str:
    """Requests per second and p50 of each server in its best configuration for each load; all rows for `all_of`."""
    cases = [case for case in results.cases() if case.startswith("c=")]
    rows = []
    for server in results.servers():
        if server == all_of:
            for configuration in results.configurations(server):
                cells = [_cell(results, case, server, configuration) for case in cases]
                if {*cells} != {_NOT_MEASURED}:  # else it is one of other cases than these
                    rows.append([f"{server}, {configuration}", *cells])
            continue
        bests = [results.best("requests_per_second", case, server) for case in cases]
        if any(bests):
            cells = [
                f"{_cell(results, case, server, best[1])}<br>{best[1]}" if best else "–"
                for case, best in zip(cases, bests, strict=True)
            ]
            rows.append([server, *cells])
    return table(["Server", *cases], rows)


def _cell(results: ScenarioResults, case: str, server: str, configuration: str) -> str:
    rate, p50 = (results.median(key, case, server, configuration) for key in ("requests_per_second", "p50_ms"))
    return _NOT_MEASURED if rate is None or p50 is None else f"{number(rate)}/s, {number(p50)} ms"


def values_table(
    results: ScenarioResults, columns: Mapping[str, str], first: str, by: Literal["server", "case"] = "server"
) -> str:
    """One row for each server or case; the columns are values by key, each with its title."""
    names = results.servers() if by == "server" else results.cases()
    rows = []
    for name in names:
        cells = [cell for cell in results.measurements if name in (cell.server, cell.case) and not cell.failure]
        values = {key: [cell.values[key] for cell in cells if key in cell.values] for key in columns}
        rows.append([name, *(number(statistics.median(found)) if found else "–" for found in values.values())])
    return table([first, *columns.values()], rows)


def failures(results: ScenarioResults) -> str:
    """The cells that did not count, by server. Empty if all counted."""
    lines = {
        f"- {cell.server} ({cell.configuration}), {cell.case}: {cell.failure.splitlines()[0]}\n"
        for cell in results.failures()
    }
    return "".join(["Not counted:\n\n", *sorted(lines)]) if lines else ""


def ratio(ours: float | None, other: float | None) -> float | None:
    return ours / other if ours and other else None


def to_rest(
    results: ScenarioResults, ways: Sequence[str], configuration: str, cases: Sequence[str], limit: float
) -> list[Target]:
    """Targets: our requests per second by each of these ways, to those by TorchServe's REST."""
    found = []
    for way in ways:
        for case in cases:
            ours, rest = (
                results.median("requests_per_second", case, OURS, f"{name}, {configuration}") for name in (way, REST)
            )
            found.append(Target(case, f"requests/s by {way}, to {REST}", ratio(ours, rest), "≥", limit))
    return found


def best_peer(results: ScenarioResults, key: str, case: str) -> float | None:
    """The highest value of the other servers, each in its best configuration."""
    bests = [results.best(key, case, server) for server in results.servers() if server not in (OURS, FLOOR)]
    return max((best[0] for best in bests if best), default=None)


def number(value: float) -> str:
    """The value with three significant digits."""
    if value >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if value >= 10 else f"{value:.2f}" if value >= 1 else f"{value:.3f}"
