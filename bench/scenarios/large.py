"""A float32 tensor of 10 MB in, and one out: how often are the bytes copied?

Our server is measured in two ways, with nearly the same bytes: as .npy files, with a handler like those of the others,
and as binary tensors of the Open Inference Protocol, with the built-in handler.
"""

from __future__ import annotations

import dataclasses
from typing import ClassVar

from bench import tables
from bench.bare import loop_rate, start_echo
from bench.load import closed_loop
from bench.peers.base import Configuration
from bench.results import ScenarioResults
from bench.run import WARM_UP_SECONDS, Run
from bench.tables import FLOOR, OURS, Target, ratio
from bench.ways import OIP_BINARY
from bench.workloads import Workload, prepare

ECHO = "echo"
LOOP = "bare loop"
_ONE = Configuration()
_CONNECTIONS = (1, 4)


class Large:
    name: ClassVar[str] = "large"

    def measure(self, run: Run) -> None:
        workload = prepare("large")
        rate = loop_rate(workload, 1, 1, run.seconds)
        run.record(LOOP, "loop", {"requests_per_second": rate, "p50_ms": 1000 / rate})
        self._echo(run, workload)
        run.closed_loops(workload, dict.fromkeys(run.peers.keys() - {FLOOR}, (_ONE,)), _CONNECTIONS)
        typed = dataclasses.replace(workload, handler="base_handler")
        run.closed_loops(typed, {OURS: (_ONE,)}, _CONNECTIONS, (OIP_BINARY,))

    def _echo(self, run: Run, workload: Workload) -> None:
        with start_echo(workload, run.folder(ECHO)) as server:
            for connections in _CONNECTIONS:
                closed_loop(server.target, connections, WARM_UP_SECONDS)
                run.record_closed_loop(server, ECHO, "", connections)

    def report(self, results: ScenarioResults) -> str:
        alone = results.median("p50_ms", "loop", LOOP)
        text = "not measured" if alone is None else f"{tables.number(alone)} ms"
        return (
            f"{tables.closed_loop_table(results, all_of=OURS)}\n"
            f"`{OURS}, {_ONE}` and its peers take and give .npy files; `{OIP_BINARY}` is the same tensor in the Open "
            "Inference Protocol, its bytes as they are behind some JSON. "
            f"`{ECHO}`: uvicorn, and an app that answers with one copy of the body. "
            f"Reading, running and writing the tensor in a loop, without a server: {text}.\n"
        )

    def targets(self, results: ScenarioResults) -> list[Target]:
        echo, alone = results.median("p50_ms", "c=1", ECHO), results.median("p50_ms", "loop", LOOP)
        both = echo + alone if echo and alone else None
        found = []
        for title, configuration in (("as a binary tensor", f"{OIP_BINARY}, {_ONE}"), ("as .npy", str(_ONE))):
            ours = results.median("p50_ms", "c=1", OURS, configuration)
            found.append(Target("c=1", f"p50 {title}, to the echo", ratio(ours, echo), "≤", 1.4))
            text = f"p50 {title}, to the echo and the model's own time"
            found.append(Target("c=1", text, ratio(ours, both), "≤", 1.4))
        return found
