"""Requests whose head is known are answered as those that are parsed."""

from __future__ import annotations

import http.client
import json
import socket
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from pdserver.codec.pool import CodecPool
from pdserver.dialects.torchserve.rest import other_door
from pdserver.http.known_heads import KnownHead, KnownHeads
from tests.conftest import pack_handler
from tests.running import RunningServer, free_ports

DOOR = other_door(CodecPool())
HEAD = (
    b"POST /predictions/chaos HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    b"Content-Length: 11\r\n\r\n"
)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    store = tmp_path_factory.mktemp("store")
    pack_handler(store, "chaos")
    oip = {"oip_address": f"http://127.0.0.1:{free_ports(1)[0]}"}
    with RunningServer(tmp_path_factory.mktemp("server"), Path(store), settings=oip) as running:
        yield running


class Connection:
    """Raw bytes out, answers in."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self._stream = sock.makefile("rb")

    def send(self, data: bytes) -> None:
        self.sock.sendall(data)

    def answer(self) -> tuple[int, dict[str, str], bytes]:
        status = int(self._stream.readline().split()[1])
        headers = http.client.parse_headers(self._stream)
        body = self._stream.read(int(headers.get("content-length", 0)))
        return status, {name.lower(): value for name, value in headers.items()}, body


Connect = Callable[[], Connection]


@pytest.fixture
def connect(server: RunningServer) -> Iterator[Connect]:
    port = urlsplit(server.inference).port
    assert port is not None
    with ExitStack() as stack:

        def connect() -> Connection:
            sock = socket.create_connection(("127.0.0.1", port), timeout=20)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            return Connection(stack.enter_context(sock))

        yield connect


def nonce(number: int) -> bytes:
    body = b'{"nonce":%d}' % number
    assert len(body) == 11
    return body


def test_each_request_has_its_own_answer_and_id(connect: Connect) -> None:
    ids = set()
    for _ in range(2):
        connection = connect()
        for number in (1, 2, 3):
            connection.send(HEAD + nonce(number))
            status, headers, body = connection.answer()
            assert (status, json.loads(body)["nonce"]) == (200, number)
            ids.add(headers["x-request-id"])
    assert len(ids) == 6


def test_however_a_request_arrives(connect: Connect) -> None:
    connection = connect()
    whole = HEAD + nonce(1)
    for cut in (len(whole), 5, len(HEAD) - 2, len(HEAD), len(HEAD) + 3, len(whole)):
        connection.send(whole[:cut])
        if cut < len(whole):
            connection.send(whole[cut:])
        assert json.loads(connection.answer()[2])["nonce"] == 1
    connection.send(b"".join(HEAD + nonce(number) for number in (1, 2, 3)))
    assert [json.loads(connection.answer()[2])["nonce"] for _ in range(3)] == [1, 2, 3]


@pytest.mark.parametrize("header", [b"X-Request-Id: mine", b"Connection: close", b"Expect: 100-continue"])
def test_what_a_head_asks_for_is_done_each_time(connect: Connect, header: bytes) -> None:
    head = HEAD.replace(b"Host: localhost", b"Host: localhost\r\n" + header)
    for number in (1, 2):
        connection = connect()
        connection.send(head + nonce(number))
        status, headers, body = connection.answer()
        if status == 100:
            status, headers, body = connection.answer()
        assert (status, json.loads(body)["nonce"]) == (200, number)
        if b"Id" in header:
            assert headers["x-request-id"] == "mine"
        if b"close" in header:
            assert headers["connection"] == "close"
            assert connection.sock.recv(1) == b""


def test_errors_and_other_requests_between(connect: Connect) -> None:
    connection = connect()
    for body, status in ((nonce(1), 200), (b"not JSON at", 400), (nonce(2), 200), (b"not JSON at", 400)):
        connection.send(HEAD + body)
        assert connection.answer()[0] == status
        connection.send(b"GET /ping HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert connection.answer()[0] == 200
    connection.send(HEAD.replace(b"11", b"eleven") + nonce(1))
    assert connection.answer()[0] == 400


def test_what_one_port_knows_the_other_does_not(server: RunningServer, connect: Connect) -> None:
    connection = connect()
    for number in (1, 2):
        connection.send(HEAD + nonce(number))
        assert connection.answer()[0] == 200
    port = urlsplit(server.settings["oip_address"]).port
    with socket.create_connection(("127.0.0.1", port or 0), timeout=20) as sock:
        other = Connection(sock)
        other.send(HEAD + nonce(1))
        assert other.answer()[0] == 404


def test_only_whole_requests_are_known() -> None:
    heads = KnownHeads()
    head = KnownHead(DOOR, b"POST", b"/x", [], 3)
    for not_whole in (b"POST\r\n\r\nab", b"POST\r\n\r\nabcd", b"POST\r\nabc", b"x" * 3000 + b"\r\n\r\nabc"):
        heads.learn(not_whole, head)
        assert heads.find(not_whole) is None
    heads.learn(b"POST\r\n\r\nabc", head)
    assert heads.find(b"POST\r\n\r\nxyz") == (head, b"xyz")
    for other in (b"POST\r\n\r\nxy", b"POST\r\n\r\nxyzPOST\r\n\r\nxyz", b"post\r\n\r\nxyz", b"POST\r\n\r\n"):
        assert heads.find(other) is None


def test_the_memory_is_bounded() -> None:
    heads = KnownHeads()
    head = KnownHead(DOOR, b"POST", b"/x", [], 0)
    for number in range(5000):
        heads.learn(b"%d\r\n\r\n" % number, head)
    assert sum(heads.find(b"%d\r\n\r\n" % number) is not None for number in range(5000)) <= 1000
