"""Triton with Python functions (PyTriton), asked in its own protocol, with binary tensors where they are large."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import ClassVar

from bench.environments import COMMON, Environment, install, need
from bench.paths import ROOT
from bench.peers.base import Configuration, Server, worker_environment
from bench.processes import Processes, free_ports
from bench.ways import OIP_BINARY, OIP_JSON, open_inference_ways
from bench.workloads import Workload

# It wants an older numpy than ours, which our OpenCV does not work with, and a Python with its shared library, of the
# release that its stubs were made for: Debian's, not one that was built by hand.
ENVIRONMENT = Environment(
    "pytriton",
    (
        *(requirement for requirement in COMMON if "opencv" not in requirement),
        "opencv-python-headless<5",
        "nvidia-pytriton==0.7.0",
    ),
    interpreter="/usr/bin/python3",
)


class PyTriton:
    name: ClassVar[str] = "PyTriton"

    def build(self) -> None:
        need(ENVIRONMENT.interpreter, "python3-venv")
        asked = subprocess.run([ENVIRONMENT.interpreter, "-V"], check=True, capture_output=True, text=True)
        package = "libpython" + ".".join(asked.stdout.split()[1].split(".")[:2])
        if not list(Path("/usr/lib").glob(f"*/{package}.so.1.0")):
            install(package)
        ENVIRONMENT.build()

    def version(self) -> str:
        return ENVIRONMENT.version("nvidia-pytriton")

    def start(self, workload: Workload, configuration: Configuration, folder: Path) -> Server:
        ports = free_ports(3)
        command = [ENVIRONMENT.python, str(ROOT / "bench" / "serving" / "pytriton_app.py"), *map(str, ports)]
        processes = Processes(command, folder, worker_environment(workload, configuration))
        ways = open_inference_ways(workload, folder, f"127.0.0.1:{ports[0]}", f"127.0.0.1:{ports[1]}")
        usual = ways[OIP_JSON if workload.content_type == "application/json" else OIP_BINARY]
        return Server(processes, usual.target, usual.is_right, ways=ways)
