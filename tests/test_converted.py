"""What paddle2onnx makes of a model is served by other engines: with Paddle's answers."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator, Mapping
from importlib import metadata
from pathlib import Path

import numpy as np
import pytest
import requests
import yaml

from pdarchiver import archive, onnx_model
from pdarchiver.optimize import FILE
from tests.converter import PACKAGES
from tests.converter import converter as converter
from tests.handlers.conftest import models as models
from tests.running import BIN, RunningServer

ENGINES = ("paddle", "onnxruntime", "openvino")


@pytest.fixture(scope="module")
def store(converter: Mapping[str, str], models: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`digits` for each engine, each packed and converted by the command."""
    store = tmp_path_factory.mktemp("converted") / "store"
    started = []
    for engine in ENGINES:
        config = store.parent / f"{engine}.yaml"
        config.write_text(yaml.safe_dump({"batchSize": 4, "predictor": {"engine": engine}}))
        flags = ["--model-name", engine, "--version", "1.0", "--export-path", str(store), "--config-file", str(config)]
        flags += ["--handler", "base_handler", "--serialized-file", str(models / "pir" / "digits.json")]
        flags += [] if engine == "paddle" else ["--optimize"]
        command = [str(BIN / "pd-model-archiver"), *flags]
        started.append(subprocess.Popen(command, env=dict(converter), stdout=subprocess.PIPE, text=True))
    for process, engine in zip(started, ENGINES, strict=True):
        said, _ = process.communicate(timeout=100)
        assert process.returncode == 0, said
        assert (f"put {FILE} (made by paddle2onnx " in said) == (engine != "paddle")
    return store


@pytest.fixture(scope="module")
def server(store: Path) -> Iterator[RunningServer]:
    with RunningServer(store.parent / "server", store) as server:
        yield server


def test_the_archive_has_both_forms(store: Path, tmp_path: Path) -> None:
    found = archive.verify(store / "onnxruntime.pdar")
    assert {"digits.json", "digits.pdiparams", FILE} <= found.files.keys()
    [engine] = found.engines
    assert (engine.file, engine.inputs, engine.outputs) == (FILE, ("image",), ("fetch_name_0",))
    made_by = dict(package.split("==") for package in PACKAGES if package.startswith("paddle2onnx"))
    assert engine.made_by == {**made_by, "paddlepaddle": metadata.version("paddlepaddle")}
    archive.unpack(store / "onnxruntime.pdar", tmp_path / "unpacked")
    assert onnx_model.read(tmp_path / "unpacked" / FILE).signature == found.signature


@pytest.mark.parametrize("engine", ENGINES)
def test_every_engine_gives_the_layers_answers(server: RunningServer, models: Path, engine: str) -> None:
    known = np.load(models / "pir" / "digits.npz")
    images, scores = known["images"], known["scores"]
    assert server.describe(engine)["engine"] == engine
    given = {"name": "image", "datatype": "FP32", "shape": images.shape, "data": images.ravel().tolist()}
    answer = requests.post(f"{server.inference}/v2/models/{engine}/infer", json={"inputs": [given]}, timeout=60)
    assert answer.status_code == 200, answer.text
    [output] = answer.json()["outputs"]
    np.testing.assert_allclose(np.reshape(output["data"], output["shape"]), scores, rtol=1e-4, atol=1e-6)
    [said] = server.predict(engine, json={"image": images[0].tolist()}).json().values()
    np.testing.assert_allclose(said, scores[0], rtol=1e-4, atol=1e-6)
