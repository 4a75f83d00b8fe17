"""One run of a scenario, in rounds in which every server has its turn."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from bench.load import closed_loop
from bench.paths import WORK
from bench.peers.base import Configuration, Peer, Server, WrongAnswer
from bench.processes import cpu_seconds
from bench.results import Measurement
from bench.workloads import Workload

WARM_UP_SECONDS = 1.0
FAILURES = (RuntimeError, OSError, WrongAnswer, subprocess.CalledProcessError)
"""Raised if a server does not start, dies or gives wrong answers. That costs its cells, not the whole run."""


@dataclass
class Run:
    """Passed to a scenario, which calls its `record…` methods."""

    scenario: str
    peers: Mapping[str, Peer]
    """The chosen peers by name. Ours is always among them."""
    seconds: float
    """Time for one cell."""
    round: int = 0
    measurements: list[Measurement] = field(default_factory=list)

    def folder(self, name: str) -> Path:
        """An empty folder for a server's files."""
        path = WORK / "servers" / self.scenario / name.replace(" ", "-").replace(",", "")
        shutil.rmtree(path, ignore_errors=True)
        path.mkdir(parents=True)
        return path

    def record(
        self, server: str, case: str, values: Mapping[str, float], *, configuration: str = "", failure: str = ""
    ) -> None:
        cell = Measurement(
            server=server,
            configuration=configuration,
            case=case,
            round=self.round,
            values=dict(values),
            failure=failure,
        )
        self.measurements.append(cell)
        shown = "  ".join(f"{name} {value:,.4g}" for name, value in values.items())
        print(f"{self.round} {server:12} {configuration:24} {case:8} {shown} {failure}".rstrip(), flush=True)

    def closed_loops(
        self,
        workload: Workload,
        configurations: Mapping[str, Sequence[Configuration]],
        connections: Sequence[int],
        ways: Sequence[str] = (),
        case: str = "c={}",
    ) -> None:
        """Measure every server in every configuration under every load. The cells of one that fails say so.

        With `ways`, measure each way that a server has. The configuration's name then includes the way.
        """
        for name, peer in self.peers.items():
            for configuration in configurations.get(name, ()):
                folder = self.folder(f"{name} {configuration}")
                try:
                    peer.build()
                    started = peer.start(workload, configuration, folder)
                    usable = [way for way in ways if way in started.ways] or [""]
                    with started.by(usable[0]) as server:
                        for way in usable:
                            asked = server.by(way)
                            title = f"{way}, {configuration}" if way else str(configuration)
                            for count in connections:
                                closed_loop(asked.target, count, WARM_UP_SECONDS)
                                self.record_closed_loop(asked, name, title, count, case)
                except FAILURES as error:
                    self.record(name, "start", {}, configuration=str(configuration), failure=str(error))

    def record_closed_loop(
        self, server: Server, name: str, configuration: str, connections: int, case: str = "c={}"
    ) -> None:
        """Measure a cell. It does not count if a request failed. Raises WrongAnswer if the server's answers become
        wrong."""
        before, cpu = server.batches(), cpu_seconds(server.processes.first())
        done = closed_loop(server.target, connections, self.seconds)
        after, spent = server.batches(), cpu_seconds(server.processes.first()) - cpu
        server.check()
        values = {
            "requests_per_second": done.requests_per_second,
            "p50_ms": done.p50_ms,
            "p99_ms": done.p99_ms,
            "requests": float(done.requests),
        }
        if done.requests:
            values["cpu_us_per_request"] = spent / done.requests * 1e6
        if before and after and after.count > before.count:
            values["mean_batch"] = (after.requests - before.requests) / (after.count - before.count)
        failure = (
            f"{done.failures} requests failed" if done.failures else "" if done.requests else "nothing was answered"
        )
        self.record(name, case.format(connections), values, configuration=configuration, failure=failure)
