"""TorchServe's management API of a cluster over gRPC: a real controller, whose nodes are fakes."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc import StatusCode
from grpc_health.v1 import health_pb2, health_pb2_grpc

from tests.cluster.managed import Managed
from tests.grpc_client import Manager, refusal
from tests.running import eventually
from tests.security.certificates import authority, signed

ADMIN, VIEWER = "a" * 32, "i" * 32


def described(client: Manager, **fields: object) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(client("DescribeModel", **fields))
    return found


@pytest.fixture
def managed(tmp_path: Path) -> Iterator[Managed]:
    with Managed(tmp_path).opened() as found:
        yield found


@pytest.fixture
def client(managed: Managed) -> Iterator[Manager]:
    with Manager(managed.grpc) as found:
        yield found


def test_a_client_of_torchserve_registers_scales_describes_and_unregisters(managed: Managed, client: Manager) -> None:
    said = client("RegisterModel", url="fit-1-10.pdar", initial_workers=2, synchronous=True)
    assert said == 'Model "fit" Version: 1 registered with 2 initial workers on 1 node'
    said = client("ScaleWorker", model_name="fit", min_worker=3, synchronous=True)
    assert said == "Workers scaled to 3 for model: fit on 1 node"
    [told] = described(client, model_name="fit")
    assert told == managed.described("fit")[0]
    assert told["copies"]["ready"] == 1
    client("RegisterModel", url="fit-2-10.pdar", synchronous=True)
    said = client("SetDefault", model_name="fit", model_version="2")
    assert said == 'Default version successfully updated for model "fit" to "2"'
    assert [each["modelVersion"] for each in described(client, model_name="fit", model_version="all")] == ["1", "2"]
    said = client("UnregisterModel", model_name="fit", model_version="1")
    assert said == 'Model "fit" unregistered'
    assert json.loads(client("ListModels")) == {"models": [{"modelName": "fit", "modelUrl": "fit-2-10.pdar"}]}


def test_registering_is_in_the_background_unless_asked_otherwise(client: Manager) -> None:
    assert client("RegisterModel", url="fit-1-10.pdar") == "Processing worker updates..."
    eventually(lambda: described(client, model_name="fit")[0]["status"] == "READY")


def test_our_own_fields_say_how_many_nodes_serve(client: Manager) -> None:
    said = client("RegisterModel", url="fit-1-10.pdar", copies=2, spread="packed", synchronous=True)
    assert said == 'Model "fit" Version: 1 registered on each of 2 nodes'
    copies = described(client, model_name="fit")[0]["copies"]
    assert (copies["ready"], copies["spread"]) == (2, "packed")
    said = client("ScaleWorker", model_name="fit", copies=3, spread="spread", synchronous=True)
    assert said == "Copies scaled to 3 for model: fit"
    said = client("RegisterModel", url="fit-1-11.pdar", copies=3, replace=True, synchronous=True)
    assert described(client, model_name="fit")[0]["modelUrl"] == "fit-1-11.pdar"


@pytest.mark.parametrize(
    ("method", "fields", "code", "words"),
    [
        ("RegisterModel", {}, StatusCode.INVALID_ARGUMENT, "url is required"),
        ("RegisterModel", {"url": "nothing"}, StatusCode.NOT_FOUND, "not in the model store"),
        ("RegisterModel", {"url": "a-1-1.pdar", "copies": 0}, StatusCode.INVALID_ARGUMENT, "copies=0: expected a"),
        ("RegisterModel", {"url": "a-1-1.pdar", "spread": "wide"}, StatusCode.INVALID_ARGUMENT, "spread or packed"),
        ("RegisterModel", {"url": "a-1-1.pdar", "sha256": "12"}, StatusCode.INVALID_ARGUMENT, "64 hexadecimal digits"),
        (
            "RegisterModel",
            {"url": "a-1-1.pdar", "copies": 4, "synchronous": True},
            StatusCode.UNAVAILABLE,
            "no node can take another copy of a/1",
        ),
        ("ScaleWorker", {"model_name": "nothing"}, StatusCode.NOT_FOUND, "nothing"),
        ("DescribeModel", {"model_name": "nothing"}, StatusCode.NOT_FOUND, "nothing"),
        ("SetDefault", {"model_name": "nothing", "model_version": "2"}, StatusCode.NOT_FOUND, "nothing"),
        ("UnregisterModel", {"model_name": "nothing"}, StatusCode.NOT_FOUND, "nothing"),
    ],
)
def test_a_refusal_has_its_code_and_its_words(
    client: Manager, method: str, fields: dict[str, object], code: StatusCode, words: str
) -> None:
    said = refusal(lambda: client(method, **fields))
    assert (said[0], words in said[1]) == (code, True), said
    assert json.loads(client("ListModels")) == {"models": []}


def test_tokens_are_checked_as_over_rest(tmp_path: Path) -> None:
    environment = {"PD_ADMIN_TOKEN": ADMIN, "PD_INFERENCE_TOKEN": VIEWER}
    codes = {"": StatusCode.UNAUTHENTICATED, "b" * 32: StatusCode.UNAUTHENTICATED, VIEWER: StatusCode.PERMISSION_DENIED}
    with Managed(tmp_path, environment).opened() as managed:
        for token, code in codes.items():
            with Manager(managed.grpc, token) as client:
                assert refusal(lambda client=client: client("ListModels"))[0] == code  # type: ignore[misc]
        with Manager(managed.grpc, ADMIN) as client:
            client("RegisterModel", url="fit-1-10.pdar", synchronous=True)
            assert managed.ask("GET", "/models", authorization=f"Bearer {ADMIN}").json()["models"]


def test_tls_is_spoken_where_it_is_asked_for(tmp_path: Path) -> None:
    ca = authority(tmp_path / "ca")
    pair = signed(ca, tmp_path / "ca", "server")
    given = {"certificate_file": str(pair.certificate), "private_key_file": str(pair.key), "enable_grpc_ssl": "true"}
    with (
        Managed(tmp_path, None, **given).opened() as managed,
        Manager(managed.grpc, authority=ca.certificate.read_bytes()) as client,
        Manager(managed.grpc) as plain,
    ):
        assert json.loads(client("ListModels")) == {"models": []}
        assert refusal(lambda: plain("ListModels"))[0] == StatusCode.UNAVAILABLE


def test_registering_may_be_switched_off(tmp_path: Path) -> None:
    with Managed(tmp_path, enable_model_api="false").opened() as managed, Manager(managed.grpc) as client:
        code, words = refusal(lambda: client("RegisterModel", url="fit-1-10.pdar"))
        assert (code, "enable_model_api" in words) == (StatusCode.PERMISSION_DENIED, True)


def test_without_grpc_there_is_no_port(tmp_path: Path) -> None:
    with Managed(tmp_path, enable_grpc="false").opened() as managed:
        assert managed.grpc == ""
        assert managed.ask("GET", "/models").json() == {"models": []}


def test_health_says_that_the_controller_answers(managed: Managed) -> None:
    with grpc.insecure_channel(managed.grpc) as channel:
        asked = health_pb2.HealthCheckRequest(service="org.pytorch.serve.grpc.management.ManagementAPIsService")
        health: Any = health_pb2_grpc.HealthStub(channel)
        serving = health_pb2.HealthCheckResponse.SERVING
        eventually(lambda: health.Check(asked, timeout=60).status == serving)
