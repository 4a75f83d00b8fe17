"""The floor: not another server, but the least that one of our design does. It shows what our features cost."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import ClassVar

from bench.load import Target
from bench.paths import ROOT
from bench.peers.base import Configuration, Server, worker_environment
from bench.processes import Processes, free_ports
from bench.tables import FLOOR
from bench.workloads import Workload


class Floor:
    """Runs in our own environment."""

    name: ClassVar[str] = FLOOR

    def build(self) -> None:
        """It needs nothing that we don't."""

    def version(self) -> str:
        return "bench/serving/floor_app.py"

    def start(self, workload: Workload, configuration: Configuration, folder: Path) -> Server:
        (port,) = free_ports(1)
        command = [sys.executable, "-W", "ignore", str(ROOT / "bench" / "serving" / "floor_app.py"), str(port)]
        processes = Processes(command, folder, worker_environment(workload, configuration))
        target = Target(
            f"http://127.0.0.1:{port}/predictions/{workload.name}", workload.request_file, workload.content_type
        )
        return Server(processes, target, workload.is_right)
