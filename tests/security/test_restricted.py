"""Triton's restricted APIs, as its own clients meet them."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from http.client import HTTPConnection
from typing import Any, NamedTuple

import numpy as np
import pytest
import requests
from grpc import StatusCode
from tritonclient import grpc, http
from tritonclient.utils import InferenceServerException

from pdserver.configuration.values import RESTRICTED_APIS, restricted_apis
from pdserver.prpc.errors import Errno
from pdserver.security.access import OPEN, PREDICTION
from pdserver.security.failures import EACH, Failures
from pdserver.security.guard import Guard
from pdserver.security.hosts import Hosts
from pdserver.security.origins import Cors, Origins
from pdserver.security.refused import Refused
from pdserver.security.restricted import over_http
from pdserver.security.routes import Rules
from tests.conftest import pack_handler
from tests.grpc_client import Client, prediction, refusal
from tests.prpc_client import Prpc
from tests.running import RunningServer
from tests.security.surface import http_routes, rpc_methods

ADMIN, INFER = {"admin-key": "admin-value"}, {"infer-key": "infer-value"}
META = {"meta-key": "meta-value"}
GRPC_ADMIN, GRPC_INFER = (
    {f"triton-grpc-protocol-{name}": value for name, value in given.items()} for given in (ADMIN, INFER)
)
GROUPS = "model-repository:admin-key=admin-value,inference,health:infer-key=infer-value"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    folder = tmp_path_factory.mktemp("restricted")
    store = folder / "store"
    store.mkdir()
    pack_handler(store, "around")
    restricted = {
        "http_restricted_api": f"{GROUPS},metadata,statistics:meta-key=meta-value",
        "grpc_restricted_protocol": GROUPS,
    }
    with RunningServer(folder / "server", store, settings=restricted) as server:
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
        client.get_model_config("around")
    for path in ("/predictions/around", "/v2/models/around/infer", "/v1/models/around:predict"):
        refused = requests.post(server.inference + path, json={}, timeout=60)
        assert (refused.status_code, "restricted" in refused.json()["error"]) == (403, True), path
    assert requests.post(f"{server.inference}/predictions/around", json={}, headers=INFER, timeout=60).ok
    pages = {"/health": INFER, **dict.fromkeys(("/status", "/vars", "/brpc_metrics", "/v2/models/stats"), META)}
    for path, right in pages.items():
        for headers, status in (({}, 403), (ADMIN, 403), (right, 200)):
            assert requests.get(server.inference + path, headers=headers, timeout=60).status_code == status, path


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


def test_what_http_restricts_is_not_open_to_other_protocols_on_its_port(server: RunningServer) -> None:
    address = server.inference.removeprefix("http://")
    with grpc.InferenceServerClient(address) as client:
        with pytest.raises(InferenceServerException, match="expecting header 'meta-key'") as caught:
            client.get_server_metadata()
        assert caught.value.status() == "StatusCode.PERMISSION_DENIED"
        client.get_server_metadata(headers={"meta-key": "meta-value"})
        assert client.is_server_live(headers=GRPC_INFER)
    with Prpc(address) as prpc:
        method, field = "inference.GRPCInferenceService/ServerMetadata", {"meta-key": "meta-value"}
        refused = prpc.call(method)
        assert (refused.errno, "expecting header 'meta-key'" in refused.text) == (Errno.ERPCAUTH, True)
        assert prpc.call(method, user_fields=field).errno == 0


def test_handlers_are_shown_no_header_of_any_restricted_api(server: RunningServer) -> None:
    """Twice, as the second request's head is known by then."""
    for address in ("/predictions/around", "/v1/models/around:predict"):
        for _ in range(2):
            answer = asked(server, [*INFER.items(), *2 * [*ADMIN.items()], ("x-mine", "shown")], address)
            assert answer.status == 200
            assert b"shown" in answer.body
            assert not any(secret in answer.body.lower() for secret in (b"-key", b"infer-value", b"admin-value"))


def test_methods_are_shown_no_metadata_of_any_restricted_api(server: RunningServer) -> None:
    """Often, as the head of a client's later calls is known by then."""
    with Client(server) as client:
        for _ in range(5):
            given = [*GRPC_INFER.items(), *GRPC_ADMIN.items(), ("x-mine", "shown")]
            answer = client.predict(prediction("around", body=b"{}"), metadata=given)
            assert b"shown" in answer
            assert not any(secret in answer for secret in (b"-key", b"infer-value", b"admin-value"))


@pytest.mark.parametrize("values", [("infer-value", "zzz"), ("zzz", "infer-value"), ("infer-value",) * 2])
def test_a_header_that_is_given_twice_is_a_wrong_one(server: RunningServer, values: tuple[str, str]) -> None:
    answer = asked(server, [("Infer-Key", value) for value in values])
    assert (answer.status, b"expecting header 'infer-key'" in answer.body) == (403, True)
    with Client(server) as client:
        given = [("triton-grpc-protocol-infer-key", value) for value in values]
        refused = refusal(lambda: client.predict(prediction("around", body=b"{}"), metadata=given))
        assert refused == (
            StatusCode.UNAVAILABLE,
            "This protocol is restricted, expecting header 'triton-grpc-protocol-infer-key'",
        )


def test_a_header_that_is_given_twice_counts_as_a_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    restricted = over_http(restricted_apis("inference:infer-key=infer-value"))
    origins = Origins(Cors(), tokens=False, own_pages=False)
    guard = Guard(Rules((), OPEN), OPEN, Hosts([]), None, origins, Cors(), restricted, Failures())
    statuses = []
    monkeypatch.setattr(time, "monotonic", lambda: 1.0)
    for _ in range(EACH + 1):
        with pytest.raises(Refused) as refused:
            guard.check_token(PREDICTION, [(b"infer-key", b"no"), (b"infer-key", b"infer-value")], None, "client")
        statuses.append(refused.value.status)
    assert statuses == [403] * EACH + [429]


class Answer(NamedTuple):
    status: int
    body: bytes


def asked(server: RunningServer, headers: list[tuple[str, str]], address: str = "/predictions/around") -> Answer:
    """By a client that sends a header as often as it is told."""
    connection = HTTPConnection(server.inference.removeprefix("http://"), timeout=60)
    try:
        body = b'{"instances": [{}]}'
        connection.putrequest("POST", address)
        for name, value in [*headers, ("content-type", "application/json"), ("content-length", str(len(body)))]:
            connection.putheader(name, value)
        connection.endheaders(body)
        answer = connection.getresponse()
        return Answer(answer.status, answer.read())
    finally:
        connection.close()


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
