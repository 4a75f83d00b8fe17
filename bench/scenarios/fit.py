"""A tiny model, so that nothing but the server counts: 13 floats as JSON → 1."""

from __future__ import annotations

from typing import ClassVar

from bench import tables
from bench.peers.base import Configuration
from bench.results import ScenarioResults
from bench.run import Run
from bench.tables import FLOOR, OURS, Target, ratio
from bench.workloads import prepare

CONFIGURATIONS = {
    # One configuration for all loads. Each other server may have another one for each load.
    OURS: (Configuration(batch_size=32),),
    FLOOR: (Configuration(batch_size=32),),
    "mosec": (
        Configuration(),
        Configuration(batch_size=32),
        Configuration(batch_size=32, max_batch_delay_ms=2),
        Configuration(batch_size=32, max_batch_delay_ms=10),
    ),
    "TorchServe": (
        Configuration(),
        Configuration(batch_size=32, max_batch_delay_ms=1),
        Configuration(batch_size=32, max_batch_delay_ms=2),
    ),
    "LitServe": (Configuration(), Configuration(batch_size=32, max_batch_delay_ms=2)),
    "PyTriton": (Configuration(batch_size=32), Configuration(batch_size=32, max_batch_delay_ms=2)),
}
CONNECTIONS = (1, 8, 32, 64)


class Fit:
    name: ClassVar[str] = "fit"

    def measure(self, run: Run) -> None:
        run.closed_loops(prepare("fit"), CONFIGURATIONS, CONNECTIONS)

    def report(self, results: ScenarioResults) -> str:
        return tables.closed_loop_table(results)

    def targets(self, results: ScenarioResults) -> list[Target]:
        key = "requests_per_second"
        found = []
        for case, limit, of_floor in (("c=1", 1.25, 1.0), ("c=8", 4.2, 0.9), ("c=32", 1.35, 0.85), ("c=64", 1.5, 0.85)):
            ours = results.median(key, case, OURS)
            reached = ratio(ours, tables.best_peer(results, key, case))
            found.append(Target(case, "requests/s, to the best peer", reached, "≥", limit))
            reached = ratio(ours, results.median(key, case, FLOOR))
            found.append(Target(case, "requests/s, to the floor", reached, "≥", of_floor))
            if case in ("c=32", "c=64"):
                torchserve = results.best(key, case, "TorchServe")
                reached = ratio(ours, torchserve and torchserve[0])
                found.append(Target(case, "requests/s, to TorchServe", reached, "≥", 5.0))
        costs = [results.median("cpu_us_per_request", "c=32", server) for server in (OURS, FLOOR)]
        found.append(Target("c=32", "front-end CPU per request, to the floor's", ratio(*costs), "≤", 1.3))
        fastest = results.best("p50_ms", "c=1", "TorchServe", min)
        reached = ratio(results.median("p50_ms", "c=1", OURS), fastest and fastest[0])
        found.append(Target("c=1", "p50, to TorchServe's best", reached, "≤", 0.2))
        return found
