"""Where the server listens, by which names it is called, and what browsers may do."""

from __future__ import annotations

import logging
import re
import resource
import socket
import subprocess
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import grpc
import psutil
import pytest
import requests

from pdserver.configuration.loading import load_config
from pdserver.errors import ConfigError
from pdserver.grpc.http2.frames import PREFACE
from pdserver.security.guards import Guards
from tests.conftest import Lent, pack_handler
from tests.prpc_client import frame
from tests.running import PDSERVER, RunningServer, clean_environment, eventually, free_ports
from tests.security.raw import connect, read_all, talk

EVIL = "http://evil.com"
try:
    with socket.socket(socket.AF_INET6) as _sock:
        _sock.bind(("::1", 0))
    HAS_IPV6 = True
except OSError:
    HAS_IPV6 = False


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    folder = tmp_path_factory.mktemp("listening")
    store = folder / "store"
    store.mkdir()
    pack_handler(store, "chaos")
    settings = {
        "allowed_hosts": "models.example.com, *.svc.cluster.local",
        "cors_allowed_origin": "https://app.example.com",
        "cors_allowed_methods": "GET, POST",
        "cors_allowed_headers": "Content-Type",
    }
    with RunningServer(folder / "server", store, settings=settings) as server:
        yield server


# Where


def test_only_loopback_is_listened_on(server: RunningServer) -> None:
    assert server.process is not None
    process = psutil.Process(server.process.pid)
    found = [
        connection.laddr
        for each in (process, *process.children(recursive=True))
        for connection in each.net_connections("inet")
        if connection.status == psutil.CONN_LISTEN
    ]
    assert len({address.port for address in found}) == 5
    assert {address.ip.removeprefix("::ffff:") for address in found} <= {"127.0.0.1", "::1"}


@pytest.fixture(scope="module")
def abroad(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    """A server at a name and at all addresses of the machine, which takes three connections at each port.

    Those that are idle have to go; who is slow has time.
    """
    folder = tmp_path_factory.mktemp("abroad")
    (folder / "store").mkdir()
    inference, management, grpc_inference = free_ports(3)
    settings = {
        "inference_address": f"http://localhost:{inference}",
        "grpc_inference_address": "localhost",
        "grpc_inference_port": str(grpc_inference),
        "management_address": f"http://0.0.0.0:{management}",
        "allow_insecure": "true",
        "max_connections": "3",
        "idle_timeout": "1",
        "slow_client_timeout": "600",
    }
    server = RunningServer(folder / "server", folder / "store", "", settings)
    server.inference, server.management = (f"http://127.0.0.1:{port}" for port in (inference, management))
    with server:
        yield server


def test_a_name_is_listened_on_at_all_of_its_addresses(abroad: RunningServer) -> None:
    inference = abroad.settings["inference_address"].rpartition(":")[2]
    grpc_inference = abroad.settings["grpc_inference_port"]
    [shown] = re.findall(r"^inference +(.*)$", abroad.log(), re.MULTILINE)
    assert shown == f"http://127.0.0.1:{inference}" + f" http://[::1]:{inference}" * HAS_IPV6
    for url in shown.split():
        assert requests.get(f"{url}/ping", timeout=60).status_code == 200
    [shown] = re.findall(r"^grpc_inference +(.*)$", abroad.log(), re.MULTILINE)
    assert shown == f"127.0.0.1:{grpc_inference}" + f" [::1]:{grpc_inference}" * HAS_IPV6
    for place in shown.split():
        with grpc.insecure_channel(place) as channel:
            grpc.channel_ready_future(channel).result(timeout=60)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["inference_address", "http://0.0.0.0:0"], ["inference_address=http://0.0.0.0:0", "set https:// in the"]),
        (["management_address", "http://[::]:0"], ["management_address=http://[::]:0", "certificate_file"]),
        (["metrics_address", "http://0.0.0.0:0"], ["metrics_address=", "allow_insecure=true"]),
        (["grpc_inference_address", "0.0.0.0"], ["grpc_inference_address=0.0.0.0", "enable_grpc_ssl=true"]),
        (["grpc_management_address", "192.0.2.1"], ["grpc_management_address=192.0.2.1", "keep to 127.0.0.1"]),
        (["inference_address", "http://example.com:0"], ["others can reach this address"]),
        (
            ["inference_address", "http://0.0.0.0:0", "disable_token_authorization", "true"],
            ["nobody needs a token: drop disable_"],
        ),
        (["inference_address", "https://127.0.0.1:0"], ["needs certificate_file and private_key_file"]),
        (["inference_address", "https://0.0.0.0:0", "allow_insecure", "true"], ["needs certificate_file"]),
        (["enable_grpc_ssl", "true"], ["enable_grpc_ssl=true needs certificate_file"]),
    ],
)
def test_what_is_not_safe_is_refused_with_the_fix(tmp_path: Path, arguments: list[str], words: list[str]) -> None:
    given = dict(zip(arguments[::2], arguments[1::2], strict=True))
    with pytest.raises(ConfigError) as caught:
        Guards(load_config({"model_store": str(tmp_path), **given}, {}), tmp_path)
    assert all(word in str(caught.value) for word in words), str(caught.value)


