"""Engines in workers: the answers of Paddle through two dialects, on a machine without Paddle."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import requests
import yaml

from pdarchiver.pack import PackOptions, pack
from tests.handlers.engine_files import INPUTS, paddles_answers
from tests.handlers.engine_files import both as both
from tests.running import RunningServer
from tests.without_paddle import running_without_paddle

DATATYPES = {"float32": "FP32", "int64": "INT64", "bool": "BOOL"}
LIBRARIES = {"openvino": "libopenvino", "onnxruntime": "onnxruntime_pybind11_state"}
PACKED = [(name, engine) for name in ("linear", "digits", "words") for engine in LIBRARIES]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, both: Path) -> Iterator[RunningServer]:
    folder = tmp_path_factory.mktemp("engines")
    for name, engine in PACKED:
        packed(folder / "store", both / f"{name}{'.pdmodel' if engine == 'openvino' else '.onnx'}", engine)
    packed(folder / "store", both / "doubled.onnx", "auto")
    with running_without_paddle(folder, folder / "store") as started:
        yield started


def packed(store: Path, model: Path, engine: str) -> None:
    store.mkdir(exist_ok=True)
    config = store.parent / f"{model.stem}-{engine}.yaml"
    settings = {"batchSize": 8, "predictor": {"engine": engine}}
    config.write_text(yaml.safe_dump(settings))
    name = f"{model.stem}-{engine}"
    pack(
        PackOptions(
            model_name=name, version="1.0", handler="base_handler", serialized_file=model, config_file=config,
            export_path=store,
        )
    )  # fmt: skip


@pytest.mark.parametrize(("name", "engine"), PACKED)
def test_the_answers_are_paddles_in_two_dialects(server: RunningServer, both: Path, name: str, engine: str) -> None:
    """TorchServe's and the Open Inference Protocol's; the worker has its engine alone, and runs requests together."""
    inputs, wanted = INPUTS[name], paddles_answers(both, name)
    model = f"{name}-{engine}"
    tensors = [
        {"name": key, "datatype": DATATYPES[str(array.dtype)], "shape": array.shape, "data": array.ravel().tolist()}
        for key, array in inputs.items()
    ]
    answer = requests.post(f"{server.inference}/v2/models/{model}/infer", json={"inputs": tensors}, timeout=60)
    assert answer.status_code == 200, answer.text
    for output, expected in zip(answer.json()["outputs"], wanted, strict=True):
        found = np.reshape(output["data"], output["shape"])
        assert output["datatype"] == DATATYPES[str(expected.dtype)]
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-6)
    row: Any = {key: array[0].tolist() for key, array in inputs.items()}
    said = server.predict(model, json=row if len(row) > 1 else next(iter(row.values()))).json()
    for one, expected in zip(said.values(), wanted, strict=True):
        np.testing.assert_allclose(np.array(one), expected[0], rtol=1e-4, atol=1e-6)
    assert server.describe(model)["engine"] == engine
    assert requests.get(f"{server.inference}/v2/models/{model}/config", timeout=60).json()["max_batch_size"] == 8
    assert server.metric("pd_model_engine_info", model_name=model, engine=engine) == 1
    config = requests.get(f"{server.inference}/v2/models/{model}/config", timeout=60).json()
    accelerators = {"cpu_execution_accelerator": [{"name": engine, "parameters": {}}]}
    assert config["optimization"] == {"execution_accelerators": accelerators}
    [pid] = server.pids(model)
    maps = Path(f"/proc/{pid}/maps").read_text()
    assert LIBRARIES[engine] in maps
    assert not any(other in maps for other in ("libpaddle", *(set(LIBRARIES.values()) - {LIBRARIES[engine]})))


def test_an_engine_that_cannot_load_a_model_gives_way(server: RunningServer) -> None:
    server.logged("doubled.onnx: going on without onnxruntime, with openvino")
    [pid] = server.pids("doubled-auto")
    assert "libopenvino" in Path(f"/proc/{pid}/maps").read_text()
    tensor = {"name": "x", "datatype": "BF16", "shape": [1, 3]}
    given = np.array([1, -0.5, 3.140625], np.float32)
    half = (given.view(np.uint32) >> 16).astype("<u2").tobytes()
    head = json.dumps(
        {"inputs": [{**tensor, "parameters": {"binary_data_size": 6}}],
         "outputs": [{"name": "y", "parameters": {"binary_data": True}}]}
    ).encode()  # fmt: skip
    answer = requests.post(
        f"{server.inference}/v2/models/doubled-auto/infer",
        head + half,
        headers={"Inference-Header-Content-Length": str(len(head))},
        timeout=60,
    )
    assert answer.status_code == 200, answer.text
    doubled = np.frombuffer(answer.content[-6:], "<u2").astype(np.uint32) << 16
    np.testing.assert_allclose(doubled.view(np.float32), 2 * given, rtol=2**-8)


def test_what_no_operation_takes_is_the_clients_fault(server: RunningServer) -> None:
    tensors = [
        {"name": "ids", "datatype": "INT64", "shape": [1, 1], "data": [10]},
        {"name": "flag", "datatype": "BOOL", "shape": [1], "data": [True]},
        {"name": "weight", "datatype": "FP32", "shape": [1], "data": [1]},
    ]
    for engine in LIBRARIES:
        url = f"{server.inference}/v2/models/words-{engine}/infer"
        answer = requests.post(url, json={"inputs": tensors}, timeout=60)
        assert answer.status_code == 400, answer.text


FAILS = """
from pdserver.handlers.base import BaseHandler
from pdserver.handlers.runtime.engines import onnxruntime

class Fails(BaseHandler):
    def initialize(self, context):
        super().initialize(context)

        def run(model, inputs):
            raise RuntimeError("it cannot")

        onnxruntime.OnnxRuntimeModel.run = run
"""


def test_the_description_names_the_engine_that_took_over_in_a_first_request(
    server: RunningServer, both: Path, tmp_path: Path
) -> None:
    (tmp_path / "fails.py").write_text(FAILS)
    config = tmp_path / "fails.yaml"
    config.write_text("predictor: {engine_trial: false}\n")
    pack(
        PackOptions(
            model_name="fails", version="1.0", handler=str(tmp_path / "fails.py"), config_file=config,
            serialized_file=both / "linear.onnx", export_path=Path(server.settings["model_store"]),
        )
    )  # fmt: skip
    assert server.manage("POST", "/models?url=fails.pdar&initial_workers=1&synchronous=true").ok
    assert server.describe("fails")["engine"] == "onnxruntime"
    answer = server.predict("fails", json=INPUTS["linear"]["x"][0].tolist())
    assert answer.status_code == 200, answer.text
    described = server.describe("fails")
    assert (described["engine"], described["workers"][0]["engine"]) == ("openvino", "openvino")
    assert server.metric("pd_model_engine_info", model_name="fails", engine="openvino") == 1
