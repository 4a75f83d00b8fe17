"""A pipeline of tensors by every dialect and encoding by which a model is asked: equal answers."""

from __future__ import annotations

import json
import threading
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest

from pdserver.dialects.protos import message_class
from tests.dialects.paddle.conftest import PaddleServer
from tests.dialects.paddle.test_matrix import ROWS, WAYS, Array, Ask, called, posted
from tests.pipeline.test_served import pack_fit
from tests.running import RunningServer, eventually

PIPELINE = """
inputs: {features: "float32[-1, 13]"}
outputs: {price: twice.price}
batched: true
nodes:
  model: {model: fit, inputs: {x: features}}
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
    pack_fit(fit_model, own.parent)
    (own / "pipeline.yaml").write_text(PIPELINE)
    (own / "steps.py").write_text(STEPS)
    with RunningServer(folder / "server", own.parent, settings={"paddle_serving_model": "uci"}) as server:
        yield cast(PaddleServer, server)


def torchserve(server: PaddleServer, rows: Array) -> Any:
    return posted(server, "/predictions/uci", {"features": rows.tolist()}).json()


def torchserve_grpc(server: PaddleServer, rows: Array) -> Any:
    package = "org.pytorch.serve.grpc.inference"
    asked = message_class(f"{package}.PredictionsRequest")(
        model_name="uci", input={"features": json.dumps(rows.tolist()).encode()}
    )
    answer = called(server, f"/{package}.InferenceAPIsService/Predictions", asked.SerializeToString())
    return json.loads(message_class(f"{package}.PredictionResponse").FromString(answer).prediction)


OWN_WAYS: dict[str, Ask] = {
    "TorchServe, JSON": torchserve,
    "TorchServe, gRPC": torchserve_grpc,
    **{way: WAYS[way] for way in sorted(WAYS.keys() - OTHERS)},
}


@pytest.fixture(scope="module")
def expected(fit_model: Path) -> Array:
    weights = np.load(fit_model / "weights.npz")
    return 2 * (ROWS @ weights["w"] + weights["b"]).ravel()  # type: ignore[no-any-return]


@pytest.mark.parametrize("way", OWN_WAYS)
def test_every_way_gives_the_pipelines_answer(server: PaddleServer, expected: Array, way: str) -> None:
    found = OWN_WAYS[way](server, ROWS)
    np.testing.assert_allclose(np.array(found, np.float32).ravel(), expected, rtol=1e-5)


def test_a_nodes_model_is_registered_anew_while_requests_flow_in_every_way(
    server: PaddleServer, fit_model: Path, expected: Array
) -> None:
    """Each answer is whole and its own request's, before, during and after."""
    store = Path(server.settings["model_store"])
    answered: Counter[str] = Counter()
    over = threading.Event()

    def flow(number: int, way: str) -> None:
        rows, wanted = (ROWS, expected) if number % 2 else (ROWS[::-1].copy(), expected[::-1])
        while not over.is_set():
            found = OWN_WAYS[way](server, rows)
            np.testing.assert_allclose(np.array(found, np.float32).ravel(), wanted, rtol=1e-5, err_msg=way)
            answered[way] += 1

    def all_ask_again(seen: Counter[str]) -> bool:
        gone = [each for each in flows if each.done()]
        assert not gone, [each.exception() for each in gone]
        return all(answered[way] >= seen[way] + 2 for way in OWN_WAYS)

    with ThreadPoolExecutor(len(OWN_WAYS)) as pool:
        flows = [pool.submit(flow, number, way) for number, way in enumerate(OWN_WAYS)]
        try:
            for old, new in (("1.0", "2.0"), ("2.0", "3.0")):
                pack_fit(fit_model, store, new, "batchSize: 8\n")
                for method, call in (
                    ("POST", f"/models?url=fit-{new}.pdar&initial_workers=1&synchronous=true"),
                    ("PUT", f"/models/fit/{new}/set-default"),
                    ("DELETE", f"/models/fit/{old}"),
                ):
                    seen = answered.copy()
                    assert server.manage(method, call).status_code == 200
                    eventually(partial(all_ask_again, seen))
        finally:
            over.set()
        for each in flows:
            each.result()
    assert server.describe("uci")["nodes"][0]["model"] == "fit/3.0"
