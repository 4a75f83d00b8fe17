"""A pipeline of tensors by every dialect and encoding by which a model is asked: equal answers."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import cast

import numpy as np
import pytest

from tests.dialects.paddle.conftest import PaddleServer
from tests.dialects.paddle.test_matrix import ROWS, WAYS, Ask
from tests.pipeline.test_served import pack_fit
from tests.running import RunningServer

PIPELINE = """
inputs: {features: "float32[-1, 13]"}
outputs: {price: twice.price}
batched: true
nodes:
  model: {archive: fit.pdar, inputs: {x: features}}
  twice:
    python: steps.py:twice
    inputs: {price: model.price}
    outputs: {price: "float32[-1, 1]"}
"""
STEPS = """
def twice(data, context):
    return [{"price": row["price"] * 2} for row in data]
"""
OTHERS = {"TorchServe, JSON", "TorchServe, gRPC", "C++ server, JSON with bytes"}
"""They expect a model's own form of an answer, or its own name for an input."""


@pytest.fixture(scope="module")
def server(fit_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[PaddleServer]:
    folder = tmp_path_factory.mktemp("dialects")
    own = folder / "store" / "uci"
    own.mkdir(parents=True)
    pack_fit(fit_model, folder).rename(own / "fit.pdar")
    (own / "pipeline.yaml").write_text(PIPELINE)
    (own / "steps.py").write_text(STEPS)
    with RunningServer(folder / "server", own.parent) as server:
        yield cast(PaddleServer, server)


@pytest.mark.parametrize("way", sorted(WAYS.keys() - OTHERS))
def test_every_way_gives_the_pipelines_answer(server: PaddleServer, fit_model: Path, way: str) -> None:
    weights = np.load(fit_model / "weights.npz")
    expected = 2 * (ROWS @ weights["w"] + weights["b"]).ravel()
    ask: Ask = WAYS[way]
    np.testing.assert_allclose(np.array(ask(server, ROWS), np.float32).ravel(), expected, rtol=1e-5)


def test_tensorflow_servings_grpc(server: PaddleServer, fit_model: Path) -> None:
    from pdserver.dialects.protos import message_class
    from tests.dialects.paddle.test_matrix import called

    weights = np.load(fit_model / "weights.npz")
    given = {"dtype": 1, "tensor_shape": {"dim": [{"size": 2}, {"size": 13}]}, "tensor_content": ROWS.tobytes()}
    asked = message_class("tensorflow.serving.PredictRequest")(
        model_spec={"name": "uci"}, inputs={"features": message_class("tensorflow.TensorProto")(**given)}
    )
    answer = called(server, "/tensorflow.serving.PredictionService/Predict", asked.SerializeToString())
    price = message_class("tensorflow.serving.PredictResponse").FromString(answer).outputs["price"]
    found = price.float_val or np.frombuffer(price.tensor_content, np.float32)
    np.testing.assert_allclose(np.ravel(found), 2 * (ROWS @ weights["w"] + weights["b"]).ravel(), rtol=1e-5)
