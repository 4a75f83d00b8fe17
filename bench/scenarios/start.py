"""From the command to the first right answer of the tiny model, with the files in the page cache."""

from __future__ import annotations

from typing import ClassVar

from bench import tables
from bench.peers.base import Configuration
from bench.results import ScenarioResults
from bench.run import Run
from bench.tables import OURS, Target, ratio
from bench.workloads import prepare


class Start:
    name: ClassVar[str] = "start"

    def measure(self, run: Run) -> None:
        workload = prepare("fit")
        for name, peer in run.peers.items():
            peer.build()
            server = peer.start(workload, Configuration(batch_size=32), run.folder(name))
            try:
                run.record(name, "start", {"seconds": server.wait_until_right()})
            finally:
                server.processes.stop()

    def report(self, results: ScenarioResults) -> str:
        return tables.values_table(results, {"seconds": "start to first answer, s"}, "Server")

    def targets(self, results: ScenarioResults) -> list[Target]:
        ours, other = (results.median("seconds", "start", name) for name in (OURS, "TorchServe"))
        return [Target("start", "time, to TorchServe's", ratio(ours, other), "≤", 0.5)]
