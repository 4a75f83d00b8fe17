"""Prints the figures of docs/cluster.md: `python -m tests.cluster.figures`.

Three Ray machines here. Clients ask at the entrance and at the nodes while a node dies, then the controller.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from tests.cluster.load import loaded
from tests.cluster.running import RunningCluster, running_cluster
from tests.running import eventually


def seconds(check: Callable[[], object]) -> float:
    """Until it is true."""
    began = time.monotonic()
    eventually(check, 120)
    return time.monotonic() - began


def measure(cluster: RunningCluster) -> None:
    cluster.register("m", 3, copies=2)
    victim = next(each for each in cluster.machines.all[1:] if each.node in cluster.ready_on("m"))
    nodes = [address for node in cluster.nodes().values() for address in (node["inference"], node["grpc"])]
    with (
        loaded([cluster.inference, cluster.grpc], "m", [3]) as through,
        loaded(nodes, "m", [3], clients=len(nodes)) as direct,
    ):
        victim.kill()
        placed = seconds(lambda: len(cluster.ready_on("m") - {victim.node}) == 2)
        print(f"seconds until copies are placed anew: {placed:.1f}")
        [controller] = cluster.machines.named("ray::ControllerShell")
        controller.kill()
        print(f"seconds until management is back: {seconds(cluster.is_managed):.1f}")
    for where, load in (("the entrance", through), ("the nodes", direct)):
        print(f"clients of {where}: {load.account}; longest pause {load.longest_pause():.2f} s")


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder, running_cluster(Path(folder), 3) as running:
        print("nodes:", len(running.nodes()))
        measure(running)
