"""A real cluster on several Ray machines, as `pdserver cluster start` makes it, for as long as tests need it."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import requests

from pdarchiver.pipeline.packing import PipelineOptions, pack_pipeline
from tests.cluster.nodes import Machines
from tests.conftest import pack_handler
from tests.running import PDSERVER, clean_environment
from tests.without_paddle import no_paddle

SOON_SECONDS = 120.0
"""More than anything takes, on a busy machine as well."""


class Joined(Protocol):
    """The machines of a Ray cluster."""

    @property
    def address(self) -> str:
        """HOST:PORT of the Ray cluster."""

    @property
    def host(self) -> str:
        """Where the head is reached."""

    def ports(self) -> list[int]:
        """Five free ones of the head."""

    def command(self, *words: str) -> list[str]:
        """A command line that runs these words on the head."""


class AnyCluster:
    """`inference`, `management` and `metrics` are URLs, `grpc` and `grpc_management` are host:port: those of the whole
    cluster."""

    def __init__(
        self,
        folder: Path,
        ray: Joined,
        settings: Mapping[str, str] | None = None,
        scheme: str = "http",
    ) -> None:
        self.folder = folder
        self.store = folder / "store"
        self.store.mkdir()
        *ports, grpc, grpc_management = ray.ports()
        self.inference, self.management, self.metrics = (f"{scheme}://{ray.host}:{port}" for port in ports)
        self.grpc, self.grpc_management = f"{ray.host}:{grpc}", f"{ray.host}:{grpc_management}"
        self.config = folder / "config.properties"
        given = {
            "inference_address": self.inference,
            "management_address": self.management,
            "metrics_address": self.metrics,
            "grpc_inference_address": ray.host,
            "grpc_management_address": ray.host,
            "grpc_inference_port": str(grpc),
            "grpc_management_port": str(grpc_management),
            "model_store": str(self.store),
            "state_location": str(folder / "state"),
            "log_location": str(folder / "logs"),
            **(settings or {}),
        }
        self.config.write_text("".join(f"{key}={value}\n" for key, value in given.items()))
        self.session = requests.Session()
        self.session.trust_env = False  # the authorities are those that a test names
        self.ray = ray

    def command(self, *words: str, seconds: float = SOON_SECONDS) -> subprocess.CompletedProcess[str]:
        """`pdserver cluster …`."""
        line = self.ray.command(PDSERVER, "cluster", *words, "--address", self.ray.address)
        return subprocess.run(
            line, cwd=self.folder, env=self._environment(), capture_output=True, text=True, timeout=seconds
        )

    def start(self, *words: str) -> None:
        done = self.command("start", "--pd-config", str(self.config), *words)
        assert done.returncode == 0, done.stdout + done.stderr

    def stop(self) -> None:
        """Nothing of it is left then but the machines."""
        self.session.close()
        done = self.command("stop")
        assert done.returncode == 0, done.stdout + done.stderr

    @staticmethod
    def _environment() -> dict[str, str]:
        return {**clean_environment(), "RAY_USAGE_STATS_ENABLED": "0"}

    # Management

    def manage(self, method: str, path: str, **how: Any) -> requests.Response:
        how.setdefault("timeout", SOON_SECONDS)
        return self.session.request(method, self.management + path, **how)

    def pack(self, name: str, factor: int, version: str = "1.0", config: str = "", size: int = 0) -> Path:
        """An archive of `tests/zoo/times.py` in the store, as NAME-VERSION.pdar, with so many bytes besides."""
        ballast = self.folder / "ballast"
        ballast.write_bytes(os.urandom(size))
        config = f"factor: {factor}\nminWorkers: 1\n{config}"
        extra = {"extra_files": (str(ballast),)} if size else {}
        made = pack_handler(self.store, "times", name, version, config, **extra)
        return made.rename(self.store / f"{name}-{version}.pdar")

    def pack_pipeline(self, name: str, model: str) -> Path:
        """One in the store, as NAME-1.0.pdar, that answers what the model does."""
        file = self.folder / f"{name}.yaml"
        file.write_text(
            'batched: true\ninputs: {x: "float64[-1, 1]"}\noutputs: {y: all.y}\n'
            f"nodes: {{all: {{model: {model}, inputs: {{x: x}}}}}}\n"
        )
        options = PipelineOptions(model_name=name, version="1.0", pipeline=file, export_path=self.store, force=True)
        return pack_pipeline(options).path.rename(self.store / f"{name}-1.0.pdar")

    def register_pipeline(self, name: str, model: str, **parameters: object) -> None:
        """As `register`."""
        archive = self.pack_pipeline(name, model)
        answer = self.manage("POST", "/models", params={"url": archive.name, "synchronous": "true", **parameters})
        assert answer.status_code == 200, answer.text

    def register(self, name: str, factor: int, version: str = "1.0", **parameters: object) -> None:
        """Returns when all copies serve."""
        archive = self.pack(name, factor, version)
        answer = self.manage("POST", "/models", params={"url": archive.name, "synchronous": "true", **parameters})
        assert answer.status_code == 200, answer.text

    def is_managed(self) -> bool:
        """Whether the controller answers, and knows the nodes."""
        with contextlib.suppress(requests.ConnectionError):
            return self.manage("GET", "/models").status_code == 200
        return False

    def unregister_all(self) -> None:
        names = [model["modelName"] for model in self.manage("GET", "/models?limit=1000").json()["models"]]
        names.sort(key=lambda name: -len(self.described(name)["copies"].get("asks", ())))  # pipelines first
        for name in names:
            answer = self.manage("DELETE", f"/models/{name}")
            assert answer.status_code == 200, answer.text

    def status(self) -> dict[str, Any]:
        """As `pdserver cluster status --json` says it."""
        found: dict[str, Any] = json.loads(self.command("status", "--json").stdout)
        return found

    def described(self, name: str, version: str = "") -> dict[str, Any]:
        answer = self.manage("GET", f"/models/{name}/{version}".rstrip("/"))
        assert answer.status_code == 200, answer.text
        found: dict[str, Any] = answer.json()[0]
        return found

    def ready_on(self, name: str, version: str = "") -> set[str]:
        """The ids of the nodes where copies of the version are ready."""
        copies = self.described(name, version)["copies"]["nodes"]
        return {copy["node"] for copy in copies if copy["status"] == "READY"}

    def worker_pids(self, name: str) -> set[int]:
        return {worker["pid"] for worker in self.described(name)["workers"]}

    def nodes(self) -> dict[str, dict[str, str]]:
        """The addresses of the nodes that answer, by their ids."""
        return {each["node"]: each["status"]["addresses"] for each in self.status()["nodes"] if not each["lost"]}


class RunningCluster(AnyCluster):
    """On machines that have the address of this one, and nobody needs a token."""

    def __init__(
        self, folder: Path, machines: Sequence[Mapping[str, str]], settings: Mapping[str, str] | None = None
    ) -> None:
        """`machines` are as those of `Machines`."""
        self.machines = Machines(*machines)
        super().__init__(folder, self.machines, {"disable_token_authorization": "true", **(settings or {})})

    def close(self) -> None:
        """Nothing of it is left then."""
        try:
            self.stop()
        finally:
            self.machines.close()


@contextlib.contextmanager
def running_cluster(folder: Path, machines: int, settings: Mapping[str, str] | None = None) -> Iterator[RunningCluster]:
    """Its servers find no Paddle, as it takes long to load."""
    (folder / "site").mkdir()
    with no_paddle(folder / "site"):
        cluster = RunningCluster(folder, [{}] * machines, settings)
        try:
            cluster.start()
            yield cluster
        finally:
            cluster.close()
