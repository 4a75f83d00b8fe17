"""A server's processes: started, measured, and ended to the last one."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import time
from collections.abc import Iterable, Mapping
from pathlib import Path

import psutil

_STOP_SECONDS = 30.0


def free_ports(count: int) -> list[int]:
    """Different ports that nobody listens on now."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for sock in sockets:
            sock.bind(("127.0.0.1", 0))
        return [sock.getsockname()[1] for sock in sockets]


class Processes:
    """A command and all that it starts."""

    def __init__(self, command: list[str], folder: Path, environment: Mapping[str, str]) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.log_file = folder / "server.log"
        self.started = time.monotonic()
        with self.log_file.open("wb") as log:
            self._main = subprocess.Popen(
                command,
                cwd=folder,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                env=environment,
            )

    @property
    def pid(self) -> int:
        return self._main.pid

    def first(self) -> psutil.Process:
        """The command's own process: of pdserver and the floor, the front end. Raises RuntimeError if it has ended."""
        try:
            return psutil.Process(self.pid)
        except psutil.NoSuchProcess:
            raise RuntimeError(f"it has ended; its log ends:\n{self.log()}") from None

    def running(self) -> bool:
        return self._main.poll() is None

    def all(self) -> list[psutil.Process]:
        """Parents first."""
        with contextlib.suppress(psutil.NoSuchProcess):
            main = psutil.Process(self.pid)
            return [main, *main.children(recursive=True)]
        return []

    def log(self, characters: int = 2000) -> str:
        return self.log_file.read_text(errors="replace")[-characters:]

    def stop(self) -> None:
        """Ask all of them to end, as a terminal does, then kill them. Idempotent."""
        everyone = self.all()
        try:
            if self.running():
                # All of the group: TorchServe's launcher dies without stopping its server.
                os.killpg(self.pid, signal.SIGTERM)
            psutil.wait_procs(everyone, _STOP_SECONDS)
        finally:
            for process in everyone:
                with contextlib.suppress(psutil.NoSuchProcess):
                    process.kill()
            psutil.wait_procs(everyone, _STOP_SECONDS)
            self._main.wait()


def cpu_seconds(process: psutil.Process) -> float:
    """User and system time so far."""
    times = process.cpu_times()
    return float(times.user + times.system)


def proportional_bytes(processes: Iterable[psutil.Process]) -> int:
    """Memory, with what processes share divided among them (Pss)."""
    total = 0
    for process in processes:
        with contextlib.suppress(ProcessLookupError, FileNotFoundError):
            lines = Path(f"/proc/{process.pid}/smaps_rollup").read_text().splitlines()
            total += sum(int(line.split()[1]) * 1024 for line in lines if line.startswith("Pss:"))
    return total


def clean_environment() -> dict[str, str]:
    """This process's environment without variables that would configure one of the servers."""
    prefixes = ("PD_", "TS_", "MOSEC_", "LIT_", "OMP_", "OPENBLAS_", "MKL_", "PYTHONPATH", "VIRTUAL_ENV")
    return {name: value for name, value in os.environ.items() if not name.startswith(prefixes)}
