"""Front ends that die or hang: others take their place, and no client takes anything wrong for its answer."""

from __future__ import annotations

import contextlib
import json
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import requests

from tests.conftest import pack_handler
from tests.front_ends.load import Asking, Grpc, Rest, load
from tests.running import RunningServer, eventually, lives
from tests.security.raw import Answer, answers, connect, read_all
from tests.without_paddle import running_without_paddle

KILLS = 3


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    folder = tmp_path_factory.mktemp("death")
    store = folder / "store"
    store.mkdir()
    pack_handler(store, "mirror")
    pack_handler(store, "faults")
    pack_handler(store, "stream")
    with running_without_paddle(folder, store, front_ends="2", disable_system_metrics="true") as running:
        yield running


@pytest.fixture(autouse=True)
def _both_are_there(server: RunningServer) -> None:
    both_accept(server)


def both_accept(server: RunningServer) -> None:
    eventually(lambda: server.metric("pd_front_ends") == 2)


def kill(server: RunningServer, victim: psutil.Process, number: int = signal.SIGKILL) -> None:
    """Returns when its successor accepts clients."""
    victim.send_signal(number)
    eventually(lambda: len({each.pid for each in server.front_ends()} - {victim.pid}) == 2)
    both_accept(server)


def asking(path: str, body: bytes) -> bytes:
    head = f"POST {path} HTTP/1.1\r\nhost: localhost\r\ncontent-length: {len(body)}\r\nconnection: close\r\n\r\n"
    return head.encode() + body


def answered(sock: Any) -> Answer:
    [answer] = answers(read_all(sock))
    return answer


def test_another_one_takes_the_place_of_one_that_is_killed(server: RunningServer) -> None:
    victim, other = server.front_ends()
    asked = server.metric("pd_http_responses_total", status="200") if server.ping().ok else 0
    kill(server, victim)
    assert other.pid in {each.pid for each in server.front_ends()}
    server.logged("was killed by SIGKILL, perhaps out of memory; another one takes its place now")
    assert sum(server.metric("pd_front_end_restarts_total", front_end=number) for number in "12") >= 1
    assert server.metric("pd_http_responses_total", status="200") >= asked, "what it has counted stays counted"
    assert server.ping().json() == {"status": "Healthy"}


def test_what_clients_get_while_front_ends_are_killed_is_right_or_nothing(server: RunningServer) -> None:
    makers: list[Callable[[], Asking]] = [lambda: Rest(server)] * 6 + [lambda: Grpc(server)] * 3
    with load(*makers) as clients:
        for number in range(KILLS):
            clients.wait_for(20)
            kill(server, server.front_ends()[number % 2])
    assert clients.wrong == []
    assert clients.lost > 0, "nobody was connected to those that died"


def test_half_an_answer_can_be_told_from_a_whole_one(server: RunningServer, tmp_path: Path) -> None:
    go = tmp_path / "go"
    asked: dict[str, Any] = {"json": {"count": 2, "go": str(go)}, "stream": True, "timeout": 30}
    size = 50_000_000
    with (
        requests.post(f"{server.inference}/predictions/stream", **asked) as streamed,
        requests.post(f"{server.inference}/predictions/mirror", bytes(size), stream=True, timeout=60) as large,
    ):
        pieces = streamed.iter_content(None)
        assert next(pieces) == b"0 "
        assert large.headers["content-length"] == str(size)
        for victim in server.front_ends():
            victim.kill()
        with pytest.raises(requests.RequestException):
            list(pieces)
        with pytest.raises(requests.RequestException):
            list(large.iter_content(1 << 20))
    go.touch()
    both_accept(server)
    assert server.predict("stream", json={"count": 2}).text == "0 1 end"


def test_connections_that_wait_at_a_dead_front_end_are_its_successors(server: RunningServer) -> None:
    victim = server.front_ends()[0]
    victim.suspend()
    with contextlib.ExitStack() as stack:
        clients = [stack.enter_context(connect(server.inference)) for _ in range(20)]
        for client in clients:
            client.sendall(asking("/predictions/mirror", b"abc"))
        kill(server, victim)
        assert [(answer.status, answer.body) for answer in map(answered, clients)] == [(200, b"cba")] * 20


def test_one_that_hangs_is_noticed_and_replaced(server: RunningServer) -> None:
    victim = server.front_ends()[1]
    victim.suspend()
    with contextlib.ExitStack() as stack:
        clients = [stack.enter_context(connect(server.inference)) for _ in range(10)]
        for client in clients:
            client.sendall(asking("/predictions/mirror", b"abc"))
        assert [answered(client).status for client in clients] == [200] * 10
    eventually(lambda: not lives(victim))
    server.logged(f"pid {victim.pid} is ended")


def test_what_a_dead_front_end_has_asked_is_cancelled(server: RunningServer, tmp_path: Path) -> None:
    go, begun = tmp_path / "go", tmp_path / "begun"
    body = json.dumps({"op": "wait_for", "begun": str(begun), "go": str(go)}).encode()
    with contextlib.ExitStack() as stack:
        stack.callback(go.touch)
        for number in range(5):
            client = stack.enter_context(connect(server.inference))
            client.sendall(asking("/predictions/faults", body))
            if not number:
                eventually(begun.exists)
        eventually(lambda: server.metric("pd_queue_length", model_name="faults") == 4)
        for victim in server.front_ends():
            victim.kill()
        eventually(lambda: server.metric("pd_queue_length", model_name="faults") == 0)


def test_in_a_crash_loop_the_others_go_on(server: RunningServer) -> None:
    """Its successors are killed as they come, until the server waits before it starts the next one."""
    staying = server.front_ends()[0]
    before = server.log().count("takes its place in ")
    deadline = time.monotonic() + 60
    while server.log().count("takes its place in ") < before + 2:
        assert time.monotonic() < deadline
        for each in server.front_ends():
            if each.pid != staying.pid:
                with contextlib.suppress(psutil.NoSuchProcess):
                    each.kill()
        with connect(server.inference) as client:
            client.sendall(asking("/predictions/mirror", b"abc"))
            with contextlib.suppress(ConnectionError):
                assert answered(client).status == 200
    assert lives(staying)


def test_all_end_with_the_server(server: RunningServer) -> None:
    assert server.process is not None
    family = server.family()
    assert len(server.front_ends()) == 2
    server.process.kill()
    server.process.wait(60)
    _, alive = psutil.wait_procs(family, timeout=60)
    assert not alive
    server.start()
