"""Requests whose head is known are answered as those that are parsed."""

from __future__ import annotations

import gc
import http.client
import json
import math
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from urllib.parse import urlsplit

import pytest

from pdserver.codec.pool import CodecPool
from pdserver.configuration.tokens import Scope, Token
from pdserver.dialects.torchserve.rest import other_door
from pdserver.http.known_heads import KnownHead, KnownHeads
from pdserver.security.keyring import Keyring
from tests.conftest import Lent
from tests.running import RunningServer

DOOR = other_door(CodecPool())
HEAD = (
    b"POST /predictions/chaos HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    b"Content-Length: 11\r\n\r\n"
)


@pytest.fixture(scope="module")
def server(servant: Lent) -> Iterator[RunningServer]:
    yield servant("chaos")
    servant.clear()


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
            sock = socket.create_connection(("127.0.0.1", port), timeout=60)
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
    port = urlsplit(server.management).port
    with socket.create_connection(("127.0.0.1", port or 0), timeout=60) as sock:
        other = Connection(sock)
        other.send(HEAD + nonce(1))
        assert other.answer()[0] == 404


def test_only_whole_requests_are_known() -> None:
    heads = KnownHeads()
    head = KnownHead(DOOR, DOOR.prepare(b"/x/predict", []), b"POST", b"/x", [], 3)
    for not_whole in (b"POST\r\n\r\nab", b"POST\r\n\r\nabcd", b"POST\r\nabc", b"x" * 3000 + b"\r\n\r\nabc"):
        heads.learn(not_whole, head)
        assert heads.find(not_whole) is None
    heads.learn(b"POST\r\n\r\nabc", head)
    found = heads.find(b"POST\r\n\r\nxyz")
    assert found is not None
    assert (found[0], found[3]) == (head, b"xyz")
    for other in (b"POST\r\n\r\nxy", b"POST\r\n\r\nxyzPOST\r\n\r\nxyz", b"post\r\n\r\nxyz", b"POST\r\n\r\n"):
        assert heads.find(other) is None


def test_the_memory_is_bounded() -> None:
    heads = KnownHeads()
    head = KnownHead(DOOR, DOOR.prepare(b"/x/predict", []), b"POST", b"/x", [], 0)
    for number in range(5000):
        heads.learn(b"%d\r\n\r\n" % number, head)
    assert sum(heads.find(b"%d\r\n\r\n" % number) is not None for number in range(5000)) <= 1000


TOKENS = [Token.of(letter * 40, Scope.INFERENCE) for letter in "ab"]
OWN = b"POST /x HTTP/1.1\r\nX-Request-Id: %b\r\nAccept: */*\r\ntraceparent: %b\r\n\r\nabc"
WITH_TOKEN = b"POST /x HTTP/1.1\r\nAuthorization: Bearer %b\r\nx-request-id: %b\r\n\r\nabc"


def own(request_id: bytes = b"12345678", trace: bytes = b"00-abcdef-01") -> bytes:
    return OWN % (request_id, trace)


def known_head(headers: list[tuple[bytes, bytes]], until: float = math.inf) -> KnownHead:
    return KnownHead(DOOR, DOOR.prepare(b"/x/predict", []), b"POST", b"/x", headers, 3, until)


def knowing_own() -> KnownHeads:
    heads = KnownHeads()
    parsed = [(b"x-request-id", b"12345678"), (b"accept", b"*/*"), (b"traceparent", b"00-abcdef-01")]
    heads.learn(own(), known_head(parsed))
    return heads


def test_values_of_its_own_are_those_of_each_request() -> None:
    heads = knowing_own()
    for request_id, trace in ((b"12345678", b"00-abcdef-01"), (b'a:b"c%d~', b"00-fedcba-00")):
        found = heads.find(own(request_id, trace))
        assert found is not None
        assert found[1:] == (
            [(b"x-request-id", request_id), (b"accept", b"*/*"), (b"traceparent", trace)], request_id.decode(), b"abc",
        )  # fmt: skip


