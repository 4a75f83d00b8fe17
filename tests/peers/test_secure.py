"""Nodes with TLS and tokens."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
import requests

from pdserver.configuration.loading import load_config
from pdserver.peers.base import Addresses
from pdserver.server.reports import problems
from tests.conftest import pack_handler
from tests.peers.nodes import Node, addresses_of, route, running
from tests.peers.test_calls import TORCHSERVE, predictions
from tests.running import eventually
from tests.security.certificates import Pair, authority, signed

TOKEN = "t" * 32
HEADERS = {"authorization": f"Bearer {TOKEN}"}
URL = "/predictions/mirror"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("secure")


@pytest.fixture(scope="module")
def nodes(folder: Path) -> Iterator[dict[str, Node]]:
    """`b` wants certificates of its clients, and all want a token. `stranger` trusts nobody, and nobody vouches for
    `renewed` at first."""
    store = folder / "store"
    store.mkdir()
    pack_handler(store, "mirror")
    pack_handler(store, "mirror", "own")
    tokens = folder / "tokens.json"
    tokens.write_text(json.dumps({"inference": {"key": TOKEN}}))
    tokens.chmod(0o600)
    ca = authority(folder / "ca")
    pair = signed(ca, folder / "ca", "node")
    common = {"token_file": str(tokens), **_files(pair)}
    foreign = signed(authority(folder / "other"), folder / "other", "node")
    found = {
        "renewed": Node(
            "renewed", folder, store, "own.pdar", **common | _files(foreign), peers_ca_file=str(ca.certificate)
        ),
        "a": Node("a", folder, store, "own.pdar", **common, peers_ca_file=str(ca.certificate)),
        "stranger": Node("stranger", folder, store, "own.pdar", **common),
        "b": Node(
            "b", folder, store, "mirror.pdar", **common,
            enable_grpc_ssl="true", client_ca_file=str(ca.certificate),
        ),
    }  # fmt: skip
    b = found["b"].server
    b.config.write_text(b.config.read_text().replace("inference_address=http:", "inference_address=https:"))
    where = addresses_of(b)
    secure = Addresses(where.inference.replace("http:", "https:"), "", "", f"grpcs://{where.grpc}")
    with running(folder, list(found.values()), [route("mirror", "b")], {"b": secure}):
        yield found


def _files(pair: Pair) -> dict[str, str]:
    return {"certificate_file": str(pair.certificate), "private_key_file": str(pair.key)}


def test_requests_go_on_with_their_token(nodes: dict[str, Node]) -> None:
    url = nodes["a"].server.inference
    assert requests.post(url + URL, data=b"abc", timeout=60).status_code == 401
    with requests.Session() as session:
        for _ in range(3):  # the head is known from the second on
            answer = session.post(url + URL, data=b"abc", headers=HEADERS, timeout=60)
            assert (answer.status_code, answer.content) == (200, b"cba"), answer.text
    ready = requests.get(f"{url}/v2/models/mirror/ready", headers=HEADERS, timeout=60)
    assert ready.json() == {"name": "mirror", "ready": True}


def test_calls_go_on_with_their_token(nodes: dict[str, Node]) -> None:
    with grpc.insecure_channel(nodes["a"].server.grpc_inference) as channel:
        method: Any = channel.unary_unary(f"/{TORCHSERVE}/Predictions")
        message = predictions("mirror").SerializeToString()
        with pytest.raises(grpc.RpcError, match="UNAUTHENTICATED"):
            method(message, timeout=60)
        assert b"cba" in method(message, metadata=tuple(HEADERS.items()), timeout=60)


def test_a_certificate_that_nobody_vouches_for(nodes: dict[str, Node]) -> None:
    server = nodes["stranger"].server
    answer = requests.post(server.inference + URL, data=b"abc", headers=HEADERS, timeout=60)
    assert answer.status_code == 503
    assert "its certificate is not accepted" in answer.json()["message"]
    assert "peers_ca_file" in answer.json()["message"]
    with grpc.insecure_channel(server.grpc_inference) as channel:
        method: Any = channel.unary_unary(f"/{TORCHSERVE}/Predictions")
        with pytest.raises(grpc.RpcError, match="UNAVAILABLE"):
            method(predictions("mirror").SerializeToString(), metadata=tuple(HEADERS.items()), timeout=60)


def test_a_renewed_certificate_is_shown(nodes: dict[str, Node], folder: Path) -> None:
    server = nodes["renewed"].server
    message = predictions("mirror").SerializeToString()

    def ask() -> int:
        return requests.post(server.inference + URL, data=b"abc", headers=HEADERS, timeout=60).status_code

    def call() -> bool:
        with grpc.insecure_channel(server.grpc_inference) as channel:
            method: Any = channel.unary_unary(f"/{TORCHSERVE}/Predictions")
            with contextlib.suppress(grpc.RpcError):
                return b"cba" in method(message, metadata=tuple(HEADERS.items()), timeout=60)
        return False

    assert ask() in (502, 503), "it is refused after, or within, TLS's handshake"
    assert not call()
    for name in ("node.key", "node.pem"):
        (folder / "other" / name).write_bytes((folder / "ca" / name).read_bytes())
    eventually(lambda: ask() == 200)
    eventually(call)


def test_the_file_of_authorities_is_checked(nodes: dict[str, Node], tmp_path: Path) -> None:
    wrong = tmp_path / "ca.pem"
    wrong.write_text("no certificate")
    node = nodes["a"]
    text = node.server.config.read_text().replace("peers_ca_file=", f"peers_ca_file={wrong}\n#")
    config = tmp_path / "config.properties"
    config.write_text(text)
    assert "expected certificates, PEM" in "".join(problems(load_config({}, {}, config)))
