"""A server that TensorFlow Serving's command line starts, and base paths for it."""

from __future__ import annotations

import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from types import TracebackType
from typing import Any

import requests

from tests.conftest import MadeOnce, run_script
from tests.running import START_SECONDS, clean_environment, eventually, free_ports

VERSIONS = """
import sys, numpy as np, paddle
for version in range(1, 6):
    layer = paddle.nn.Linear(1, 1)
    layer.weight.set_value(np.full((1, 1), 0.5, "float32"))
    layer.bias.set_value(np.full(1, version, "float32"))
    layer.eval()
    spec = [paddle.static.InputSpec([None, 1], "float32", "x")]
    paddle.jit.save(paddle.jit.to_static(layer, input_spec=spec), f"{sys.argv[1]}/{version}/model")
"""


def made_versions(made_once: MadeOnce) -> Path:
    """A folder with the versions 1 to 5 of a regression, each in a folder: 0.5 x + version."""
    return made_once("tfserving-versions", lambda folder: run_script("-c", VERSIONS, folder))


class Site:
    """`made` has the versions. `models.config` is the configuration that the server follows."""

    def __init__(self, folder: Path, made: Path) -> None:
        self.folder = folder
        self.made = made
        self.config = folder / "models.config"
        self.log_file = folder / "server.log"
        self.process: subprocess.Popen[bytes] | None = None
        self.grpc_port, self.port = free_ports(2, foreign=True)

    def put(self, version: int, to: str = "fit", name: str = "") -> Path:
        """Copy a version to the base path `to`, whole."""
        part = self.folder / to / f"{name or version}.part"
        shutil.copytree(self.made / str(version), part)
        return part.rename(part.with_suffix(""))

    def write(self, *configs: str) -> None:
        """Configure the models, in one step."""
        new = self.config.with_suffix(".new")
        new.write_text("model_config_list {" + "".join(f" config {{ {config} }}" for config in configs) + "}")
        new.rename(self.config)

    def model(self, name: str, more: str = "") -> str:
        return f'name: "{name}" base_path: "{self.folder / name}" {more}'

    def start(self, *arguments: str, **environment: str) -> Site:
        ports = [f"--port={self.grpc_port}", "--rest_api_port", str(self.port)]
        with self.log_file.open("wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "pdserver.tensorflow_model_server", *ports, *arguments],
                cwd=self.folder, stdout=log, stderr=log, stdin=subprocess.DEVNULL,
                env=clean_environment() | environment,
            )  # fmt: skip
        eventually(self._started, START_SECONDS)
        return self

    def _started(self) -> bool:
        assert self.process is not None
        assert self.process.poll() is None, self.log()
        return "Model server started." in self.log()

    def __enter__(self) -> Site:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        assert self.process is not None
        self.process.send_signal(signal.SIGTERM)
        assert self.process.wait(60) == 0, self.log()

    def log(self) -> str:
        return self.log_file.read_text(errors="replace")

    def logged(self, words: str, seconds: float = 30.0) -> None:
        eventually(lambda: words in self.log(), seconds)

    def address(self, port: str) -> str:
        """Where one of the server's other ports is."""
        [found] = re.findall(rf"^{port} +(\S+)", self.log(), re.MULTILINE)
        return str(found)

    def ask(self, where: str = "fit") -> Any:
        """The version that answers, or the error: `where` is a model, and perhaps /versions/N or /labels/L."""
        answer = requests.post(
            f"http://127.0.0.1:{self.port}/v1/models/{where}:predict", json={"instances": [[4.0]]}, timeout=60
        )
        said = answer.json()
        return round(said["predictions"][0][0] - 2.0) if answer.status_code == 200 else said["error"]

    def metrics(self) -> str:
        answer = requests.get(f"http://127.0.0.1:{self.port}/monitoring/prometheus/metrics", timeout=60)
        assert answer.status_code == 200
        assert answer.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
        return answer.text

    def states(self, model: str = "fit") -> dict[int, str]:
        answer = requests.get(f"http://127.0.0.1:{self.port}/v1/models/{model}", timeout=60).json()
        return {int(each["version"]): each["state"] for each in answer.get("model_version_status", ())}

    def status(self, model: str, version: int) -> dict[str, str]:
        answer = requests.get(f"http://127.0.0.1:{self.port}/v1/models/{model}/versions/{version}", timeout=60)
        status: dict[str, str] = answer.json()["model_version_status"][0]["status"]
        return status

    def reaches(self, states: dict[int, str], model: str = "fit") -> None:
        """Wait until the versions of a model are in these states."""
        eventually(lambda: self.states(model) == states)

    def answers(self, version: int, where: str = "fit") -> None:
        """Wait until this version answers."""
        eventually(lambda: self.ask(where) == version)
