"""mosec: its front end is written in Rust, its workers are Python processes."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

from bench.environments import COMMON, Environment
from bench.load import Target
from bench.paths import ROOT
from bench.peers.base import Configuration, Server, worker_environment
from bench.processes import Processes, free_ports
from bench.workloads import Workload

ENVIRONMENT = Environment("mosec", (*COMMON, "mosec==0.9.8"))


class Mosec:
    name: ClassVar[str] = "mosec"

    def build(self) -> None:
        ENVIRONMENT.build()

    def version(self) -> str:
        return ENVIRONMENT.version("mosec")

    def start(self, workload: Workload, configuration: Configuration, folder: Path) -> Server:
        (port,) = free_ports(1)
        command = [ENVIRONMENT.python, str(ROOT / "bench" / "serving" / "mosec_worker.py")]
        command += ["--address", "127.0.0.1", "--port", str(port), "--timeout", "60000"]
        # Its own defaults would refuse the large tensor; and a batch delay of 0 would mean 10 ms.
        command += ["--max-request-size", str(64 << 20), "--wait", str(configuration.max_batch_delay_ms)]
        processes = Processes(command, folder, worker_environment(workload, configuration))
        target = Target(f"http://127.0.0.1:{port}/inference", workload.request_file, workload.content_type)
        return Server(processes, target, workload.is_right)
