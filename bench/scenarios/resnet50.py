"""A large model on a tensor: nothing but the model should count."""

from __future__ import annotations

from typing import ClassVar

from bench import tables
from bench.bare import loop_rate
from bench.peers.base import Configuration
from bench.results import ScenarioResults
from bench.run import Run
from bench.scenarios.image import LOOP
from bench.tables import OURS, Target, ratio
from bench.workloads import prepare

_BY_PROCESSES = {1: Configuration(), 2: Configuration(workers=2)}


class ResNet50:
    name: ClassVar[str] = "resnet50"

    def measure(self, run: Run) -> None:
        workload = prepare("resnet50")
        for processes, configuration in _BY_PROCESSES.items():
            rate = loop_rate(workload, processes, 1, run.seconds)
            run.record(LOOP, "loop", {"requests_per_second": rate}, configuration=str(configuration))
        configurations = dict.fromkeys(run.peers, tuple(_BY_PROCESSES.values()))
        run.closed_loops(workload, configurations | {"PyTriton": (Configuration(),)}, (1, 8))

    def report(self, results: ScenarioResults) -> str:
        rows = [
            [str(configuration), "–" if (rate := _loop(results, configuration)) is None else f"{tables.number(rate)}/s"]
            for configuration in _BY_PROCESSES.values()
        ]
        head = ["The same work in a loop, without a server", ""]
        return f"{tables.closed_loop_table(results, all_of=OURS)}\n{tables.table(head, rows)}"

    def targets(self, results: ScenarioResults) -> list[Target]:
        found = []
        for processes, configuration in _BY_PROCESSES.items():
            ours = results.median("requests_per_second", "c=8", OURS, str(configuration))
            text = f"requests/s, {processes} worker(s) to as many loops"
            found.append(Target("c=8", text, ratio(ours, _loop(results, configuration)), "≥", 0.97))
        return found


def _loop(results: ScenarioResults, configuration: Configuration) -> float | None:
    return results.median("requests_per_second", "loop", LOOP, str(configuration))