@pytest.mark.parametrize(
    "attack",
    [
        own(b"1\r\na: 45"), own(b"1\n\na: 45"), own(b"1\r\n\r\n234"), own(b"1234567\r"), own(b"1234567\0"),
        own(b"1234 678"), own(b"1234567 "), own(b" 1234567"), own(b"1234567\t"), own(b"1234567\xff"),
        own(b"123456789"), own(b""), own(b"123456789", b"00-abcdef-0"), own(trace=b"00\r\nTransf:1"), own(b"1234567\n"),
        own() + b"d", own() + own(), own()[:-1],
        own(b"1234567\x7f"), own().replace(b"X-", b"x-"), own().replace(b"*/*", b"*/+"), own().replace(b": 1", b":\t1"),
    ],
)  # fmt: skip
def test_whatever_may_mean_something_else_is_parsed(attack: bytes) -> None:
    assert knowing_own().find(attack) is None


@pytest.mark.parametrize(
    ("lines", "headers"),
    [
        (b"x-request-id: 1\r\nX-Request-Id: 2", [(b"x-request-id", b"1"), (b"x-request-id", b"2")]),
        (b"x-request-id: 1\r\nX-Request-Id: 1", [(b"x-request-id", b"1"), (b"x-request-id", b"1")]),
        (b"x-request-id: 1", [(b"x-request-id", b"1 2")]),
        (b"x-request-id:1", [(b"x-request-id", b"1")]),
        (b"x-request-id: 1 2", [(b"x-request-id", b"1 2")]),
        (b"x-request-id: " + b"1" * 129, [(b"x-request-id", b"1" * 129)]),
        (b"traceparent: 1", []),
    ],
)
def test_a_head_with_doubtful_values_is_not_learned(lines: bytes, headers: list[tuple[bytes, bytes]]) -> None:
    heads, data = KnownHeads(), b"POST /x HTTP/1.1\r\n%b\r\n\r\nabc" % lines
    heads.learn(data, known_head(headers))
    assert heads.find(data) is None


def test_a_token_is_known_by_its_hash_until_it_expires_or_the_tokens_change() -> None:
    keyring = Keyring(TOKENS, None)
    heads = KnownHeads(keyring)
    a, b = (letter * 40 for letter in (b"a", b"b"))
    for _ in range(2):
        assert heads.find(WITH_TOKEN % (a, b"1")) is None
        heads.learn(WITH_TOKEN % (a, b"1"), known_head([(b"x-request-id", b"1")]), b"Bearer " + a)
        found = heads.find(WITH_TOKEN % (a, b"2"))
        assert found is not None
        assert found[1:3] == ([(b"x-request-id", b"2")], "2")
        for other in (b, a[:-1] + b"b", b"c" * 40, a[:-1] + b" ", b" " * 40):
            assert heads.find(WITH_TOKEN % (other, b"2")) is None
        kept = str(gc.get_referents(*gc.get_referents(heads.__dict__)))
        assert "Bearer" in kept
        assert a.decode() not in kept
        keyring.tokens = (*TOKENS[:1], Token.of("d" * 40, Scope.ADMIN))
    expired = known_head([(b"x-request-id", b"1")], time.time() - 1)
    heads.learn(WITH_TOKEN % (b, b"1"), expired, b"Bearer " + b)
    assert heads.find(WITH_TOKEN % (b, b"1")) is None


@pytest.mark.parametrize("authorization", [None, b"Bearer " + b"b" * 40, b"Basic " + b"a" * 40])
def test_a_token_that_was_not_checked_is_not_learned(authorization: bytes | None) -> None:
    heads = KnownHeads(Keyring(TOKENS, None))
    data = WITH_TOKEN % (b"a" * 40, b"1")
    heads.learn(data, known_head([(b"x-request-id", b"1")]), authorization)
    assert heads.find(data) is None
