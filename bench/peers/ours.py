"""pdserver, as this checkout's environment has it, started by its own command with an archive of its own archiver."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import ClassVar

from bench.environments import CONVERT
from bench.load import Target
from bench.paddle_serving import paddle_ways
from bench.paths import WORK
from bench.peers.base import Configuration, Server, Way
from bench.processes import Processes, clean_environment, free_ports
from bench.tensorflow_serving import tensorflow_ways
from bench.ways import PREDICTIONS, REST, open_inference_ways, prediction_way
from bench.workloads import Workload

BIN = Path(sys.executable).parent
PROGRAM = (str(BIN / "pdserver"),)


class Ours:
    """pdserver with default settings, except for those of a configuration."""

    name: ClassVar[str] = "pdserver"

    def build(self) -> None:
        """Do nothing: the comparison runs in its environment."""

    def version(self) -> str:
        return metadata.version("pdserver")

    def start(
        self,
        workload: Workload,
        configuration: Configuration,
        folder: Path,
        settings: Mapping[str, str] | None = None,
        headers: Mapping[str, str] | None = None,
        program: Sequence[str] = PROGRAM,
    ) -> Server:
        """`settings` override those of config.properties; with a certificate among them, the inference port has TLS.
        `headers` are those of each request."""
        store = pack(workload, configuration)
        properties, addresses = settings_of(store, f"{workload.name}.pdar")
        inference, management, metrics = addresses["inference"], addresses["management"], addresses["metrics"]
        grpc = addresses["grpc_inference"]
        if settings and "certificate_file" in settings:
            inference = properties["inference_address"] = inference.replace("http:", "https:")
        properties |= settings or {}
        folder.mkdir(parents=True, exist_ok=True)
        config = folder / "config.properties"
        config.write_text("".join(f"{key}={value}\n" for key, value in properties.items()))
        inference = properties["inference_address"]
        command = [*program, "--start", "--foreground", "--pd-config", str(config)]
        target = Target(f"{inference}/predictions/{workload.name}", workload.request_file, workload.content_type)
        target = dataclasses.replace(target, headers=dict(headers or {}))
        ways = open_inference_ways(workload, folder, inference.partition("//")[2], grpc)
        ways[PREDICTIONS] = prediction_way(workload, folder, grpc)
        if workload.name == "fit":
            ways |= paddle_ways(workload, folder, target.url.split("/")[2], grpc)
        if workload.name in ("fit", "large"):
            ways |= tensorflow_ways(workload, folder, target.url.split("/")[2], grpc)
        ways[REST] = Way(target, workload.is_right)
        processes = Processes(command, folder, clean_environment())
        return Server(processes, target, workload.is_right, management, metrics, ways)


def settings_of(store: Path, models: str) -> tuple[dict[str, str], dict[str, str]]:
    """Those of a server of these models on free ports, and its addresses: inference, management, metrics,
    grpc_inference."""
    *ports, grpc_inference, grpc_management = free_ports(5)
    inference, management, metrics = (f"http://127.0.0.1:{port}" for port in ports)
    properties = {
        "inference_address": inference,
        "management_address": management,
        "metrics_address": metrics,
        "grpc_inference_port": str(grpc_inference),
        "grpc_management_port": str(grpc_management),
        "model_store": str(store),
        "load_models": models,
    }
    addresses = {"inference": inference, "management": management, "metrics": metrics}
    return properties, addresses | {"grpc_inference": f"127.0.0.1:{grpc_inference}"}


def wait_until_loaded(server: Server) -> None:
    """Wait until all models of the start are loaded. Raises RuntimeError if that takes minutes."""
    deadline = time.monotonic() + 180
    while "Model server started." not in server.processes.log_file.read_text():
        if time.monotonic() > deadline:
            raise RuntimeError(f"not all models are there; the log ends:\n{server.processes.log()}")
        time.sleep(0.1)


def pack(workload: Workload, configuration: Configuration) -> Path:
    """The model store with the workload's archive, configured. An `engine` needs the environment `CONVERT`."""
    store = WORK / "stores" / f"{workload.name}-{configuration}".replace(" ", "-").replace(",", "")
    store.mkdir(parents=True, exist_ok=True)
    settings = {
        "minWorkers": configuration.workers,
        "batchSize": configuration.batch_size,
        "maxBatchDelay": configuration.max_batch_delay_ms,
    }
    yaml = store.with_suffix(".yaml")
    lines = [f"{key}: {value}\n" for key, value in settings.items() if value]
    archiver, flags = BIN / "pd-model-archiver", []
    if configuration.engine:
        lines.append(f"predictor: {{engine: {configuration.engine}}}\n")
        archiver, flags = CONVERT.bin / "pd-model-archiver", ["--optimize"]
    yaml.write_text("".join(lines))
    command = [str(archiver), "--model-name", workload.name, "--version", "1.0", *flags]
    command += ["--serialized-file", str(workload.folder / "model.json"), "--handler", workload.handler]
    command += ["--config-file", str(yaml), "--export-path", str(store), "--force"]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return store
