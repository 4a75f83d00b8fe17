"""Two networks by every engine and every dialect: equal answers, those of Paddle's own layers.

Each network in each form and with each engine is a version of `uci`, and the default one while it is asked.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import requests
import yaml

from pdarchiver import signature
from pdarchiver.pack import PackOptions, pack
from tests.dialects.paddle.conftest import PaddleServer
from tests.dialects.paddle.test_matrix import WAYS
from tests.handlers.engine_files import INPUTS, paddles_answers
from tests.handlers.engine_files import both as both

NETWORKS = ("layers", "digits")
ENGINES = (("paddle", ".pdmodel"), ("openvino", ".pdmodel"), ("openvino", ".onnx"), ("onnxruntime", ".onnx"))
CASES = {(name, *engine): f"{i}.0" for i, (name, engine) in enumerate((n, e) for n in NETWORKS for e in ENGINES)}
"""Network, engine and form → the version."""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, both: Path) -> Iterator[PaddleServer]:
    folder = tmp_path_factory.mktemp("agree")
    (folder / "store").mkdir()
    for (name, engine, form), version in CASES.items():
        packed(folder, both / f"{name}{form}", engine, version)
    with PaddleServer(folder / "server", folder / "store", "all", {"paddle_serving_model": "uci"}) as server:
        yield server


def packed(folder: Path, model: Path, engine: str, version: str) -> None:
    """With the public names that every way asks for."""
    own = signature.read(model).signature
    config = folder / "uci.yaml"
    names = {"inputs": {own.inputs[0].source: "features"}, "outputs": {own.outputs[0].source: "price"}}
    config.write_text(yaml.safe_dump({**names, "batchSize": 4, "predictor": {"engine": engine}}))
    options = PackOptions(
        model_name="uci", version=version, serialized_file=model, config_file=config, export_path=folder
    )
    pack(options).rename(folder / "store" / f"{version}.pdar")


@pytest.fixture(scope="module", params=CASES, ids=" ".join)
def network(request: pytest.FixtureRequest, server: PaddleServer) -> str:
    """The network that is asked."""
    name, engine, _ = request.param
    url = f"{server.management}/models/uci/{CASES[request.param]}"
    requests.put(f"{url}/set-default", timeout=60).raise_for_status()
    [said] = requests.get(url, timeout=60).json()
    assert said["engine"] == engine
    server.own_input = next(iter(INPUTS[name]))
    return str(name)


@pytest.mark.parametrize("way", WAYS)
def test_every_way_gives_paddles_answer(server: PaddleServer, both: Path, network: str, way: str) -> None:
    """And the same class is the likeliest."""
    (rows,), (expected,) = INPUTS[network].values(), paddles_answers(both, network)
    found = np.array(WAYS[way](server, rows[:2]), np.float32).reshape(2, -1)
    np.testing.assert_allclose(found, expected[:2], rtol=1e-4, atol=1e-6)
    np.testing.assert_array_equal(found.argmax(1), expected[:2].argmax(1))
