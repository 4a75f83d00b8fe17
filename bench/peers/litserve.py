"""LitServe: FastAPI in front, Python workers behind queues of multiprocessing."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import ClassVar

from bench.environments import COMMON, Environment
from bench.load import Target
from bench.paths import ROOT
from bench.peers.base import Configuration, Server, worker_environment
from bench.processes import Processes, free_ports
from bench.workloads import Workload

ENVIRONMENT = Environment("litserve", (*COMMON, "litserve==0.2.19"))


class LitServe:
    name: ClassVar[str] = "LitServe"

    def build(self) -> None:
        ENVIRONMENT.build()

    def version(self) -> str:
        return ENVIRONMENT.version("litserve")

    def start(self, workload: Workload, configuration: Configuration, folder: Path) -> Server:
        (port,) = free_ports(1)
        command = [ENVIRONMENT.python, str(ROOT / "bench" / "serving" / "litserve_app.py"), str(port)]
        processes = Processes(command, folder, worker_environment(workload, configuration))
        body = _json_body(workload, folder)
        return Server(
            processes, Target(f"http://127.0.0.1:{port}/predict", body, "application/json"), workload.is_right
        )


def _json_body(workload: Workload, folder: Path) -> Path:
    """The body as JSON, since LitServe takes only JSON and forms."""
    if workload.content_type == "application/json":
        return workload.request_file
    body = folder / "request.json"
    body.write_text(json.dumps({"data": base64.b64encode(workload.request_file.read_bytes()).decode()}))
    return body
