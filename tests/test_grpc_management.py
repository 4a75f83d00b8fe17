"""TorchServe's management API over gRPC, as its clients use it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from grpc import StatusCode

from tests.conftest import Lent, pack_handler
from tests.grpc_client import Client, prediction, refusal
from tests.running import RunningServer, eventually


@pytest.fixture
def server(lent: Lent) -> RunningServer:
    pack_handler(lent.store, "chaos", version="2.0").rename(lent.store / "chaos2.pdar")
    for name in ("chaos", "mirror", "broken_load"):
        pack_handler(lent.store, name)
    return lent.server


@pytest.fixture
def client(server: RunningServer) -> Iterator[Client]:
    with Client(server) as client:
        yield client


def described(client: Client, model: str, **fields: object) -> list[dict[str, Any]]:
    models: list[dict[str, Any]] = json.loads(client.manage("DescribeModel", model_name=model, **fields))
    return models


def test_register_scale_describe_unregister(client: Client, server: RunningServer) -> None:
    said = client.manage("RegisterModel", url="chaos.pdar", initial_workers=1, synchronous=True, batch_size=3)
    assert said == 'Model "chaos" Version: 1.0 registered with 1 initial workers'
    assert client.ask(nonce=1)["nonce"] == 1
    [model] = described(client, "chaos")
    assert (model["modelName"], model["batchSize"], len(model["workers"])) == ("chaos", 3, 1)
    assert [model] == [{**server.describe("chaos"), "workers": model["workers"]}]

    said = client.manage("ScaleWorker", model_name="chaos", min_worker=2, synchronous=True)
    assert said == "Workers scaled to 2 for model: chaos"
    assert len(server.pids("chaos")) == 2
    assert client.manage("ScaleWorker", model_name="chaos", min_worker=1) == "Processing worker updates..."
    eventually(lambda: len(server.pids("chaos")) == 1)

    assert client.manage("UnregisterModel", model_name="chaos") == 'Model "chaos" unregistered'
    assert refusal(client.ask)[0] == StatusCode.NOT_FOUND
    assert json.loads(client.manage("ListModels")) == {"models": []}


def test_registering_is_asynchronous_unless_asked_otherwise(client: Client) -> None:
    assert client.manage("RegisterModel", url="chaos.pdar", model_name="other") == "Processing worker updates..."
    eventually(lambda: described(client, "other")[0]["status"] == "READY")
    assert json.loads(client.predict(prediction("other", body=b"{}")))["batch"] == 1


def test_zero_is_a_number_of_workers(client: Client) -> None:
    said = client.manage("RegisterModel", url="chaos.pdar", initial_workers=0)
    assert "registered with 0 initial workers" in said
    assert refusal(client.ask)[0] == StatusCode.UNAVAILABLE
    client.manage("ScaleWorker", model_name="chaos", min_worker=1, synchronous=True)
    said = client.manage("ScaleWorker", model_name="chaos", min_worker=0, max_worker=0, synchronous=True)
    assert said == "Workers scaled to 0 for model: chaos"
    assert described(client, "chaos")[0]["workers"] == []


def test_versions_and_the_default(client: Client) -> None:
    for url in ("chaos.pdar", "chaos2.pdar"):
        client.manage("RegisterModel", url=url, synchronous=True)
    assert described(client, "chaos")[0]["modelVersion"] == "1.0"
    assert described(client, "chaos", model_version="2.0")[0]["modelVersion"] == "2.0"
    assert [model["modelVersion"] for model in described(client, "chaos", model_version="all")] == ["1.0", "2.0"]
    said = client.manage("SetDefault", model_name="chaos", model_version="2.0")
    assert said == 'Default version successfully updated for model "chaos" to "2.0"'
    assert described(client, "chaos")[0]["modelVersion"] == "2.0"
    code, words = refusal(lambda: client.manage("UnregisterModel", model_name="chaos"))
    assert code == StatusCode.PERMISSION_DENIED
    assert "default" in words
    client.manage("UnregisterModel", model_name="chaos", model_version="1.0")
    assert [model["modelVersion"] for model in described(client, "chaos", model_version="all")] == ["2.0"]


def test_models_are_listed_in_pages(client: Client) -> None:
    for name in ("a", "b", "c"):
        client.manage("RegisterModel", url="mirror.pdar", model_name=name, initial_workers=0)
    first = json.loads(client.manage("ListModels", limit=2))
    assert [model["modelName"] for model in first["models"]] == ["a", "b"]
    rest = json.loads(client.manage("ListModels", limit=2, next_page_token=int(first["nextPageToken"])))
    assert rest == {"models": [{"modelName": "c", "modelUrl": "mirror.pdar"}]}


def test_describe_may_ask_the_handler(client: Client) -> None:
    client.manage("RegisterModel", url="chaos.pdar", synchronous=True)
    [model] = described(client, "chaos", customized=True)
    assert model["customizedMetadata"]["batch"] == 1
    client.manage("ScaleWorker", model_name="chaos", min_worker=0, synchronous=True)
    code, _ = refusal(lambda: client.manage("DescribeModel", model_name="chaos", customized=True))
    assert code == StatusCode.UNAVAILABLE


@pytest.mark.parametrize(
    ("method", "fields", "code", "words"),
    [
        ("RegisterModel", {}, StatusCode.INVALID_ARGUMENT, "url is required"),
        ("RegisterModel", {"url": "gone.pdar"}, StatusCode.NOT_FOUND, "gone.pdar"),
        ("RegisterModel", {"url": "chaos.pdar", "batch_size": -2}, StatusCode.INVALID_ARGUMENT, "batch_size=-2"),
        ("RegisterModel", {"url": "chaos.pdar", "runtime": "java"}, StatusCode.INVALID_ARGUMENT, "runtime=java"),
        ("RegisterModel", {"url": "chaos.pdar", "sha256": "0" * 64}, StatusCode.INVALID_ARGUMENT, "sha256"),
        ("RegisterModel", {"url": "chaos.pdar", "copies": 2}, StatusCode.INVALID_ARGUMENT, "copies"),
        ("RegisterModel", {"url": "mirror.pdar"}, StatusCode.ALREADY_EXISTS, "already registered"),
        ("RegisterModel", {"url": "broken_load.pdar", "synchronous": True}, StatusCode.INTERNAL, "Failed to start"),
        ("ScaleWorker", {"model_name": "nobody"}, StatusCode.NOT_FOUND, "nobody"),
        ("ScaleWorker", {"model_name": "mirror", "min_worker": 2, "max_worker": 1}, StatusCode.INVALID_ARGUMENT, "max"),
        ("DescribeModel", {}, StatusCode.INVALID_ARGUMENT, "model_name is required"),
        ("DescribeModel", {"model_name": "nobody"}, StatusCode.NOT_FOUND, "nobody"),
        ("SetDefault", {"model_name": "mirror"}, StatusCode.INVALID_ARGUMENT, "model_version is required"),
        ("SetDefault", {"model_name": "mirror", "model_version": "7"}, StatusCode.NOT_FOUND, "7"),
        ("UnregisterModel", {"model_name": "mirror", "model_version": "7"}, StatusCode.NOT_FOUND, "7"),
    ],
)
def test_a_refusal_has_its_code_and_its_words(
    client: Client, method: str, fields: dict[str, object], code: StatusCode, words: str
) -> None:
    client.manage("RegisterModel", url="mirror.pdar", initial_workers=0)
    said = refusal(lambda: client.manage(method, **fields))
    assert said[0] == code
    assert words in said[1]