def test_the_command_says_so_and_fails(tmp_path: Path) -> None:
    refused = subprocess.run(
        [PDSERVER, "--start", "--model-store", ".", "--inference-address", "http://0.0.0.0:0", "--dt"],
        cwd=tmp_path, env=clean_environment(), capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert refused.returncode == 2
    assert refused.stderr.count("pdserver: inference_address=http://0.0.0.0:0: others can reach this address") == 2
    assert "Traceback" not in refused.stderr


def test_it_is_listened_on_when_the_operator_says_so(abroad: RunningServer) -> None:
    address = abroad.settings["management_address"]
    abroad.logged(f"allow_insecure: others can reach management_address={address} without TLS")
    assert requests.get(f"{abroad.management}/models", timeout=60).status_code == 401, "tokens stay on"


def test_what_is_not_safe_is_told_in_one_line(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    given = {
        "inference_address": "http://0.0.0.0:0",
        "metrics_address": "http://[::]:0",
        "grpc_inference_address": "127.0.0.1",
        "disable_token_authorization": "true",
        "allow_insecure": "true",
    }
    Guards(load_config({"model_store": str(tmp_path), **given}, {}), tmp_path)
    assert [record.getMessage() for record in caplog.records if "allow_insecure" in record.getMessage()] == [
        "allow_insecure: others can reach inference_address=http://0.0.0.0:0, metrics_address=http://[::]:0"
        " without tokens and TLS"
    ]


# By which names


@pytest.mark.parametrize("port", ["inference", "management", "metrics"])
@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("localhost", 200),
        ("LocalHost:1", 200),
        ("localhost.", 200),
        ("127.0.0.1:8080", 200),
        ("[::1]:8080", 200),
        ("192.0.2.7", 200),
        ("models.example.com", 200),
        ("Models.Example.com:443", 200),
        ("a.svc.cluster.local", 200),
        ("svc.cluster.local", 421),
        ("evil.com", 421),
        ("example.com", 421),
        ("evilmodels.example.com", 421),
    ],
)
def test_names(server: RunningServer, port: str, host: str, status: int) -> None:
    path = {"inference": "/ping", "management": "/models", "metrics": "/metrics"}[port]
    answer = requests.get(getattr(server, port) + path, headers={"Host": host}, timeout=60)
    assert answer.status_code == status, answer.text


def test_a_client_of_1996_names_nobody(server: RunningServer) -> None:
    [answer] = talk(server.metrics, b"GET /metrics HTTP/1.0\r\n\r\n")
    assert answer.status == 200


