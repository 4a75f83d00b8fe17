"""Clients that ask for a change and leave: it is made nonetheless, whole, and nothing else is left of it."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
import requests

from tests.conftest import pack_handler
from tests.grpc_client import Client, management_pb2, refusal
from tests.running import RunningServer, eventually, run_directory
from tests.security.file_server import FileServer, response


class World:
    """A server, its store, and a server of archives."""

    def __init__(self, server: RunningServer, store: Path, files: FileServer) -> None:
        self.server = server
        self.store = store
        self.files = files
        assert server.process is not None
        self.run = run_directory(server.process.pid)

    def folders(self) -> int:
        """Archives that are unpacked, or on their way."""
        return sum(len(list(self.run.glob(f"{name}/*"))) for name in ("archives", "downloads"))

    def series(self) -> bool:
        """Whether there are metrics of the guest."""
        return 'model_name="guest"' in requests.get(f"{self.server.metrics}/metrics", timeout=60).text

    def served(self) -> bool:
        return self.server.manage("GET", "/models/guest").status_code == 200

    def gone(self) -> bool:
        """Whether no process, folder or series is left but the nursery."""
        return not (self.served() or self.series() or self.folders() or len(self.server.behind()) > 1)

    def pack(self, loading: str = "{}") -> Path:
        return pack_handler(self.store, "hard_to_load", name="guest", config=f"loading: {loading}\n")


@pytest.fixture(scope="module")
def the_world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    folder = tmp_path_factory.mktemp("leaving")
    store = folder / "store"
    store.mkdir()
    with FileServer() as files:
        settings = {"allowed_urls": f"{files.url}/", "model_control_mode": "explicit"}
        with RunningServer(folder / "server", store, "", settings) as server:
            eventually(lambda: len(server.behind()) == 1)
            yield World(server, store, files)


@pytest.fixture
def world(the_world: World) -> Iterator[World]:
    yield the_world
    if the_world.served():
        assert the_world.server.manage("DELETE", "/models/guest").status_code == 200
    eventually(the_world.gone)


Begun = Callable[[], Any]
Leave = Callable[[RunningServer, str, dict[str, Any], Begun], None]
_METHODS = {
    "register": ("POST", "RegisterModel"),
    "scale": ("PUT", "ScaleWorker"),
    "unregister": ("DELETE", "UnregisterModel"),
}


def by_grpc(server: RunningServer, verb: str, fields: dict[str, Any], begun: Begun) -> None:
    """It cancels its call once the change has begun."""
    _, method = _METHODS[verb]
    request = getattr(management_pb2, f"{method}Request")(**fields)
    with Client(server) as client:
        call = getattr(client.management, method).future(request)
        eventually(begun)
        assert call.cancel(), "it was answered before its client left"


def by_rest(server: RunningServer, verb: str, fields: dict[str, Any], begun: Begun) -> None:
    """It hangs up once the change has begun."""
    method, _ = _METHODS[verb]
    fields = dict(fields)
    path = f"/models/{fields.pop('model_name')}" if "model_name" in fields else "/models"
    query = "&".join(f"{name}={value}" for name, value in fields.items()).replace("True", "true")
    host, port = server.management.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port))) as sock:
        sock.sendall(f"{method} {path}?{query} HTTP/1.1\r\nHost: {host}\r\n\r\n".encode())
        eventually(begun)
        sock.setblocking(False)
        with pytest.raises(BlockingIOError):
            sock.recv(1)


BOTH = pytest.mark.parametrize("leave", [by_grpc, by_rest])
GUEST = {"url": "guest.pdar", "initial_workers": 1, "synchronous": True}


@pytest.fixture
def busy(world: World, tmp_path: Path) -> Iterator[Callable[[], None]]:
    """The guest has a request; called, it answers it."""
    pack_handler(world.store, "chaos", name="guest")
    assert world.server.manage("POST", "/models?url=guest.pdar&initial_workers=2").status_code == 200
    begun, go = tmp_path / "begun", tmp_path / "go"
    body = {"op": "wait_for", "begun": str(begun), "go": str(go)}
    asking = threading.Thread(target=world.server.predict, args=["guest"], kwargs={"json": body})
    asking.start()
    eventually(begun.exists)
    yield go.touch
    go.touch()
    asking.join()


@BOTH
def test_who_leaves_while_a_model_is_unloaded(world: World, busy: Callable[[], None], leave: Leave) -> None:
    leave(world.server, "unregister", {"model_name": "guest"}, lambda: not world.served())
    assert not world.gone(), "it has a request to answer"
    busy()
    eventually(world.gone)


def test_whose_deadline_passes_while_a_model_is_unloaded(world: World, busy: Callable[[], None]) -> None:
    request = management_pb2.UnregisterModelRequest(model_name="guest")
    with Client(world.server) as client:
        code, _ = refusal(lambda: client.management.UnregisterModel(request, timeout=3))
    assert code == grpc.StatusCode.DEADLINE_EXCEEDED
    assert not world.served()
    busy()
    eventually(world.gone)


@BOTH
def test_who_leaves_while_a_model_is_loaded(world: World, tmp_path: Path, leave: Leave) -> None:
    loaded = tmp_path / "loaded"
    world.pack(f"{{until: {loaded}}}")
    leave(world.server, "register", GUEST, world.served)
    assert world.server.describe("guest")["status"] == "LOADING"
    loaded.touch()
    eventually(lambda: world.server.describe("guest")["status"] == "READY")
    if leave is by_grpc:
        world.server.logged("register guest.pdar: done, after its caller had left")


@BOTH
def test_who_leaves_before_a_model_shows_that_it_cannot_be_loaded(world: World, tmp_path: Path, leave: Leave) -> None:
    pack_handler(world.store, "hard_to_load", name="guest", config="loading: {hang: true}\nstartupTimeout: 3\n")
    leave(world.server, "register", GUEST, world.served)
    eventually(world.gone)
    if leave is by_grpc:
        world.server.logged("register guest.pdar: failed after its caller had left")


@BOTH
def test_who_leaves_while_workers_are_started(world: World, tmp_path: Path, leave: Leave) -> None:
    loaded = tmp_path / "loaded"
    loaded.touch()
    world.pack(f"{{until: {loaded}}}")
    assert world.server.manage("POST", "/models?url=guest.pdar&initial_workers=1").status_code == 200
    loaded.unlink()
    scaled = {"model_name": "guest", "min_worker": 2, "synchronous": True}
    leave(world.server, "scale", scaled, lambda: world.server.describe("guest")["minWorkers"] == 2)
    loaded.touch()
    eventually(lambda: len(world.server.pids("guest")) == 2)


@BOTH
@pytest.mark.parametrize("found", [True, False])
def test_who_leaves_while_an_archive_is_downloaded(world: World, leave: Leave, found: bool) -> None:
    archive = world.pack().read_bytes()
    asked, go = threading.Event(), threading.Event()

    def answer(sock: socket.socket) -> None:
        asked.set()
        go.wait(60)
        sock.sendall(response(archive) if found else response(b"", "404 Not Found"))

    world.files.answers["/guest.pdar"] = answer
    leave(world.server, "register", GUEST | {"url": f"{world.files.url}/guest.pdar"}, asked.is_set)
    go.set()
    if found:
        eventually(world.served)
        eventually(lambda: not list(world.run.glob("downloads/*")))
    elif leave is by_grpc:
        world.server.logged("guest.pdar: failed after its caller had left")


def test_who_leaves_while_a_repository_loads(world: World, tmp_path: Path) -> None:
    loaded = tmp_path / "loaded"
    world.pack(f"{{until: {loaded}}}")
    url = f"{world.server.inference}/v2/repository/models/guest"
    with pytest.raises(requests.ReadTimeout):
        requests.post(f"{url}/load", timeout=3)
    loaded.touch()
    eventually(lambda: world.served() and world.server.describe("guest")["status"] == "READY")
    assert requests.post(f"{url}/unload", timeout=60).status_code == 200
