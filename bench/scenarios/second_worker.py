"""ResNet50's first and second worker: does the second gain from the first's work on the program?"""

from __future__ import annotations

import shutil
from typing import ClassVar

from bench import tables
from bench.peers.base import Configuration
from bench.peers.ours import Ours, pack
from bench.results import ScenarioResults
from bench.run import Run
from bench.tables import OURS, Target, ratio
from bench.workloads import prepare


class SecondWorker:
    name: ClassVar[str] = "second_worker"

    def measure(self, run: Run) -> None:
        """Measure on a running server with another model's worker, so that Paddle is imported already."""
        fit, resnet50 = prepare("fit"), prepare("resnet50")
        store = pack(resnet50, Configuration()) / "resnet50.pdar"
        with Ours().start(fit, Configuration(), run.folder(OURS)) as server:
            shutil.copy(store, pack(fit, Configuration()))
            server.manage("POST", "/models?url=resnet50.pdar&initial_workers=0")
            for number, case in ((1, "first"), (2, "second")):
                run.record(OURS, case, {"seconds": server.scale("resnet50", number)})

    def report(self, results: ScenarioResults) -> str:
        return tables.values_table(results, {"seconds": "until ready, s"}, "Worker", by="case")

    def targets(self, results: ScenarioResults) -> list[Target]:
        first, second = (results.median("seconds", case, OURS) for case in ("first", "second"))
        return [Target("second", "time, to the first's", ratio(second, first), "≤", 0.5)]
