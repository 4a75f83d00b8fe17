"""The `pdserver` command in a folder of its own, and the servers that it has started."""

from __future__ import annotations

import subprocess
from pathlib import Path

import psutil

from tests.running import PDSERVER, clean_environment, free_ports


class Command:
    """Runs `pdserver` in a folder whose config.properties names free ports and a store."""

    def __init__(self, folder: Path, store: Path) -> None:
        self.folder = folder
        *ports, grpc_inference, grpc_management = free_ports(5)
        self.inference, self.management, self.metrics = (f"http://127.0.0.1:{port}" for port in ports)
        self.config = folder / "config.properties"
        self.config.write_text(
            f"inference_address={self.inference}\nmanagement_address={self.management}\n"
            f"metrics_address={self.metrics}\nmodel_store={store}\nload_models=all\n"
            f"grpc_inference_port={grpc_inference}\ngrpc_management_port={grpc_management}\n"
        )

    def __call__(self, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [PDSERVER, *arguments],
            cwd=self.folder,
            env={**clean_environment(), **environment},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=150,
            check=False,
        )


def servers(command: Command) -> set[int]:
    """The servers in the command's folder, with their nurseries and workers; this machine may have others."""
    there = {process.pid for process in psutil.process_iter() if cwd(process) == str(command.folder)}
    return there | {process.pid for process in psutil.process_iter(["ppid"]) if process.info["ppid"] in there}


def cwd(process: psutil.Process) -> str:
    """Empty when it can't be told."""
    try:
        return process.cwd()
    except psutil.Error:
        return ""
