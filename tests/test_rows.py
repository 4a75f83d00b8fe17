"""Which rows of a model's outputs are whose: real models behind every protocol."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from tritonclient import grpc as triton_grpc
from tritonclient import http as triton_http

from pdarchiver.pack import PackOptions, pack
from tests.running import RunningServer


def pack_model(store: Path, model: Path, config: str = "", name: str | None = None) -> None:
    name = name or model.name
    config_file = store.parent / f"{name}.yaml"
    config_file.write_text(config)
    file = model.with_suffix(".json")
    pack(PackOptions(model_name=name, version="1.0", serialized_file=file, config_file=config_file, export_path=store))


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, odd_models: Path) -> Iterator[RunningServer]:
    folder = tmp_path_factory.mktemp("rows")
    store = folder / "store"
    store.mkdir()
    pack_model(store, odd_models / "constant")
    with RunningServer(folder / "server", store) as server:
        yield server


def test_a_model_without_inputs_gives_what_it_gives(server: RunningServer) -> None:
    expected = [[0, 1, 2], [3, 4, 5]]
    answer = server.session.post(f"{server.inference}/v2/models/constant/infer", json={"inputs": []}, timeout=20).json()
    assert np.array(answer["outputs"][0]["data"]).reshape(answer["outputs"][0]["shape"]).tolist() == expected
    for client in (
        triton_http.InferenceServerClient(server.inference.removeprefix("http://")),
        triton_grpc.InferenceServerClient(server.grpc_inference),
    ):
        with client:
            assert client.infer("constant", []).as_numpy("fetch_name_0").tolist() == expected
