"""The memory for bodies that are being received: what all connections may have of it together."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pdserver.system.budget import Budget
from tests.conftest import pack_handler
from tests.running import RunningServer, eventually
from tests.security.raw import Answer, answers, connect, read_all, reset

MIB = 1 << 20


def test_one_body_alone_may_be_larger_than_all_of_it() -> None:
    budget = Budget(10)
    assert budget.take(8, 0)
    assert budget.take(8, 8)
    assert not budget.take(1, 0)
    budget.give_back(16)
    assert budget.take(1, 0)


@given(steps=st.lists(st.tuples(st.integers(0, 4), st.integers(0, 60), st.booleans())))
def test_who_is_refused_makes_room_for_the_others(steps: list[tuple[int, int, bool]]) -> None:
    """However bodies grow: no more is held than there is, but for one alone; and all of it comes back."""
    budget = Budget(100)
    bodies = [0] * 5
    for body, more, complete in steps:
        if budget.take(more, bodies[body]):
            bodies[body] += more
        if complete:
            budget.give_back(bodies[body])
            bodies[body] = 0
        assert budget.held_bytes == sum(bodies)
        assert budget.held_bytes <= 100 or sum(1 for held in bodies if held) == 1
    for held in bodies:
        budget.give_back(held)
    assert budget.held_bytes == 0


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    folder = tmp_path_factory.mktemp("budget")
    store = folder / "store"
    store.mkdir()
    pack_handler(store, "mirror")
    settings = {"receive_buffer_bytes": str(5 * MIB), "disable_system_metrics": "true"}
    with RunningServer(folder / "server", store, settings=settings) as server:
        yield server


def memory_files(server: RunningServer) -> list[int]:
    """The bytes in each that the server has open."""
    sizes = []
    for path in (each for process in server.before() for each in Path(f"/proc/{process.pid}/fd").iterdir()):
        with suppress(OSError):
            if "memfd:pdserver" in str(path.readlink()):
                sizes.append(path.stat().st_size)
    return sizes


def talk(sock: socket.socket, data: bytes) -> Answer:
    """The one answer, which may come before all is sent."""
    with suppress(ConnectionError):
        sock.sendall(data)
    [answer] = answers(read_all(sock))
    return answer


def head(size: int, path: str = "/predictions/mirror") -> bytes:
    return b"POST %b HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\ncontent-length: %d\r\n\r\n" % (
        path.encode(), size,
    )  # fmt: skip


@pytest.mark.parametrize("chunked", [False, True])
def test_bodies_beyond_it_are_refused_and_the_others_get_on(server: RunningServer, chunked: bool) -> None:
    data = bytes(range(256)) * (2 * MIB // 256)
    with connect(server.inference) as first, connect(server.inference) as second:
        for sock in (first, second):
            sock.sendall(head(len(data)) + data[: len(data) * 2 // 3])
        eventually(lambda: sum(memory_files(server)) == 2 * (len(data) * 2 // 3))
        more = bytes(4 * MIB)
        with connect(server.inference) as sock:
            if chunked:
                begin = head(0).replace(b"content-length: 0", b"transfer-encoding: chunked")
                third = talk(sock, begin + b"%x\r\n%b\r\n0\r\n\r\n" % (len(more), more))
            else:
                third = talk(sock, head(len(more)) + more)
        assert (third.status, third.headers["retry-after"]) == (503, "1")
        assert "receive_buffer_bytes" in third.message
        assert server.predict("mirror", data=b"small").content == b"llams", "what comes in one piece is not counted"
        for sock in (first, second):
            sock.sendall(data[len(data) * 2 // 3 :])
        for sock in (first, second):
            [answer] = answers(read_all(sock))
            assert (answer.status, answer.body) == (200, data[::-1])
    assert server.predict("mirror", data=data).content == data[::-1]
    eventually(lambda: not memory_files(server))


def test_one_that_is_larger_than_all_of_it_is_received_when_no_other_is(server: RunningServer) -> None:
    data = bytes(7 * MIB)
    assert server.predict("mirror", data=data).content == data


@pytest.mark.parametrize("path", ["/predictions/mirror", "/v2/models/mirror/generate"])
@pytest.mark.parametrize("leave", [reset, socket.socket.close])
def test_what_came_of_a_body_goes_with_its_client(
    server: RunningServer, path: str, leave: Callable[[socket.socket], None]
) -> None:
    socks = []
    for _ in range(16):
        sock = connect(server.inference)
        sock.sendall(head(MIB, path) + bytes(300_000))
        socks.append(sock)
        for _ in range(20):  # the server's own objects grow old meanwhile: Python would not look at them for long
            with connect(server.inference) as other:
                assert talk(other, b"GET /ping HTTP/1.0\r\n\r\n").status == 200
    if path == "/predictions/mirror":
        eventually(lambda: len(memory_files(server)) == 16)
    for sock in socks:
        leave(sock)
    eventually(lambda: not memory_files(server))
    data = bytes(4 * MIB)
    eventually(lambda: server.predict("mirror", data=data).content == data)  # nor does the budget count it any more


def test_who_is_refused_in_the_middle_gives_back_what_came(server: RunningServer) -> None:
    chunk = b"%x\r\n%b\r\n" % (MIB, bytes(MIB))
    with connect(server.inference) as sock:
        sock.sendall(head(0).replace(b"content-length: 0", b"transfer-encoding: chunked") + chunk * 2 + b"what?")
        [answer] = answers(read_all(sock))
        assert answer.status == 400
        data = bytes(2 * MIB)
        assert server.predict("mirror", data=data).content == data, "while its connection still is there"
