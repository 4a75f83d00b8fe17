"""Machines of a new Ray cluster, all of them in this process."""

from __future__ import annotations

import json
import os
import signal
import sys
import threading

from ray.cluster_utils import Cluster

from pdserver.system.devices import core_count

_STORE_BYTES = 80 * 2**20
"""For the objects of a machine: Ray takes no less than 75 MiB. Pieces of archives pass through it."""


def run(number: int, ready_fd: int) -> None:
    """Have so many machines of a new Ray cluster in this process, until SIGTERM. Their address goes to `ready_fd`, as
    JSON."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit())
    own = {"num_cpus": core_count(), "object_store_memory": _STORE_BYTES}
    cluster = Cluster(initialize_head=True, head_node_args={**own, "include_dashboard": False})
    try:
        for _ in range(number - 1):
            cluster.add_node(**own)
        os.write(ready_fd, json.dumps({"address": cluster.address}).encode() + b"\n")
        os.close(ready_fd)
        threading.Event().wait()
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        cluster.shutdown()
