"""Triton's model repository extension of a cluster, by Triton's clients: a real controller with fake nodes."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests
import tritonclient.grpc
import tritonclient.http
from tritonclient.utils import InferenceServerException

from tests.cluster.managed import Managed

ADMIN, VIEWER = "a" * 32, "i" * 32
EXPLICIT = {"model_control_mode": "explicit"}


class Client:
    """Triton's client of one transport."""

    def __init__(self, managed: Managed, transport: str) -> None:
        address = {"http": managed.url.removeprefix("http://"), "grpc": managed.grpc}[transport]
        module: Any = {"http": tritonclient.http, "grpc": tritonclient.grpc}[transport]
        own = {"network_timeout": 60.0} if transport == "http" else {}
        self.managed = managed
        self.triton = module.InferenceServerClient(address, **own)
        self._as_json = {"as_json": True} if transport == "grpc" else {}

    def index(self) -> list[tuple[str, str, str]]:
        """Names, versions, states."""
        told = self.triton.get_model_repository_index(**self._as_json)
        models = told.get("models", []) if isinstance(told, dict) else told
        return [(each["name"], each.get("version", ""), each.get("state", "")) for each in models]


@pytest.fixture(params=["http", "grpc"])
def transport(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def client(tmp_path: Path, transport: str) -> Iterator[Client]:
    with Managed(tmp_path, None, **EXPLICIT).opened() as managed:
        found = Client(managed, transport)
        yield found
        found.triton.close()


def test_models_are_listed_loaded_and_unloaded(client: Client) -> None:
    assert client.index() == [("fit-1-10", "", ""), ("other", "", "")]
    client.triton.load_model("fit-1-10")
    assert client.index() == [("fit-1-10", "1", "READY"), ("other", "", "")]
    client.triton.load_model("fit-1-10")  # it is there
    assert client.index() == [("fit-1-10", "1", "READY"), ("other", "", "")]
    client.triton.unload_model("fit-1-10")
    client.triton.unload_model("fit-1-10")
    assert client.index() == [("fit-1-10", "", ""), ("other", "", "")]


def test_what_cannot_be_loaded_is_said(client: Client) -> None:
    for name, words in (("fit-1-11", "did you mean fit-1-10?"), ("other", "not in the model store")):
        with pytest.raises(InferenceServerException, match="failed to load") as refused:
            client.triton.load_model(name)
        assert words in str(refused.value)
    with pytest.raises(InferenceServerException, match="leave the parameters out"):
        client.triton.load_model("fit-1-10", config="{}")
    with pytest.raises(InferenceServerException, match="leave the parameters out"):
        client.triton.load_model("fit-1-10", config="{}", files={"file:1/model.onnx": b"x" * 200_000})
    assert client.index() == [("fit-1-10", "", ""), ("other", "", "")]


def test_a_model_that_a_pipeline_asks_is_not_unloaded_by_halves(client: Client) -> None:
    managed = client.managed
    for url in ("fit-1-10.pdar", "fit-2-10.pdar", "pipe-1-10-fit.pdar"):
        assert managed.said("POST", f"/models?url={url}&synchronous=true")[0] == 200
    with pytest.raises(InferenceServerException, match="fit is asked by pipe/1: unload that first"):
        client.triton.unload_model("fit")
    assert [each[:2] for each in client.index()][:3] == [("fit", "1"), ("fit", "2"), ("pipe", "1")]
    client.triton.unload_model("pipe")
    client.triton.unload_model("fit")
    assert [each[:2] for each in client.index()][:2] == [("fit-1-10", ""), ("other", "")]


def test_a_load_waits_for_a_model_that_others_have_registered(client: Client) -> None:
    managed = client.managed
    managed.world.load_seconds = 2
    assert managed.said("POST", "/models?url=fit-1-10.pdar&model_name=fit-1-10&synchronous=false")[0] == 202
    client.triton.load_model("fit-1-10")
    assert client.index()[0] == ("fit-1-10", "1", "READY")


def test_a_load_says_why_what_others_have_registered_can_not_serve(client: Client) -> None:
    managed = client.managed
    managed.world.models.broken.add("fit-1-10.pdar")
    assert managed.said("POST", "/models?url=fit-1-10.pdar&model_name=fit-1-10&synchronous=false")[0] == 202
    with pytest.raises(InferenceServerException, match="can't be loaded"):
        client.triton.load_model("fit-1-10")


def test_loading_is_refused_unless_the_operator_allows_it(tmp_path: Path, transport: str) -> None:
    with Managed(tmp_path).opened() as managed:
        client = Client(managed, transport)
        for call in (client.triton.load_model, client.triton.unload_model):
            with pytest.raises(InferenceServerException, match="set model_control_mode=explicit"):
                call("fit-1-10")
        assert client.index() == [("fit-1-10", "", ""), ("other", "", "")]
        client.triton.close()


def test_tokens_and_restrictions_are_those_of_one_server(tmp_path: Path, transport: str) -> None:
    environment = {"PD_ADMIN_TOKEN": ADMIN, "PD_INFERENCE_TOKEN": VIEWER}
    given = {"http_restricted_api": "model-repository:x-key=secret"}
    with Managed(tmp_path, environment, **given).opened() as managed:
        client = Client(managed, transport)

        def index(**headers: str) -> Any:
            return client.triton.get_model_repository_index(headers=headers)

        for refused in ({}, {"authorization": f"Bearer {VIEWER}"}):
            with pytest.raises(InferenceServerException):
                index(**refused)
        if transport == "grpc":
            assert index(authorization=f"Bearer {ADMIN}")
        client.triton.close()
        url = f"{managed.url}/v2/repository/index"
        assert requests.post(url, headers={"x-key": "secret"}, timeout=60).status_code == 200
