"""A cluster on one machine, beside Ray Serve with its HAProxy: the same tiny model on one node and on three."""

from __future__ import annotations

import subprocess
from typing import ClassVar

import psutil

from bench import tables
from bench.kinds import cpu_nanoseconds
from bench.load import closed_loop
from bench.peers.clusters import ClusterPeer, OurCluster, RayServeCluster, RunningCluster
from bench.processes import proportional_bytes
from bench.results import ScenarioResults
from bench.run import FAILURES, WARM_UP_SECONDS, Run
from bench.tables import OURS, Target, ratio
from bench.workloads import prepare

_PEERS: tuple[ClusterPeer, ...] = (OurCluster(), RayServeCluster())
_NODES = (1, 3)
_CONNECTIONS = (1, 8, 64)
_BATCH_SIZE = 32


class Cluster:
    name: ClassVar[str] = "cluster"

    def measure(self, run: Run) -> None:
        workload = prepare("fit")
        for peer in _PEERS:
            for way in peer.configurations:
                for nodes in _NODES:
                    title = f"{way}, {nodes} node{'s' if nodes > 1 else ''}"
                    try:
                        peer.build()
                        folder = run.folder(f"{peer.name} {nodes}")
                        with peer.start(workload, nodes, _BATCH_SIZE, way, folder) as cluster:
                            for count in _CONNECTIONS:
                                closed_loop(cluster.target, count, WARM_UP_SECONDS)
                                _record(run, cluster, peer.name, title, count)
                    except (*FAILURES, subprocess.SubprocessError, psutil.Error) as error:
                        run.record(peer.name, "start", {}, configuration=title, failure=str(error))
        run.record(
            "versions", "versions", {}, configuration=", ".join(f"{peer.name} {peer.version()}" for peer in _PEERS)
        )

    def report(self, results: ScenarioResults) -> str:
        rows = []
        cases = [f"c={count}" for count in _CONNECTIONS]
        for peer in _PEERS:
            for configuration in results.configurations(peer.name):
                cells = [_cell(results, case, peer.name, configuration) for case in cases]
                cost = results.median("cpu_us_per_request", cases[-1], peer.name, configuration)
                memory = results.median("mib", cases[-1], peer.name, configuration)
                shown = ["–" if value is None else tables.number(value) for value in (cost, memory)]
                rows.append([f"{peer.name}, {configuration}", *cells, *shown])
        versions = "; ".join(results.configurations("versions"))
        head = ["requests/s, p99", *cases, f"CPU µs per request, {cases[-1]}", "memory, MiB"]
        return (
            f"{versions}. All nodes, the load balancer and the load generator share this machine's "
            f"{results.machine.cores} cores, so three nodes can't be faster than one here: the table shows what they "
            "cost. Each node has one worker or replica, which takes what waits, up to 32 requests at once. CPU time "
            "and memory (Pss) are those of all processes of a cluster, Ray's among them.\n\n"
            f"{tables.table(head, rows)}{_node_memory(results)}"
        )

    def targets(self, results: ScenarioResults) -> list[Target]:
        found = []
        for nodes in ("1 node", "3 nodes"):
            for case in ("c=1", "c=64"):
                ours = results.median("requests_per_second", case, OURS, f"HAProxy, {nodes}")
                rates = [
                    results.median("requests_per_second", case, RayServeCluster.name, f"{way}, {nodes}")
                    for way in RayServeCluster.configurations
                ]
                best = max((rate for rate in rates if rate), default=None)
                text = f"{nodes}, requests/s, to Ray Serve's best"
                found.append(Target(case, text, ratio(ours, best), "≥", 1.0))
        return found


def _node_memory(results: ScenarioResults) -> str:
    lines = []
    for peer in _PEERS:
        one, three = (
            results.median("mib", f"c={_CONNECTIONS[-1]}", peer.name, f"{peer.configurations[0]}, {nodes}")
            for nodes in ("1 node", "3 nodes")
        )
        if one and three:
            lines.append(f"\nEach further node of {peer.name} takes {(three - one) / 2:,.0f} MiB.\n")
    return "".join(lines)


def _record(run: Run, cluster: RunningCluster, name: str, configuration: str, connections: int) -> None:
    before = _cpu(cluster)
    done = closed_loop(cluster.target, connections, run.seconds)
    after = _cpu(cluster)
    cluster.check()
    values = {
        "requests_per_second": done.requests_per_second,
        "p50_ms": done.p50_ms,
        "p99_ms": done.p99_ms,
        "requests": float(done.requests),
        "mib": proportional_bytes(cluster.processes()) / 2**20,
    }
    if done.requests:
        spent = sum(used - before.get(pid, 0) for pid, used in after.items())
        values["cpu_us_per_request"] = spent / done.requests / 1e3
    failure = f"{done.failures} requests failed" if done.failures else "" if done.requests else "nothing was answered"
    run.record(name, f"c={connections}", values, configuration=configuration, failure=failure)


def _cpu(cluster: RunningCluster) -> dict[int, int]:
    """Nanoseconds so far, by process."""
    return {process.pid: cpu_nanoseconds(process) for process in cluster.processes()}


def _cell(results: ScenarioResults, case: str, server: str, configuration: str) -> str:
    rate, p99 = (results.median(key, case, server, configuration) for key in ("requests_per_second", "p99_ms"))
    return "–" if rate is None or p99 is None else f"{tables.number(rate)}/s, {tables.number(p99)} ms"
