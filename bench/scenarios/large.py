"""A float32 tensor of 10 MB in, and one out: how often are the bytes copied?"""

from __future__ import annotations

from typing import ClassVar

from bench import tables
from bench.bare import loop_rate, start_echo
from bench.load import closed_loop
from bench.peers.base import Configuration
from bench.results import ScenarioResults
from bench.run import WARM_UP_SECONDS, Run
from bench.tables import OURS, Target, ratio
from bench.workloads import Workload, prepare

ECHO = "echo"
LOOP = "bare loop"


class Large:
    name: ClassVar[str] = "large"

    def measure(self, run: Run) -> None:
        workload = prepare("large")
        rate = loop_rate(workload, 1, 1, run.seconds)
        run.record(LOOP, "loop", {"requests_per_second": rate, "p50_ms": 1000 / rate})
        self._echo(run, workload)
        run.closed_loops(workload, dict.fromkeys(run.peers, (Configuration(),)), (1, 4))

    def _echo(self, run: Run, workload: Workload) -> None:
        with start_echo(workload, run.folder(ECHO)) as server:
            for connections in (1, 4):
                closed_loop(server.target, connections, WARM_UP_SECONDS)
                run.record_closed_loop(server, ECHO, "", connections)

    def report(self, results: ScenarioResults) -> str:
        alone = results.median("p50_ms", "loop", LOOP)
        text = "not measured" if alone is None else f"{tables.number(alone)} ms"
        return (
            f"{tables.closed_loop_table(results)}\n"
            f"`{ECHO}`: uvicorn, and an app that answers with one copy of the body. "
            f"Reading, running and writing the tensor in a loop, without a server: {text}.\n"
        )

    def targets(self, results: ScenarioResults) -> list[Target]:
        ours, echo = (results.median("p50_ms", "c=1", server) for server in (OURS, ECHO))
        alone = results.median("p50_ms", "loop", LOOP)
        both = echo + alone if echo and alone else None
        return [
            Target("c=1", "p50, to the echo", ratio(ours, echo), "≤", 1.5),
            Target("c=1", "p50, to the echo and the model's own time", ratio(ours, both), "≤", 1.5),
        ]