# Browsers


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 200),
        ({"Origin": EVIL}, 403),
        ({"Origin": "null"}, 403),
        ({"Origin": "https://app.example.com.evil.com"}, 403),
        ({"Origin": "http://app.example.com"}, 403),
        ({"Sec-Fetch-Site": "cross-site"}, 403),
        ({"Sec-Fetch-Site": "same-site"}, 403),
        ({"Sec-Fetch-Site": "same-origin"}, 200),
        ({"Sec-Fetch-Site": "none"}, 200),
        ({"Origin": "https://app.example.com", "Sec-Fetch-Site": "cross-site"}, 200),
        ({"Origin": "OWN"}, 200),
    ],
)
def test_pages_and_the_management_port(server: RunningServer, headers: dict[str, str], status: int) -> None:
    if headers.get("Origin") == "OWN":
        headers = {"Origin": server.management}
    assert requests.get(f"{server.management}/models", headers=headers, timeout=60).status_code == status
    if status == 403:
        refused = requests.post(f"{server.management}/models?url=chaos.pdar", headers=headers, timeout=60)
        assert (refused.status_code, "cors_allowed_origin" in refused.json()["message"]) == (403, True)


def test_a_page_may_do_what_is_allowed(server: RunningServer) -> None:
    asked = requests.options(
        f"{server.inference}/predictions/chaos",
        headers={"Origin": "https://app.example.com", "Access-Control-Request-Method": "POST"},
        timeout=60,
    )
    predicted = server.predict("chaos", json={"op": "echo"})
    for answer in (asked, predicted, server.ping()):
        assert answer.ok
        assert answer.headers["access-control-allow-origin"] == "https://app.example.com"
        assert answer.headers["access-control-allow-methods"] == "GET, POST"
        assert answer.headers["access-control-allow-headers"] == "Content-Type"
        assert answer.headers["vary"] == "origin"


def test_no_page_may_do_anything_by_default(lent: Lent) -> None:
    server = lent("chaos")
    headers = {"Origin": EVIL, "Access-Control-Request-Method": "POST"}
    for url in (server.inference, server.metrics):
        answer = requests.options(f"{url}/predictions/chaos", headers=headers, timeout=60)
        assert not any(name.lower().startswith("access-control") for name in answer.headers)
    assert requests.options(f"{server.management}/models", headers=headers, timeout=60).status_code == 403


# How many, and how long


@pytest.mark.parametrize(("given", "level"), [("4096", logging.INFO), ("4097", logging.WARNING)])
def test_a_limit_that_there_is_no_room_for_is_a_warning_unless_it_is_the_default(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    given: str,
    level: int,
) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda _: (20_000, 20_000))
    with caplog.at_level(logging.INFO, "pdserver.security"):
        guards = Guards(load_config({"model_store": str(tmp_path), "max_connections": given}, {}), tmp_path)
    assert guards.max_connections == (20_000 - 1024) // 5
    [said] = [record for record in caplog.records if "each port takes" in record.getMessage()]
    assert said.levelno == level


PING = b"GET /ping HTTP/1.1\r\nhost: localhost\r\n\r\n"


def let_in(server: RunningServer) -> socket.socket | None:
    """A connection with an answer behind it and half a request after that; none while there are too many."""
    sock = connect(server.inference)
    sock.sendall(PING + PING[:-2])
    if sock.recv(12) == b"HTTP/1.1 200":
        return sock
    sock.close()
    return None


def test_one_connection_too_many_is_told_so(abroad: RunningServer) -> None:
    """Of whatever protocol the others are."""
    held = [eventually(partial(let_in, abroad)), connect(abroad.inference), connect(abroad.inference)]
    for sock, data, beginning in ((held[1], frame("x/y") + b"PRPC", b"PRPC"), (held[2], PREFACE, b"\0\0")):
        sock.sendall(data)
        assert sock.recv(100).startswith(beginning)
    [answer] = talk(abroad.inference, b"")
    assert (answer.status, answer.headers["retry-after"]) == (503, "1")
    assert "max_connections" in answer.message
    assert requests.get(f"{abroad.management}/models", timeout=60).status_code == 401, "other ports have room"
    for sock in held:
        sock.close()


def test_a_connection_without_requests_is_closed_after_idle_timeout(abroad: RunningServer) -> None:
    with eventually(partial(let_in, abroad)) as sock:
        sock.sendall(PING[-2:])
        assert read_all(sock).count(b"HTTP/1.1 200") == 1  # of the second request, and the end
