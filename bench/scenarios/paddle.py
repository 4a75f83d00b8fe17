"""The tiny model in each of Paddle Serving's languages, beside our TorchServe way."""

from __future__ import annotations

from typing import ClassVar

from bench import tables
from bench.paddle_serving import WAYS
from bench.peers.base import Configuration
from bench.results import ScenarioResults
from bench.run import Run
from bench.scenarios.fit import CONNECTIONS
from bench.tables import OURS, Target
from bench.ways import REST
from bench.workloads import prepare

_OURS = Configuration(batch_size=32)


class Paddle:
    name: ClassVar[str] = "paddle"

    def measure(self, run: Run) -> None:
        run.closed_loops(prepare("fit"), {OURS: (_OURS,)}, CONNECTIONS, (REST, *WAYS))

    def report(self, results: ScenarioResults) -> str:
        return tables.closed_loop_table(results, all_of=OURS)

    def targets(self, results: ScenarioResults) -> list[Target]:
        return tables.to_rest(results, WAYS, str(_OURS), [f"c={count}" for count in CONNECTIONS], 0.7)
