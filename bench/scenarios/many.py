"""Many idle models, and many waiting requests."""

from __future__ import annotations

from typing import ClassVar

from bench.peers.base import Configuration
from bench.peers.ours import Ours, wait_until_loaded
from bench.results import ScenarioResults
from bench.run import Run
from bench.scenarios.growth import cost_table, record_cost
from bench.tables import OURS, Target, ratio
from bench.workloads import prepare

_MODELS = 200
_WAITING = (64, 1_000, 10_000)


class Many:
    name: ClassVar[str] = "many"

    def measure(self, run: Run) -> None:
        self._models(run)
        self._waiting(run)

    def _models(self, run: Run) -> None:
        """Register the same archive under other names, each with its own worker."""
        workload = prepare("fit")
        for count in (1, _MODELS):
            names = [f"{workload.name}.pdar", *(f"idle{i}={workload.name}.pdar" for i in range(1, count))]
            settings = {"load_models": ",".join(names)}
            with Ours().start(
                workload, Configuration(batch_size=32), run.folder(f"models {count}"), settings
            ) as server:
                wait_until_loaded(server)
                for connections in (1, 32):
                    record_cost(run, server, f"{count} models, c={connections}", connections)

    def _waiting(self, run: Run) -> None:
        """Use as many clients as requests should wait. At any time, all but one batch of them wait."""
        most = str(2 * _WAITING[-1])
        settings = {"job_queue_size": most, "max_connections": most}
        workload = prepare("fit")
        with Ours().start(workload, Configuration(batch_size=32), run.folder("waiting"), settings) as server:
            for connections in _WAITING:
                record_cost(run, server, f"{connections} waiting", connections)

    def report(self, results: ScenarioResults) -> str:
        return cost_table(results)

    def targets(self, results: ScenarioResults) -> list[Target]:
        p50s = [results.median("p50_ms", f"{count} models, c=1", OURS) for count in (_MODELS, 1)]
        costs = [
            results.median("cpu_us_per_request", f"{count} waiting", OURS) for count in (_WAITING[-1], _WAITING[0])
        ]
        return [
            Target(f"{_MODELS} models", "p50 at c=1, to that with one", ratio(*p50s), "≤", 1.1),
            Target(f"{_WAITING[-1]} waiting", f"cost per request, to {_WAITING[0]} waiting", ratio(*costs), "≤", 1.15),
        ]
