"""The front end's CPU time for one request, as the number of connections and workers grows."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from typing import ClassVar

from bench import tables
from bench.load import closed_loop
from bench.peers.base import Configuration, Server
from bench.peers.ours import Ours
from bench.processes import cpu_seconds
from bench.results import ScenarioResults
from bench.run import WARM_UP_SECONDS, Run
from bench.tables import OURS, Target
from bench.workloads import prepare

_CONNECTIONS = (1, 8, 32, 64, 128, 256, 512)
_WORKERS = (1, 2, 4, 8, 16)
_CONNECTIONS_PER_SECOND = 2_000
"""Rate at which connections are made before the measurement begins."""
_QUEUE = {"job_queue_size": "1000"}
"""The default would refuse requests of more than a hundred clients."""


class Growth:
    name: ClassVar[str] = "growth"

    def measure(self, run: Run) -> None:
        workload = prepare("fit")
        for workers in _WORKERS:
            configuration = Configuration(batch_size=32, workers=workers)
            with Ours().start(workload, configuration, run.folder(f"workers {workers}"), _QUEUE) as server:
                for connections in _CONNECTIONS if workers == 1 else (64,):
                    record_cost(run, server, f"{workers} workers, c={connections}", connections)

    def report(self, results: ScenarioResults) -> str:
        return cost_table(results)

    def targets(self, results: ScenarioResults) -> list[Target]:
        by_connections = [f"1 workers, c={connections}" for connections in _CONNECTIONS if connections >= 8]
        by_workers = [f"{workers} workers, c=64" for workers in _WORKERS]
        text = "front-end CPU per request, the most to the least"
        return [
            Target("c=8…512", text, _spread(results, by_connections), "≤", 1.2),
            Target("1…16 workers", text, _spread(results, by_workers), "≤", 1.2),
        ]


def record_cost(run: Run, server: Server, case: str, connections: int) -> None:
    """Measure the CPU time of the server's first process for each answer, once all connections are made."""
    settle_seconds = WARM_UP_SECONDS + connections / _CONNECTIONS_PER_SECOND
    front_end = server.processes.first()
    with ThreadPoolExecutor(1) as pool:
        # A second more than is measured, so that wrk's end, when it gives up its requests, is not part of it.
        load = pool.submit(closed_loop, server.target, connections, settle_seconds + run.seconds + 1)
        time.sleep(settle_seconds)
        started, cpu, batches = time.monotonic(), cpu_seconds(front_end), server.batches()
        time.sleep(run.seconds)
        seconds, spent, later = time.monotonic() - started, cpu_seconds(front_end) - cpu, server.batches()
        done = load.result()
    assert batches
    assert later
    requests = later.requests - batches.requests
    values = {"requests_per_second": requests / seconds, "p50_ms": done.p50_ms, "requests": requests}
    if requests:
        values["cpu_us_per_request"] = spent / requests * 1e6
        values["mean_batch"] = requests / (later.count - batches.count)
    run.record(OURS, case, values, failure=f"{done.failures} requests failed" if done.failures else "")


def cost_table(results: ScenarioResults) -> str:
    columns = {
        "cpu_us_per_request": "front-end CPU per request, µs",
        "requests_per_second": "requests/s",
        "p50_ms": "p50, ms",
        "mean_batch": "mean batch",
    }
    return tables.values_table(results, columns, "Load", by="case")


def _spread(results: ScenarioResults, cases: list[str]) -> float | None:
    costs = [results.median("cpu_us_per_request", case, OURS) for case in cases]
    found = [cost for cost in costs if cost]
    return max(found) / min(found) if len(found) == len(cases) else None
