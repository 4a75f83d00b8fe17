"""Latencies at a constant rate of arrivals, as with people, who do not wait for each other."""

from __future__ import annotations

from typing import ClassVar

from bench import tables
from bench.open_loop import open_loop
from bench.results import ScenarioResults
from bench.run import FAILURES, WARM_UP_SECONDS, Run
from bench.scenarios.fit import CONFIGURATIONS
from bench.tables import Target
from bench.workloads import prepare

_RATES = (200, 1_000, 4_000)


class OpenLoop:
    name: ClassVar[str] = "open_loop"

    def measure(self, run: Run) -> None:
        workload = prepare("fit")
        for name, peer in run.peers.items():
            for configuration in CONFIGURATIONS[name]:
                try:
                    peer.build()
                    with peer.start(workload, configuration, run.folder(f"{name} {configuration}")) as server:
                        for rate in _RATES:
                            open_loop(server.target, rate, WARM_UP_SECONDS)
                            done = open_loop(server.target, rate, run.seconds)
                            server.check()
                            values = {
                                "p50_ms": done.p50_ms,
                                "p99_ms": done.p99_ms,
                                "p999_ms": done.p999_ms,
                                "max_ms": done.max_ms,
                                "requests": float(done.requests),
                            }
                            failure = f"{done.failures} requests failed" if done.failures else ""
                            run.record(name, f"{rate}/s", values, configuration=str(configuration), failure=failure)
                except FAILURES as error:
                    run.record(name, "start", {}, configuration=str(configuration), failure=str(error))

    def report(self, results: ScenarioResults) -> str:
        rows = []
        cases = [f"{rate}/s" for rate in _RATES]
        for server in results.servers():
            row = [server]
            for case in cases:
                best = results.best("p99_ms", case, server, min)
                if best is None:
                    row.append("–")
                    continue
                keys = ("p50_ms", "p99_ms", "p999_ms")
                values = [results.median(key, case, server, best[1]) or 0.0 for key in keys]
                row.append(f"{', '.join(tables.number(value) for value in values)}<br>{best[1]}")
            rows.append(row)
        note = "p50, p99 and p99.9 in ms, each server in its configuration with the lowest p99.\n\n"
        return note + tables.table(["Server", *cases], rows)

    def targets(self, results: ScenarioResults) -> list[Target]:
        return []
