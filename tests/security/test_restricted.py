"""Triton's restricted APIs, as its own clients meet them."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import requests
from tritonclient import grpc, http
from tritonclient.utils import InferenceServerException

from pdserver.config_values import RESTRICTED_APIS, restricted_apis
from pdserver.security.restricted import over_http
from tests.conftest import pack_handler
from tests.running import RunningServer
from tests.security.surface import http_routes, rpc_methods

ADMIN, INFER = {"admin-key": "admin-value"}, {"infer-key": "infer-value"}
GRPC_ADMIN, GRPC_INFER = (
    {f"triton-grpc-protocol-{name}": value for name, value in given.items()} for given in (ADMIN, INFER)
)
GROUPS = "model-repository:admin-key=admin-value,inference,health:infer-key=infer-value"


def serving(folder: Path, **settings: str) -> RunningServer:
    store = folder / "store"
    store.mkdir()
    pack_handler(store, "around")
    restricted = {"http_restricted_api": GROUPS, "grpc_restricted_protocol": GROUPS}
    return RunningServer(folder / "server", store, "all", {**restricted, **settings})


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    with serving(tmp_path_factory.mktemp("restricted")) as server:
        yield server


def over_rest(client: Any) -> dict[str, Callable[[dict[str, str]], Any]]:
    given = http.InferInput("body", [1, 1], "BYTES")
    given.set_data_from_numpy(np.array([[b"{}"]], object))
    return {
        "inference": lambda headers: client.infer("around", [given], headers=dict(headers)),
        "health": lambda headers: live(client, headers),
        "model-repository": lambda headers: client.unload_model("around", headers=headers),
    }


def live(client: Any, headers: dict[str, str]) -> None:
    """The client itself says no more than that it is not."""
    if not client.is_server_live(headers):
        raise InferenceServerException("This API is restricted, expecting header 'infer-key'")


def test_over_rest_each_api_needs_its_header(server: RunningServer) -> None:
    with http.InferenceServerClient(server.inference.removeprefix("http://")) as client:
        for api, call in over_rest(client).items():
            right, wrong = (ADMIN, INFER) if api == "model-repository" else (INFER, ADMIN)
            words = f"This API is restricted, expecting header '{next(iter(right))}'"
            for headers in ({}, wrong, {next(iter(right)): "other"}):
                with pytest.raises(InferenceServerException, match=words):
                    call(headers)
            if api == "model-repository":
                with pytest.raises(InferenceServerException, match="explicit model load / unload is not allowed"):
                    call(right)
            else:
                call(right)
        client.get_inference_statistics("around")
    for path in ("/predictions/around", "/v2/models/around/infer", "/v1/models/around:predict"):
        refused = requests.post(server.inference + path, json={}, timeout=30)
        assert (refused.status_code, "restricted" in refused.json()["error"]) == (403, True), path
    assert requests.post(f"{server.inference}/predictions/around", json={}, headers=INFER, timeout=30).ok


def test_over_grpc_each_protocol_needs_its_metadata(server: RunningServer) -> None:
    given = grpc.InferInput("body", [1, 1], "BYTES")
    given.set_data_from_numpy(np.array([[b"{}"]], object))
    with grpc.InferenceServerClient(server.grpc_inference) as client:
        calls: list[tuple[Callable[[dict[str, str]], Any], dict[str, str]]] = [
            (lambda headers: client.infer("around", [given], headers=dict(headers)), GRPC_INFER),
            (lambda headers: client.is_server_live(headers), GRPC_INFER),
            (lambda headers: client.is_model_ready("around", headers=headers), GRPC_INFER),
            (lambda headers: client.get_model_repository_index(headers), GRPC_ADMIN),
        ]
        for call, right in calls:
            words = f"This protocol is restricted, expecting header '{next(iter(right))}'"
            for headers in ({}, {next(iter(right)): "other"}, ADMIN):
                with pytest.raises(InferenceServerException, match=words) as caught:
                    call(headers)
                assert caught.value.status() == "StatusCode.UNAVAILABLE"
            call(right)
        client.get_server_metadata()


def test_the_header_counts_as_a_token_and_a_token_is_as_good(tmp_path: Path) -> None:
    with serving(tmp_path, token_file=str(tmp_path / "tokens.json")) as server:
        token = requests.Session()
        key = json.loads((tmp_path / "tokens.json").read_text())["inference"]["key"]
        url = f"{server.inference}/predictions/around"
        assert token.post(url, json={}, headers=INFER, timeout=30).ok
        assert token.post(url, json={}, headers={"Authorization": f"Bearer {key}"}, timeout=30).ok
        assert token.post(url, json={}, timeout=30).status_code == 403
        assert token.post(url, json={}, headers={"Authorization": "Bearer no"}, timeout=30).status_code == 401
        stats = f"{server.inference}/v2/models/stats"
        assert token.get(stats, headers=INFER, timeout=30).status_code == 401, "it is no token for other calls"


def test_handlers_are_not_shown_the_header() -> None:
    restriction = over_http(restricted_apis("inference:infer-key=infer-value"))["inference"]
    headers = [(b"host", b"here"), (b"infer-key", b"infer-value")]
    assert restriction.is_met(headers)
    assert headers == [(b"host", b"here")]
    assert not restriction.is_met(headers)


def test_every_api_has_calls_over_rest_and_grpc() -> None:
    over_http = {route.need.api for _, route in http_routes()}
    over_grpc = {need.api for _, _, need in rpc_methods()}
    assert set(RESTRICTED_APIS) == over_http - {""} == over_grpc - {""}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("helth:k=v", "helth; did you mean health"),
        ("model-repository,health:k1=v1,metadata,health:k2=v2", "api 'health' can not be specified in multiple config"),
        ("health", "health: expected :HEADER=VALUE behind them"),
        ("health:k", "health: expected HEADER=VALUE behind the colon"),
        ("health:a b=c", "health: expected HEADER=VALUE"),
        ("trace:Authorization=x", "expected another header than authorization"),
    ],
)
def test_mistakes_are_named(text: str, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        restricted_apis(text)


def test_groups_are_read() -> None:
    assert restricted_apis("trace, logging:Admin-Key=a=b ,health:k=v") == {
        "trace": ("admin-key", "a=b"),
        "logging": ("admin-key", "a=b"),
        "health": ("k", "v"),
    }
