"""The tiny model by gRPC, one call at a time on each connection: TorchServe's Predictions and the Open Inference
Protocol's ModelInfer."""

from __future__ import annotations

from typing import ClassVar

from bench import tables
from bench.peers.base import Configuration
from bench.results import ScenarioResults
from bench.run import Run
from bench.scenarios.fit import CONFIGURATIONS, CONNECTIONS
from bench.tables import OURS, Target, ratio
from bench.ways import OIP_GRPC, PREDICTIONS, REST
from bench.workloads import prepare

_OURS = Configuration(batch_size=32)
_PEERS = {PREDICTIONS: "TorchServe", OIP_GRPC: "PyTriton"}
"""Way → the peer that speaks it."""


class Grpc:
    name: ClassVar[str] = "grpc"

    def measure(self, run: Run) -> None:
        names = (OURS, *_PEERS.values())
        run.closed_loops(prepare("fit"), {name: CONFIGURATIONS[name] for name in names}, CONNECTIONS, (REST, *_PEERS))

    def report(self, results: ScenarioResults) -> str:
        return tables.closed_loop_table(results, all_of=OURS)

    def targets(self, results: ScenarioResults) -> list[Target]:
        key = "requests_per_second"
        found = []
        for way, peer in _PEERS.items():
            for case in (f"c={count}" for count in CONNECTIONS):
                ours = results.median(key, case, OURS, f"{way}, {_OURS}")
                theirs = results.best(key, case, peer)
                reached = ratio(ours, theirs and theirs[0])
                wanted = 3.0 if peer == "TorchServe" and case in ("c=1", "c=8") else 1.0
                found.append(Target(case, f"requests/s by {way}, to {peer}", reached, "≥", wanted))
        cases = [f"c={count}" for count in CONNECTIONS]
        return found + tables.to_rest(results, tuple(_PEERS), str(_OURS), cases, 0.75)
