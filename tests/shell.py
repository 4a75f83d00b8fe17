"""A reader's terminal: commands typed in a folder, and servers on ports that are free."""

from __future__ import annotations

import contextlib
import re
import subprocess
from collections.abc import Mapping
from pathlib import Path

import psutil

from tests.running import clean_environment, eventually, free_ports, lives

ADDRESSES = {
    "8080": ("PD_INFERENCE_ADDRESS", "http://127.0.0.1:"),
    "8081": ("PD_MANAGEMENT_ADDRESS", "http://127.0.0.1:"),
    "8082": ("PD_METRICS_ADDRESS", "http://127.0.0.1:"),
    "7070": ("PD_GRPC_INFERENCE_PORT", ""),
    "7071": ("PD_GRPC_MANAGEMENT_PORT", ""),
}
"""The ports that every server opens, the setting that moves each, and what its value begins with."""
NAMED = ("8000", "8001", "8002", "9393", "18082", "9998", "8500", "8501")
"""Ports that only commands name, in flags or in what they write: Triton's, Paddle Serving's, TensorFlow Serving's."""


class Shell:
    """Runs commands with bash in `folder`, where those of `bin` are found.

    A port of ADDRESSES or NAMED in a command stands for a free one, and is itself again in what the command printed.
    """

    def __init__(self, folder: Path, bin: Path) -> None:
        self.folder = folder
        ports = (*ADDRESSES, *NAMED)
        self._real = dict(zip(ports, map(str, free_ports(len(ports), foreign=True)), strict=True))
        environment = clean_environment()
        environment.pop("PD_FRONT_ENDS", None)  # the pages show what is printed by default
        environment.pop("PYTHONPATH", None)
        self._environment = environment | {
            "PATH": f"{bin}:{environment['PATH']}",
            "CURL_HOME": str(folder),
            **{name: f"{before}{self._real[port]}" for port, (name, before) in ADDRESSES.items()},
        }
        # On a terminal, curl shows no progress beside an answer; here it would.
        (folder / ".curlrc").write_text("silent\nshow-error\n")

    def run(self, command: str, timeout_seconds: float = 240) -> subprocess.CompletedProcess[str]:
        """Errors are among the output, as on a terminal."""
        done = subprocess.run(
            ["bash", "-o", "pipefail", "-c", self.real(command)],
            cwd=self.folder,
            env=self._environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=timeout_seconds,
            check=False,
        )
        done.stdout = _replace_ports(done.stdout, {real: port for port, real in self._real.items()})
        return done

    def real(self, text: str) -> str:
        """The text with the ports that are used in place of those that it shows."""
        return _replace_ports(text, self._real)

    def close(self) -> None:
        """Ends whatever still runs in the folder: the servers that were started and not stopped."""
        left = [process for process in psutil.process_iter() if _runs_in(process, self.folder)]
        for process in left:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.terminate()
        try:
            eventually(lambda: not any(map(lives, left)))
        finally:
            for process in filter(lives, left):
                process.kill()


def _replace_ports(text: str, ports: Mapping[str, str]) -> str:
    one_of = "|".join(ports)
    port = rf"(\b(?:localhost|127\.0\.0\.1|0\.0\.0\.0):|--(?:rest_api_)?port[ =]|\b(?:http|rpc)_port: )({one_of})\b"
    return re.sub(port, lambda match: f"{match[1]}{ports[match[2]]}", text)


def _runs_in(process: psutil.Process, folder: Path) -> bool:
    try:
        return Path(process.cwd()).is_relative_to(folder)
    except psutil.Error:
        return False
