"""Machines with 2 to 64 cores: how many front ends are best, and whether workers are better shared or divided."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar

from bench import tables
from bench.kinds import FRONT_END, MAIN, WORKER
from bench.results import Measurement, Results, ScenarioResults
from bench.run import Run
from bench.scenarios.front_ends import SETUPS, TWO_FRONT_ENDS, Setup
from bench.simulation.costs import load_cost, workloads
from bench.simulation.machine import Cost, Layout, Machine, Outcome, Workload
from bench.tables import OURS, Target
from pdserver.configuration.values import front_ends_by_cores

CORES = (2, 4, 8, 16, 32, 64)
_FRONT_ENDS = (0, 2, 3, 4, 6, 8)
_SERVERS = (2, 4, 8, 16, 32)
SHARED, DIVIDED = "one engine", "divided"
_NETWORK_SECONDS = 0.0001
_LEAST_CONNECTIONS, _CONNECTIONS_BY_CORE = 64, 32
_PART_OF_BEST = 0.7
"""Of the best rate, at which latencies are compared."""
_NEARLY = 0.97
"""A difference of less counts as none."""
_REQUESTS, _LEAST_SECONDS = 3000, 0.1


@dataclass(frozen=True)
class Found:
    layout: Layout
    rate: float
    batch: float


class Machines:
    """A scenario that is simulated. Its costs are the measured ones."""

    name: ClassVar[str] = "simulation_machine"

    def __init__(self, measured: Results) -> None:
        self._measured = measured

    def measure(self, run: Run) -> None:
        known = workloads(self._measured)
        for each in validations(self._measured["front_ends"], known):
            run.measurements.append(each)
        for workload in known.values():
            for cores in CORES:
                self._size(run, workload, cores)

    def _size(self, run: Run, workload: Workload, cores: int) -> None:
        found = [(kind, _best(workload, cores, layouts)) for kind, layouts in _choices(workload, cores)]
        most = max(each.rate for _, each in found)
        for kind, each in found:
            layout = each.layout
            values = {"requests_per_second": each.rate, "mean_batch": each.batch}
            values |= {"front_ends": float(layout.front_ends or 1), "workers": float(layout.workers)}
            values |= {"servers": float(layout.servers)}
            if each.rate > most * _PART_OF_BEST * 1.05:
                values["p99_ms"] = _quiet(workload, cores, layout, most * _PART_OF_BEST).quantile(0.99) * 1e3
            count = layout.front_ends or 1 if kind == SHARED else layout.servers
            run.record(kind, f"{workload.name} {cores} cores", values, configuration=f"{count}")

    def report(self, results: ScenarioResults) -> str:
        parts = [_validation_table(results), _best_table(results)]
        parts += [_rates_table(results, name) for name in _names(results)]
        return "\n".join(parts)

    def targets(self, results: ScenarioResults) -> list[Target]:
        return []


def _choices(workload: Workload, cores: int) -> Iterator[tuple[str, list[Layout]]]:
    """Layouts that differ in their workers only."""
    for count in _FRONT_ENDS:
        if count < cores:
            rest = max(1, cores - count - 1)
            numbers = {rest, cores} if workload.batch.of(1) > 0.002 else {1, max(1, rest // 4), rest}
            yield SHARED, [Layout(count, workers) for workers in sorted(numbers)]
    for count in _SERVERS:
        if count <= cores:
            each = cores // count
            yield DIVIDED, [Layout(0, workers, count) for workers in sorted({max(1, each - 1), each})]


def _best(workload: Workload, cores: int, layouts: Sequence[Layout]) -> Found:
    found = [_busy(workload, cores, layout) for layout in layouts]
    return max(found, key=lambda each: each.rate)


def _busy(workload: Workload, cores: int, layout: Layout) -> Found:
    """As many requests as it can."""
    seconds = _seconds(workload, cores)
    machine = Machine(workload, layout, cores, network_seconds=_NETWORK_SECONDS)
    connections = max(_LEAST_CONNECTIONS, 2 * workload.batch_size * layout.servers * layout.workers)
    outcome = machine.closed_loop(connections, seconds / 4, seconds)
    return Found(layout, outcome.rate, len(outcome.latencies) / max(1, outcome.batches))


def _quiet(workload: Workload, cores: int, layout: Layout, rate: float) -> Outcome:
    seconds = max(_LEAST_SECONDS, _REQUESTS / rate, 20 * workload.batch.of(1))
    machine = Machine(workload, layout, cores, network_seconds=_NETWORK_SECONDS)
    return machine.open_loop(rate, _CONNECTIONS_BY_CORE * cores, seconds / 4, seconds)


def _seconds(workload: Workload, cores: int) -> float:
    """Enough for some thousand requests."""
    each = workload.single.of(1) + workload.batch.of(workload.batch_size) / workload.batch_size
    return max(_LEAST_SECONDS, _REQUESTS * each / cores)


def validations(measured: ScenarioResults, known: dict[str, Workload]) -> Iterator[Measurement]:
    """The measured layouts, simulated on as many cores and with their load generator."""
    for name, workload in known.items():
        for setup in SETUPS:
            for count in (8, 64):
                case = f"{name} c={count}"
                rate = measured.median("requests_per_second", case, OURS, str(setup))
                if rate is None:
                    continue
                simulated = _as_measured(measured, workload, setup, count)
                values = {"requests_per_second": simulated, "measured": rate}
                yield Measurement(server="validation", configuration=str(setup), case=case, round=1, values=values)


def _as_measured(measured: ScenarioResults, workload: Workload, setup: Setup, connections: int) -> float:
    pinned = [(cores[MAIN][0], cores[WORKER][0], cores[FRONT_END]) for cores in setup.cores]
    layout = Layout(2 if setup.name == TWO_FRONT_ENDS else 0, 1, len(setup.cores))
    load = load_cost(measured, workload.name, setup)
    wake = _wake_seconds(measured, workload, setup, load)
    machine = Machine(workload, layout, 2, wake_seconds=wake, load=load, pinned=pinned)
    seconds = max(0.5, 40 * workload.batch.of(workload.batch_size))
    return machine.closed_loop(connections, seconds / 4, seconds).rate


def _wake_seconds(measured: ScenarioResults, workload: Workload, setup: Setup, load: Cost) -> float:
    """What a process takes to wake up: what a single client waits for and no process computes, divided by how many
    processes are woken up on the way."""
    rate = measured.median("requests_per_second", f"{workload.name} c=1", OURS, str(setup))
    if not rate:
        return 0.0
    beside = setup.name == TWO_FRONT_ENDS
    doors = (workload.front_end.of(1) + workload.engine.of(1)) if beside else workload.single.of(1)
    return max(0.0, 1 / rate - doors - workload.batch.of(1) - load.of(1)) / (6 if beside else 4)


def _names(results: ScenarioResults) -> list[str]:
    cases = [cell.case for cell in results.measurements if cell.server != "validation"]
    return list(dict.fromkeys(case.split()[0] for case in cases))


def _validation_table(results: ScenarioResults) -> str:
    rows = []
    for cell in results.measurements:
        if cell.server == "validation":
            simulated, measured = cell.values["requests_per_second"], cell.values["measured"]
            shown = [tables.number(value) for value in (measured, simulated)]
            rows.append([f"{cell.case}: {cell.configuration}", *shown, f"{simulated / measured:.2f} ×"])
    return (
        "Simulated beside measured, on two cores that the load generator shares, requests/s; c=1 gave the time of a "
        "wake-up:\n\n"
        f"{tables.table(['', 'measured', 'simulated', 'ratio'], rows)}"
    )


def best_count(results: ScenarioResults, name: str, cores: int, kind: str) -> tuple[int, float] | None:
    """The smallest number of front ends, or of servers, that comes near the highest rate, and its rate."""
    case = f"{name} {cores} cores"
    rates = {
        int(count): rate
        for count in results.configurations(kind)
        if (rate := results.median("requests_per_second", case, kind, count)) is not None
    }
    if not rates:
        return None
    most = max(rates.values())
    return next((count, rate) for count, rate in sorted(rates.items()) if rate >= most * _NEARLY)


def _best_table(results: ScenarioResults) -> str:
    rows = []
    for cores in CORES:
        shown = []
        for name in _names(results):
            best = best_count(results, name, cores, SHARED)
            shown.append("–" if best is None else str(best[0]))
        rows.append([f"{cores} cores", *shown, str(front_ends_by_cores(cores))])
    return (
        f"The fewest front ends with one engine that come within {1 - _NEARLY:.0%} of the highest rate:\n\n"
        f"{tables.table(['', *_names(results), '`auto`'], rows)}"
    )


def _rates_table(results: ScenarioResults, name: str) -> str:
    shared, divided = (results.configurations(kind) for kind in (SHARED, DIVIDED))
    rows = []
    for cores in CORES:
        case = f"{name} {cores} cores"
        kinds = ((SHARED, shared), (DIVIDED, divided))
        rows.append(
            [f"{cores} cores", *(_cell(results, case, kind, count) for kind, counts in kinds for count in counts)]
        )
    head = [f"{count} front end{'s' if count != '1' else ''}" for count in shared] + [
        f"{count} servers" for count in divided
    ]
    return (
        f"`{name}`, requests/s, and p99 in ms at {_PART_OF_BEST:.0%} of the row's best rate (–: it can't keep up):\n\n"
        f"{tables.table(['', *head], rows)}"
    )


def _cell(results: ScenarioResults, case: str, kind: str, count: str) -> str:
    rate, p99 = (results.median(key, case, kind, count) for key in ("requests_per_second", "p99_ms"))
    if rate is None:
        return ""
    return f"{tables.number(rate)}, {'–' if p99 is None or math.isnan(p99) else tables.number(p99)}"
