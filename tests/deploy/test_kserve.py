"""KServe's runtimes: each layout of /mnt/models, served with the arguments that its runtime has."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from tests.conftest import fit_file, pack_handler
from tests.deploy.tools import ROOT
from tests.running import PDSERVER, RunningServer
from tests.without_paddle import without_paddle as without_paddle

FOLDER = ROOT / "deploy" / "kserve"
RUNTIMES: dict[str, dict[str, Any]] = {
    runtime["metadata"]["name"]: runtime["spec"]
    for runtime in yaml.safe_load_all((FOLDER / "serving-runtimes.yaml").read_text())
}
ONE_ADDRESS = """
inference_address={server.inference}
management_address={server.inference}
metrics_address={server.metrics}
grpc_inference_port={grpc}
enable_metrics_api=true
metrics_format=prometheus
number_of_netty_threads=4
job_queue_size=10
enable_envvars_config=true
install_py_dep_per_model=true
model_store=/mnt/models/model-store
model_snapshot={{"name":"startup.cfg","modelCount":1,"models":{{"chaos":{{"1.0":{{"defaultVersion":true,\
"marName":"chaos.pdar","minWorkers":1,"maxWorkers":5,"batchSize":1,"maxBatchDelay":10,"responseTimeout":120}}}}}}}}
"""
"""As KServe's documentation has it for TorchServe."""


class Runtime(RunningServer):
    """The container of a runtime: its arguments, and the configuration of the image."""

    def __init__(self, name: str, folder: Path) -> None:
        (folder / "models").mkdir()
        super().__init__(folder / "server", folder / "models")
        self.folder_of_models = folder / "mnt" / "models"
        self.folder_of_models.mkdir(parents=True)
        [container] = RUNTIMES[name]["containers"]
        self._arguments = [
            argument.replace("{{.Name}}", "price")
            .replace("=/mnt", f"={folder}/mnt")
            .replace("http://0.0.0.0:8080", self.inference)
            for argument in container["args"]
        ]
        self._uses_the_images_configuration = not any("--ts-config" in argument for argument in self._arguments)

    def command(self) -> list[str]:
        """The management address and the gRPC ports are not to be those of other tests."""
        if self._uses_the_images_configuration:
            image = (ROOT / "docker" / "config.properties").read_text()
            own = {key: value for key, value in self.settings.items() if "management" in key or "port" in key}
            own["metrics_address"] = self.metrics
            lines = [line for line in image.splitlines() if not line.startswith("metrics_address")]
            lines = [line.replace("=/models", f"={self.settings['model_store']}") for line in lines]
            self.config.write_text("\n".join([*lines, *(f"{key}={value}" for key, value in own.items())]))
            return [PDSERVER, *self._arguments, "--foreground", "--pd-config", str(self.config)]
        return [
            PDSERVER,
            *self._arguments,
            "--foreground",
            "--grpc-management-port",
            self.grpc_management.split(":")[1],
        ]


def bare(models: Path, fit: Path) -> None:
    shutil.copy(fit, models / f"model{fit.suffix}")
    shutil.copy(fit.with_suffix(".pdiparams"), models / "model.pdiparams")


def repository(models: Path, fit: Path) -> None:
    (models / "price" / "1").mkdir(parents=True)
    bare(models / "price" / "1", fit)


@pytest.mark.parametrize(("name", "fill"), [("pdserver", bare), ("pdserver-repository", repository)])
def test_a_model_as_paddle_saves_it(
    name: str, fill: Callable[[Path, Path], None], tmp_path: Path, fit_model: Path
) -> None:
    runtime = Runtime(name, tmp_path)
    fill(runtime.folder_of_models, fit_file(fit_model))
    row = np.linspace(-1, 1, 13, dtype=np.float32)
    weights = np.load(fit_model / "weights.npz")
    with runtime as server:
        headers = {"Host": "price-default.example.com"}
        ready = server.session.get(f"{server.inference}/v1/models/price", headers=headers, timeout=60).json()
        assert ready["ready"] is True
        body = {"inputs": [{"name": "x", "shape": [1, 13], "datatype": "FP32", "data": row.tolist()}]}
        answer = server.session.post(
            f"{server.inference}/v2/models/price/infer", json=body, headers=headers, timeout=60
        )
        expected = (row @ weights["w"] + weights["b"]).item()
        assert answer.json()["outputs"][0]["data"] == pytest.approx([expected], rel=1e-4)
        assert server.session.get(f"{server.metrics}/metrics", headers=headers, timeout=60).ok


@pytest.mark.usefixtures("without_paddle")
def test_a_model_store(tmp_path: Path) -> None:
    runtime = Runtime("pdserver-archives", tmp_path)
    store = runtime.folder_of_models / "model_store"
    store.mkdir()
    pack_handler(store, "chaos")
    with runtime as server:
        assert server.predict("chaos", json={"nonce": 3}).json()["nonce"] == 3


@pytest.mark.usefixtures("without_paddle")
def test_torchserves_layout_with_inference_and_management_at_one_address(tmp_path: Path) -> None:
    runtime = Runtime("pdserver-torchserve", tmp_path)
    models = runtime.folder_of_models
    (models / "model-store").mkdir()
    (models / "config").mkdir()
    pack_handler(models / "model-store", "chaos")
    text = ONE_ADDRESS.format(server=runtime, grpc=runtime.grpc_inference.split(":")[1])
    (models / "config" / "config.properties").write_text(text.replace("/mnt/models", str(models)))
    with runtime as server:
        assert server.predict("chaos", json={"nonce": 3}).json()["nonce"] == 3
        described = server.session.get(f"{server.inference}/models/chaos", timeout=60).json()
        assert described[0]["maxWorkers"] == 5
        listed = server.session.get(f"{server.inference}/models", timeout=60).json()
        assert [model["modelName"] for model in listed["models"]] == ["chaos"]


@pytest.mark.parametrize("name", RUNTIMES)
def test_what_a_runtime_promises(name: str) -> None:
    [container] = RUNTIMES[name]["containers"]
    assert container["name"] == "kserve-container"  # KServe looks for it
    assert container["securityContext"]["readOnlyRootFilesystem"] is True
    assert {mount["mountPath"] for mount in container["volumeMounts"]} == {"/var/lib/pdserver", "/tmp"}
    assert container["args"][0] == "--start"


def test_the_example_names_a_runtime_and_a_format_that_it_has() -> None:
    service = yaml.safe_load((FOLDER / "inference-service.yaml").read_text())
    model = service["spec"]["predictor"]["model"]
    formats = [known["name"] for known in RUNTIMES[model["runtime"]]["supportedModelFormats"]]
    assert model["modelFormat"]["name"] in formats
