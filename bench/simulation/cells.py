"""Cells of a cluster: how entrances choose nodes, how large a cell should be, and how copies follow the load."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import ClassVar

from bench import tables
from bench.results import Results, ScenarioResults
from bench.run import Run
from bench.simulation import scaling
from bench.simulation.cluster import ONE_QUEUE, POLICIES, Cell, LeastConnections, Policy, Times, mixed, spread
from bench.simulation.costs import page_seconds
from bench.simulation.scaling import Rule
from bench.tables import Target

WORKERS = 2
"""Of each node, as on the machine that the service times are from."""
_DEVIATION = 0.25
"""Of service times, as a part of their mean. An assumption: the measured ones have queues in them."""
_BUSY = 0.8
_REQUESTS = 40_000
NODES = (10, 100, 1000)
_ENTRANCES = (1, 4, 16)
_UNEVEN = (1.0, 1.1, 1.2)
"""What a cell gets of the load, to its share."""
CLUSTERS = {10: (10,), 1_000: (10, 100, 1_000), 100_000: (100, 1_000)}
"""Machines, and the sizes of cells to divide them into."""
_DAY_SECONDS = 7200.0
_BURST = (1200.0, 1800.0, 2700.0)
"""When it begins, when it ends, and when the simulation ends."""
_FEWEST, _MOST = 4, 40
"""Copies that the lowest and the highest load would keep busy for 70% of the time; the autoscaler may have twice as
many as the latter."""
_RULES = {
    "busy for 70%": Rule(busy=0.7),
    "queue of 50 ms": Rule(queue_seconds=0.05),
    "either": Rule(busy=0.7, queue_seconds=0.05),
}
_STARTS = (2.0, 30.0, 180.0)
"""A server that has the archive loads it; it fetches the archive, too; a machine starts."""
_QUEUE_SIZE = 100
"""The default of job_queue_size."""
_SLOW_SECONDS = 1.0


class Cells:
    """A scenario that is simulated, with the measured service time of a page of OCR."""

    name: ClassVar[str] = "simulation_cluster"

    def __init__(self, measured: Results) -> None:
        self._measured = measured

    def measure(self, run: Run) -> None:
        seconds = page_seconds(self._measured)
        run.record("service", "page", {"ms": seconds * 1e3})
        policies: dict[str, Callable[[random.Random], Policy] | None] = {**POLICIES, ONE_QUEUE: None}
        kinds = {"alike": spread(seconds, _DEVIATION), "mixed": mixed(seconds)}
        for nodes in NODES:
            for kind, times in kinds.items():
                for name, policy in policies.items():
                    run.record(name, f"{nodes} nodes, {kind}", _run(nodes, times, seconds, policy))
            for entrances in _ENTRANCES:
                values = _run(nodes, kinds["alike"], seconds, LeastConnections, entrances=entrances)
                run.record("entrances", f"{nodes} nodes", values, configuration=str(entrances))
            for part in _UNEVEN:
                values = _run(nodes, kinds["alike"], seconds, LeastConnections, part=part)
                run.record("uneven", f"{nodes} nodes", values, configuration=f"{part:g}")
        self._scaling(run, kinds["alike"], seconds)

    def _scaling(self, run: Run, times: Times, seconds: float) -> None:
        low, high = (copies * WORKERS / seconds * 0.7 for copies in (_FEWEST, _MOST / 2))
        loads = {
            "day": (scaling.day(low, high, _DAY_SECONDS), _DAY_SECONDS),
            "burst": (scaling.burst(low, 3 * low, *_BURST[:2]), _BURST[2]),
        }
        for load, (rate, duration) in loads.items():
            for title, rule in _RULES.items():
                for start in _STARTS:
                    done = scaling.run(
                        times,
                        rate,
                        high,
                        duration,
                        rule,
                        start,
                        workers=WORKERS,
                        first=_FEWEST,
                        most=_MOST,
                        queue_size=_QUEUE_SIZE,
                    )
                    answers = done.answers
                    values = {
                        "p99_ms": answers.quantile(0.99) * 1e3,
                        "refused": answers.refused / answers.arrived,
                        "slow": sum(each > _SLOW_SECONDS for each in answers.latencies) / len(answers.latencies),
                        "mean_copies": done.mean_copies,
                        "most_copies": float(done.most_copies),
                    }
                    run.record(title, load, values, configuration=f"{start:g}")

    def report(self, results: ScenarioResults) -> str:
        return "\n".join(
            [
                _intro(results),
                _policies_table(results),
                _by_nodes(results, "entrances", "Least connections by several entrances that share the load evenly"),
                _by_nodes(results, "uneven", "A cell that gets more than its share (1.2 times: 96% busy)"),
                _clusters_table(results),
                _scaling_table(results),
            ]
        )

    def targets(self, results: ScenarioResults) -> list[Target]:
        return []


def _run(
    nodes: int,
    times: Times,
    seconds: float,
    policy: Callable[[random.Random], Policy] | None,
    *,
    entrances: int = 1,
    part: float = 1.0,
) -> dict[str, float]:
    rate = _BUSY * part * nodes * WORKERS / seconds
    cell = Cell(nodes, WORKERS, times, policy, entrances=entrances)
    answers = cell.run(lambda _: rate, rate, 40 * seconds, max(_REQUESTS / rate, 40 * seconds))
    return {"wait_ms": answers.mean_wait * 1e3, "p99_ms": answers.quantile(0.99) * 1e3}


def _intro(results: ScenarioResults) -> str:
    page = results.median("ms", "page", "service") or 0.0
    return (
        f"A page of OCR keeps a worker busy for {page:.0f} ms, as measured (`pipeline`). Nodes have {WORKERS} workers, "
        f"which are busy for {_BUSY:.0%} of the time unless said otherwise. Requests come by chance.\n"
    )


def _policies_table(results: ScenarioResults) -> str:
    cases = [f"{nodes} nodes, {kind}" for kind in ("alike", "mixed") for nodes in NODES]
    rows = [[name, *(_wait_and_p99(results, name, case) for case in cases)] for name in (*POLICIES, ONE_QUEUE)]
    return (
        "Mean wait and p99 in ms. `alike`: service times vary by a quarter; `mixed`: one of twenty takes ten times as "
        f"long as each other one, with the same mean.\n\n{tables.table(['One entrance', *cases], rows)}"
    )


def _wait_and_p99(results: ScenarioResults, server: str, case: str, configuration: str | None = None) -> str:
    wait, p99 = (results.median(key, case, server, configuration) for key in ("wait_ms", "p99_ms"))
    return "–" if wait is None or p99 is None else f"{tables.number(wait)}, {p99:,.0f}"


def _by_nodes(results: ScenarioResults, server: str, title: str) -> str:
    counts = results.configurations(server)
    rows = [
        [f"{nodes} nodes", *(_wait_and_p99(results, server, f"{nodes} nodes", count) for count in counts)]
        for nodes in NODES
    ]
    return f"{title}, mean wait and p99 in ms:\n\n{tables.table(['', *counts], rows)}"


def _clusters_table(results: ScenarioResults) -> str:
    rows = []
    for machines, sizes in CLUSTERS.items():
        for size in sizes:
            shown = [_wait_and_p99(results, "uneven", f"{size} nodes", f"{part:g}") for part in _UNEVEN]
            rows.append([f"{machines:,} machines", f"{machines // size:,} × {size:,}", *shown])
    head = ["", "cells", *(f"a cell with {part:g} of its share" for part in _UNEVEN)]
    return (
        "Clusters of cells, each with an entrance of its own and least connections. Cells share nothing, so one of "
        f"them is simulated:\n\n{tables.table(head, rows)}"
    )


def _scaling_table(results: ScenarioResults) -> str:
    rows = []
    for load in ("day", "burst"):
        for rule in _RULES:
            for start in results.configurations(rule):
                keys = ("p99_ms", "slow", "refused", "mean_copies", "most_copies")
                p99, slow, refused, mean, most = (results.median(key, load, rule, start) or 0.0 for key in keys)
                shown = [f"{p99:,.0f}", f"{slow:.2%}", f"{refused:.2%}", f"{mean:.1f}", f"{most:.0f}"]
                rows.append([f"{load}, {rule}", f"{start} s", *shown])
    head = ["Load, rule", "a copy starts in", "p99, ms", f"slower than {_SLOW_SECONDS:g} s", "refused"]
    return (
        f"Copies that follow the load, decided every 15 s as Kubernetes' autoscaler does. `day`: a day of "
        f"{_DAY_SECONDS / 3600:g} hours, from {_FEWEST} copies' load to {_MOST // 2} copies'. `burst`: three times as "
        f"much for ten minutes, from one second to the next.\n\n{tables.table([*head, 'mean copies', 'most'], rows)}"
    )
