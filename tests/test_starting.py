"""While a server starts, it is live but not ready, whichever way it is asked."""

from __future__ import annotations

import os
import signal
import socket
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import pytest
import requests
from grpc_health.v1 import health_pb2, health_pb2_grpc
from tritonclient import grpc as triton

from tests.conftest import Lent, Serve, pack_handler
from tests.grpc_client import Client
from tests.running import RunningServer, eventually
from tests.security.file_server import FileServer, response
from tests.without_paddle import without_paddle as without_paddle

pytestmark = pytest.mark.usefixtures("without_paddle")

SERVING = health_pb2.HealthCheckResponse.SERVING


def answers(server: RunningServer) -> bool:
    try:
        return requests.get(f"{server.inference}/v2/health/live", timeout=60).ok
    except requests.ConnectionError:
        return False


def ready(server: RunningServer) -> set[bool]:
    """What each of the ways to ask says."""
    ping = requests.get(f"{server.inference}/ping", timeout=60)
    assert ping.json()["status"] == ("Healthy" if ping.ok else "Unhealthy")
    said = {ping.ok, requests.get(f"{server.inference}/v2/health/ready", timeout=60).ok}
    with triton.InferenceServerClient(server.grpc_inference) as client:
        assert client.is_server_live()
        said.add(client.is_server_ready())
    with Client(server) as client:
        said.add(client.ping()["status"] == "Healthy")
    for address in (server.grpc_inference, server.grpc_management):
        with grpc.insecure_channel(address) as channel:
            stub: Any = health_pb2_grpc.HealthStub(channel)
            said.add(stub.Check(health_pb2.HealthCheckRequest(), timeout=60).status == SERVING)
    return said


@pytest.fixture
def starting(store: Path, tmp_path: Path) -> Iterator[tuple[RunningServer, threading.Event]]:
    """A server that has to download what it is to serve, and what lets it; one archive cannot be had then."""
    pack_handler(store, "chaos")
    pack_handler(store, "mirror", name="far").rename(tmp_path / "far.pdar")
    archive = (tmp_path / "far.pdar").read_bytes()
    go = threading.Event()

    def answer(sock: socket.socket) -> None:
        go.wait(60)
        sock.sendall(response(archive))

    with FileServer() as files, ThreadPoolExecutor(1) as threads:
        files.answers["/far.pdar"] = answer
        models = f"chaos.pdar,{files.url}/far.pdar"
        server = RunningServer(tmp_path / "server", store, models, {"allowed_urls": f"{files.url}/"})
        started = threads.submit(server.start)
        eventually(lambda: answers(server))
        try:
            yield server, go
        finally:
            go.set()
            started.result()
            server.stop()


def test_a_server_is_live_at_once_and_ready_when_all_that_it_is_to_serve_is(
    starting: tuple[RunningServer, threading.Event],
) -> None:
    server, go = starting
    assert ready(server) == {False}
    eventually(lambda: server.manage("GET", "/models/chaos").ok)
    eventually(lambda: server.predict("chaos", json={"nonce": 1}).ok)
    assert ready(server) == {False}, "one model is not all"
    assert "starting" in server.ping().json()["problems"]["server"]
    early = server.manage("POST", "/models?url=chaos.pdar&model_name=early&initial_workers=0")
    assert early.status_code == 200
    assert early.json()["status"].endswith("forgets it: the server is still starting")
    go.set()
    eventually(lambda: server.ping().ok)
    assert ready(server) == {True}
    assert server.predict("far", "x").ok


def test_what_cannot_be_served_does_not_keep_the_start_from_ending(serve: Serve, store: Path, tmp_path: Path) -> None:
    """Nor others from being served. Of two archives of one name and version it is the first, if it can be."""
    (tmp_path / "large.bin").write_bytes(os.urandom(16 << 20))
    pack_handler(store, "chaos", "first", extra_files=(str(tmp_path / "large.bin"),))  # takes much longer to unpack
    pack_handler(store, "mirror", "second")
    pack_handler(store, "chaos", "odd", config="batchSize: many\n")
    pack_handler(store, "broken_load")
    (store / "corrupt.pdar").write_bytes(b"PK\x03\x04 not really")
    server = serve("x=first.pdar,x=second.pdar,y=odd.pdar,y=second.pdar,broken_load.pdar,corrupt.pdar")
    assert ready(server) == {False}
    assert server.ping().status_code == 503
    problems = server.ping().json()["problems"]
    assert problems.keys() == {"second.pdar", "odd.pdar", "broken_load/1.0", "corrupt.pdar"}
    assert "already registered for model x" in problems["second.pdar"]
    assert server.describe("x")["modelUrl"] == "first.pdar"
    assert server.describe("y")["modelUrl"] == "second.pdar"
    assert server.predict("x", json={"nonce": 1}).json()["nonce"] == 1

    assert "the vocabulary is missing" in problems["broken_load/1.0"]
    assert "the vocabulary is missing" in server.describe("broken_load")["lastError"]
    eventually(lambda: "vocabulary" in server.predict("broken_load", json={}).text)
    for name in problems:
        assert server.manage("DELETE", f"/models/{name.partition('/')[0]}").ok
    assert ready(server) == {True}


def test_a_server_without_models_is_ready(lent: Lent) -> None:
    assert lent.server.manage("GET", "/models").json()["models"] == []
    assert ready(lent.server) == {True}


def test_who_waits_for_a_model_when_the_server_stops_is_told_so(serve: Serve, store: Path, tmp_path: Path) -> None:
    pack_handler(store, "hard_to_load", config=f"loading: {{until: {tmp_path / 'never'}}}\n")
    server = serve(stop_timeout="1", load_models="none")
    url = "/models?url=hard_to_load.pdar&initial_workers=1&synchronous=true"
    with ThreadPoolExecutor() as threads:
        waits = threads.submit(server.manage, "POST", url)
        eventually(lambda: server.manage("GET", "/models/hard_to_load").ok)
        assert server.process is not None
        server.process.send_signal(signal.SIGTERM)
        answer = waits.result(timeout=60)
    assert (answer.status_code, "the server is stopping" in answer.json()["message"]) == (503, True)
    assert server.process.wait(60) == 0
    assert "Traceback" not in server.log()
