"""From one worker to eight: how long it takes, and what each costs in memory; and the front end's with ten models."""

from __future__ import annotations

from typing import ClassVar

from bench import tables
from bench.load import closed_loop
from bench.peers.base import Configuration, Server
from bench.peers.ours import Ours, wait_until_loaded
from bench.processes import proportional_bytes
from bench.results import ScenarioResults
from bench.run import WARM_UP_SECONDS, Run
from bench.tables import OURS, Target, ratio
from bench.workloads import prepare

_WORKERS = 8
_MODELS = 10
_PEERS = (OURS, "TorchServe")
"""Servers that can scale while they run."""


class Scale:
    name: ClassVar[str] = "scale"

    def measure(self, run: Run) -> None:
        workload = prepare("fit")
        for name in _PEERS:
            if name not in run.peers:
                continue
            run.peers[name].build()
            with run.peers[name].start(workload, Configuration(batch_size=32), run.folder(name)) as server:
                before = _used_bytes(server)
                seconds = server.scale(workload.name, _WORKERS)
                after = _used_bytes(server)
                server.check()
            per_worker = (after - before) / (_WORKERS - 1) / 1e6
            run.record(name, f"1→{_WORKERS}", {"seconds": seconds, "mb_per_worker": per_worker})
        names = ",".join(f"model{i}={workload.name}.pdar" for i in range(1, _MODELS))
        settings = {"load_models": f"{workload.name}.pdar,{names}"}
        with Ours().start(workload, Configuration(batch_size=32), run.folder("models"), settings) as server:
            wait_until_loaded(server)
            closed_loop(server.target, 64, WARM_UP_SECONDS)
            resident = server.processes.first().memory_info().rss / 1e6
        run.record(OURS, f"{_MODELS} models", {"mb_front_end": resident})

    def report(self, results: ScenarioResults) -> str:
        columns = {"seconds": f"1→{_WORKERS} workers, s", "mb_per_worker": "each further worker, MB (Pss)"}
        columns["mb_front_end"] = f"front end with {_MODELS} models, MB (resident)"
        return tables.values_table(results, columns, "Server")

    def targets(self, results: ScenarioResults) -> list[Target]:
        case = f"1→{_WORKERS}"
        ours, other = (results.median("seconds", case, name) for name in _PEERS)
        memory = results.median("mb_per_worker", case, OURS)
        return [
            Target(case, "time, to TorchServe's", ratio(ours, other), "≤", round(1 / 15, 3)),
            Target(case, "each further worker", memory, "≤", 12, "MB"),
            Target(
                f"{_MODELS} models",
                "front end",
                results.median("mb_front_end", f"{_MODELS} models", OURS),
                "≤",
                90,
                "MB",
            ),
        ]


def _used_bytes(server: Server) -> int:
    """Memory after every worker has had work. Before that, it shares much of its memory with its parent."""
    closed_loop(server.target, 64, WARM_UP_SECONDS)
    return proportional_bytes(server.processes.all())
