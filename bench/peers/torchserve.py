"""TorchServe with a handler that runs Paddle: a Java front end, Python workers."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import ClassVar

from bench.environments import COMMON, Environment, need
from bench.load import Target
from bench.paths import ROOT, WORK
from bench.peers.base import Configuration, Server, worker_environment
from bench.processes import Processes, free_ports
from bench.ways import PREDICTIONS, prediction_way
from bench.workloads import Workload

# It needs torch and pyyaml without saying so.
ENVIRONMENT = Environment(
    "torchserve", (*COMMON, "torchserve==0.12.0", "torch-model-archiver==0.12.0", "torch==2.13.0", "pyyaml")
)


class TorchServe:
    name: ClassVar[str] = "TorchServe"

    def build(self) -> None:
        need("java", "openjdk-17-jre-headless")
        ENVIRONMENT.build()

    def version(self) -> str:
        return ENVIRONMENT.version("torchserve")

    def start(self, workload: Workload, configuration: Configuration, folder: Path) -> Server:
        store = _pack(workload)
        folder.mkdir(parents=True, exist_ok=True)
        config = folder / "config.properties"
        *ports, grpc, grpc_management = free_ports(5)
        inference, management, metrics = (f"http://127.0.0.1:{port}" for port in ports)
        properties = _properties(workload, configuration, store, inference, management, metrics)
        config.write_text(f"{properties}grpc_inference_port={grpc}\ngrpc_management_port={grpc_management}\n")
        command = [str(ENVIRONMENT.bin / "torchserve"), "--start", "--foreground", "--ncs"]
        command += ["--ts-config", str(config), "--disable-token-auth"]
        environment = worker_environment(workload, configuration)
        environment["PATH"] = f"{ENVIRONMENT.bin}:{environment['PATH']}"
        # It keeps its pid there, and starts only once.
        environment["TMPDIR"] = str(folder)
        target = Target(f"{inference}/predictions/{workload.name}", workload.request_file, workload.content_type)
        ways = {PREDICTIONS: prediction_way(workload, folder, f"127.0.0.1:{grpc}")}
        return Server(Processes(command, folder, environment), target, workload.is_right, management, ways=ways)


def _properties(
    workload: Workload, configuration: Configuration, store: Path, inference: str, management: str, metrics: str
) -> str:
    settings = {
        "defaultVersion": True,
        "marName": f"{workload.name}.mar",
        "minWorkers": configuration.workers,
        "maxWorkers": configuration.workers,
        "batchSize": configuration.batch_size,
        "maxBatchDelay": configuration.max_batch_delay_ms or 1,
        "responseTimeout": 120,
    }
    properties = {
        "inference_address": inference,
        "management_address": management,
        "metrics_address": metrics,
        "model_store": str(store),
        "load_models": f"{workload.name}.mar",
        "models": json.dumps({workload.name: {"1.0": settings}}),
        # Its own defaults would refuse the large tensor.
        "max_request_size": str(64 << 20),
        "max_response_size": str(64 << 20),
    }
    return "".join(f"{key}={value}\n" for key, value in properties.items())


def _pack(workload: Workload) -> Path:
    store = WORK / "stores" / f"{workload.name}-torchserve"
    store.mkdir(parents=True, exist_ok=True)
    command = [str(ENVIRONMENT.bin / "torch-model-archiver"), "--model-name", workload.name, "--version", "1.0"]
    command += ["--handler", str(ROOT / "bench" / "serving" / "torchserve_handler.py")]
    command += ["--export-path", str(store), "--force"]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    return store
