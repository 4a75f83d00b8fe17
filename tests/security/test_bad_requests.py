"""What no client should send: a 4xx that says why, a connection that ends, and a server that goes on."""

from __future__ import annotations

import random
import socket
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pdserver.grpc.http2.frames import PREFACE
from pdserver.prpc.frames import MAGIC
from tests.conftest import pack_handler
from tests.running import RunningServer, eventually
from tests.security import bad_requests
from tests.security.bad_requests import HOST, NEXT, Bad
from tests.security.raw import Answer, Oracle, answers, connect, one, read_all, reset, talk

PATHS = {"inference": "/predictions/chaos", "management": "/models", "metrics": "/metrics"}
CANARIES = {"inference": "/ping", "management": "/models", "metrics": "/metrics"}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    folder = tmp_path_factory.mktemp("bad-requests")
    store = folder / "store"
    store.mkdir()
    pack_handler(store, "chaos")
    settings = {"max_request_size": "100000", "slow_client_timeout": "1", "disable_system_metrics": "true"}
    with RunningServer(folder / "server", store, settings=settings) as server:
        yield server


@pytest.fixture(autouse=True, scope="module")
def unharmed(server: RunningServer) -> Iterator[None]:
    """After all of it."""
    canaries = [(getattr(server, port), path) for port, path in CANARIES.items()]
    for url, path in canaries:  # what is opened with the first request
        talk(url, b"GET %b HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n" % path.encode())
    oracle = Oracle(server)
    workers = server.pids("chaos")
    server.session.close()
    yield
    oracle.check(canaries)
    assert server.pids("chaos") == workers


ALL = [("inference", bad) for bad in bad_requests.ALL]
SOME = [(port, bad) for port in ("management", "metrics") for bad in bad_requests.ALL[:: len(bad_requests.ALL) // 10]]
"""At ports that read requests with the same code."""


@pytest.mark.parametrize(("port", "bad"), ALL + SOME, ids=lambda value: value.name if isinstance(value, Bad) else value)
def test_it_is_refused_and_nothing_after_it_is_answered(server: RunningServer, port: str, bad: Bad) -> None:
    data = bad.data.replace(b"%(path)b", PATHS[port].encode())
    [answer] = talk(getattr(server, port), data + NEXT)
    assert answer.status == bad.status, answer
    assert bad.words.lower() in answer.message.lower()
    assert answer.headers["connection"] == "close"
    assert answer.headers["content-type"] == "application/json"


@pytest.mark.parametrize("bad", bad_requests.ALL, ids=[bad.name for bad in bad_requests.ALL])
def test_it_is_refused_in_pieces_too(server: RunningServer, bad: Bad) -> None:
    data = bad.data.replace(b"%(path)b", PATHS["inference"].encode())
    for cut in {1, len(data) // 2, min(65_000, len(data) - 3)}:
        with connect(server.inference) as sock:
            sock.sendall(data[:cut])
            time.sleep(0.01)  # or they would arrive as one
            with suppress(ConnectionError):
                sock.sendall(data[cut:] + NEXT)
            [answer] = answers(read_all(sock))
            assert answer.status == bad.status, answer


@pytest.mark.parametrize("bad", bad_requests.FRAMING[::4] + bad_requests.CHUNKS[::4] + bad_requests.HEADERS[::6])
@pytest.mark.parametrize("port", PATHS)
def test_what_came_before_is_answered_first(server: RunningServer, port: str, bad: Bad) -> None:
    good = b"GET %b HTTP/1.1\r\nhost: localhost\r\n\r\n" % CANARIES[port].encode()
    data = bad.data.replace(b"%(path)b", PATHS[port].encode())
    first, second = talk(getattr(server, port), good + data + NEXT)
    assert (first.status, second.status) == (200, bad.status)


@pytest.mark.parametrize("port", PATHS)
def test_bytes_by_chance(server: RunningServer, port: str) -> None:
    """Requests that are cut, doubled, or changed somewhere: no 5xx, no half answer, no silence."""
    chance = random.Random(port)
    request = b"POST %b HTTP/1.1\r\nhost: localhost\r\ntransfer-encoding: chunked\r\nx: y\r\n\r\n2\r\n{}\r\n0\r\n\r\n"
    request %= PATHS[port].encode()
    for _ in range(100):
        data = bytearray(request)
        for _ in range(chance.randint(1, 4)):
            place = chance.randrange(len(data))
            change = chance.choice((b"", bytes([chance.randrange(256)]), b"\r\n", b"\0", b" ", data[place:]))
            data[place : place + chance.randint(0, 3)] = change
        with connect(getattr(server, port)) as sock:
            sock.sendall(data)
            sock.shutdown(socket.SHUT_WR)
            for answer in answers(read_all(sock)):
                assert answer.status < 500, (answer, bytes(data))


@settings(max_examples=60)
@given(data=st.binary(min_size=1, max_size=200).filter(lambda data: not data.startswith((PREFACE, MAGIC))))
def test_any_bytes_are_answered_with_a_4xx_or_not_at_all(server: RunningServer, data: bytes) -> None:
    with connect(server.inference) as sock:
        sock.sendall(data)
        sock.shutdown(socket.SHUT_WR)
        assert all(400 <= answer.status < 500 for answer in answers(read_all(sock)))


# Bodies


@pytest.mark.parametrize("port", PATHS)
def test_a_declared_body_that_is_too_large_is_not_waited_for(server: RunningServer, port: str) -> None:
    size = 2_000_000
    head = b"POST %b HTTP/1.1\r\nhost: localhost\r\ncontent-length: %d\r\n" % (PATHS[port].encode(), size)
    [answer] = talk(getattr(server, port), head + b"expect: 100-continue\r\n\r\n")
    assert answer.status == 413
    assert "max_request_size" in answer.message


@pytest.mark.parametrize("port", PATHS)
def test_an_undeclared_body_that_is_too_large(server: RunningServer, port: str) -> None:
    head = b"POST %b HTTP/1.1\r\nhost: localhost\r\ntransfer-encoding: chunked\r\n" % PATHS[port].encode()
    json = b"content-type: application/json\r\n\r\n"
    chunk = b"8000\r\n" + b" " * 0x8000 + b"\r\n"
    *_, answer = talk(getattr(server, port), head + json, *[chunk] * 40)
    if port == "inference":
        assert answer.status == 413
    assert 400 <= answer.status < 500


def test_a_body_in_too_many_chunks(server: RunningServer) -> None:
    head = b"POST /predictions/chaos HTTP/1.1\r\nhost: localhost\r\ntransfer-encoding: chunked\r\n\r\n"
    [answer] = talk(server.inference, head, b"1\r\n \r\n" * 70_000)
    assert (answer.status, "65,536 chunks" in answer.message) == (413, True)


@pytest.mark.parametrize("filling", [b"5;" + b"x" * 2_000_000, b"0\r\nx: " + b"y" * 2_000_000])
def test_endless_words_around_chunks(server: RunningServer, filling: bytes) -> None:
    head = b"POST /predictions/chaos HTTP/1.1\r\nhost: localhost\r\ntransfer-encoding: chunked\r\n\r\n"
    [answer] = talk(server.inference, head, filling)
    assert (answer.status, "around the body's chunks" in answer.message) == (413, True)


def test_what_comes_after_the_body_is_no_header(server: RunningServer) -> None:
    head = b"POST /predictions/chaos HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\ntransfer-encoding: chunked\r\n"
    body = b'{"op": "echo", "nonce": 5}'
    trailer = b"content-type: text/plain\r\nx-request-id: mine\r\nhost: evil.com\r\n"
    chunked = b"%x\r\n%b\r\n0\r\n%b\r\n" % (len(body), body, trailer)
    [answer] = talk(server.inference, head + b"content-type: application/json\r\n\r\n" + chunked)
    assert (answer.status, b'"nonce":5' in answer.body) == (200, True)
    assert answer.headers["x-request-id"] != "mine"


# Slow clients, and such as leave


def all_at_once(
    server: RunningServer, pieces: list[bytes], ports: Iterable[str] = PATHS
) -> list[tuple[str, list[Answer]]]:
    """What each port answers to each of them: (port, answers); they wait side by side."""
    with ExitStack() as stack:
        sent = []
        for port in ports:
            for piece in pieces:
                sock = stack.enter_context(connect(getattr(server, port)))
                sock.sendall(piece.replace(b"%(path)b", PATHS[port].encode()))
                sent.append((port, sock))
        return [(port, answers(read_all(sock))) for port, sock in sent]


def test_heads_that_do_not_come_to_an_end(server: RunningServer) -> None:
    for _, [answer] in all_at_once(server, [b"G", b"GET /", b"GET / HTTP/1.1\r\nhost: localhost\r\nx: "]):
        assert (answer.status, "the head did not come" in answer.message) == (408, True)


def test_bodies_that_do_not_come_to_an_end(server: RunningServer) -> None:
    head = b"POST %(path)b HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\ncontent-length: 50\r\n\r\n"
    for port, found in all_at_once(server, [head, head + b"x"]):
        *_, answer = found
        if port == "inference":
            assert (answer.status, "the body stopped after" in answer.message) == (408, True)
        assert 400 <= answer.status < 500


def test_clients_that_say_nothing_are_hung_up_on(server: RunningServer) -> None:
    assert all(found == [] for _, found in all_at_once(server, [b"", b"\r\n\r\n", b"\r\n" * 100]))


def test_a_connection_between_requests_may_wait_longer_than_a_slow_client(server: RunningServer) -> None:
    ping = b"GET /ping HTTP/1.1\r\nhost: localhost\r\n\r\n"
    predict = b"POST /predictions/chaos HTTP/1.1\r\nhost: localhost\r\ncontent-length: 14\r\n\r\n" + b'{"op": "echo"}'
    for first in (ping, predict):
        with connect(server.inference) as kept, connect(server.inference) as silent:
            kept.sendall(first)
            assert one(kept).status == 200
            assert read_all(silent) == b""  # hung up on after slow_client_timeout
            kept.sendall(ping)
            assert one(kept).status == 200


def test_many_slow_clients_hold_up_nobody(server: RunningServer) -> None:
    """Nor does any of them go unanswered."""
    line = b"POST /predictions/chaos HTTP/1.1\r\nhost: "
    stalled = [line + b"loc", line + b"localhost\r\ncontent-length: 1000\r\n\r\nx"]
    with ThreadPoolExecutor(1) as threads:
        waiting = threads.submit(all_at_once, server, stalled * 300, ["inference"])
        asked = 0
        while not waiting.done():
            assert server.predict("chaos", json={"op": "echo"}).status_code == 200
            asked += 1
        assert asked > 10
        assert all(answer.status == 408 for _, [answer] in waiting.result())


def test_a_body_that_ends_early(server: RunningServer) -> None:
    with connect(server.inference) as sock:
        sock.sendall(b"POST /predictions/chaos HTTP/1.1\r\nhost: localhost\r\ncontent-length: 50\r\n\r\nhello")
        sock.shutdown(socket.SHUT_WR)
        [answer] = answers(read_all(sock))
    assert (answer.status, "closed in the body, after 5 bytes" in answer.message) == (400, True)


def test_a_client_that_does_not_read_is_hung_up_on_and_holds_no_worker(server: RunningServer) -> None:
    body = b'{"op": "large", "bytes": 30000000}'
    with socket.socket() as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        sock.settimeout(60)
        host, _, port = server.inference.removeprefix("http://").partition(":")
        sock.connect((host, int(port)))
        head = b"POST /predictions/chaos HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n"
        sock.sendall(head + b"content-length: %d\r\n\r\n" % len(body) + body)
        assert sock.recv(1) == b"H"
        assert server.predict("chaos", json={"op": "echo"}).status_code == 200
        server.logged("does not read its answer: hung up")
        assert len(read_all(sock)) < 30_000_000


def test_answers_that_are_not_read_hold_up_the_next_ones(server: RunningServer) -> None:
    """One that asks for a thousand large answers, and reads none, gets no more than a few made."""
    body = b'{"op": "large", "bytes": 3000000}'
    one = b"POST /predictions/chaos HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n"
    one += b"content-length: %d\r\n\r\n" % len(body) + body
    before = server.metric("pd_requests_total", model_name="chaos", result="succeeded")
    hung_up = "does not read its answer: hung up"
    times = server.log().count(hung_up)
    with connect(server.inference) as sock:
        sock.sendall(one * 200)
        server.logged(hung_up, times + 1)
        reset(sock)
    after = eventually(lambda: server.metric("pd_requests_total", model_name="chaos", result="succeeded"))
    assert after - before < 20


def test_clients_that_leave_in_the_middle(server: RunningServer) -> None:
    whole = b"POST /predictions/chaos HTTP/1.1\r\nhost: localhost\r\ncontent-length: 2\r\n\r\n{}"
    for port in PATHS:
        for length in range(1, len(whole), 7):
            sock = connect(getattr(server, port))
            sock.sendall(whole[:length])
            (reset if length % 2 else socket.socket.close)(sock)


# What is not wrong


def test_a_proxys_form_of_the_target(server: RunningServer) -> None:
    [answer] = talk(
        server.inference, b"GET http://localhost/ping HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n"
    )
    assert answer.status == 200


@pytest.mark.parametrize("upgrade", [b"h2c", b"websocket", b"TLS/1.0, HTTP/1.1", b"nonsense"])
def test_who_asks_for_another_protocol_is_answered_in_this_one(server: RunningServer, upgrade: bytes) -> None:
    """With its body, which is not taken for the next request: Java's client asks so each time."""
    ask = b"connection: Upgrade, HTTP2-Settings\r\nupgrade: " + upgrade + b"\r\nhttp2-settings: AAMAAABkAAQAAP__\r\n"
    body = b'{"op": "echo", "nonce": 7}'
    post = b"POST /predictions/chaos HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n"
    post += b"content-length: %d\r\n" % len(body) + ask + b"\r\n" + body
    get = b"GET /ping HTTP/1.1\r\nhost: localhost\r\n" + ask + b"\r\n"
    last = b"GET /ping HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n"
    found = talk(server.inference, post + get + post + last)
    assert [answer.status for answer in found] == [200] * 4
    assert b'"nonce":7' in found[0].body
    assert b'"nonce":7' in found[2].body


@pytest.mark.parametrize("method", [b"TRACE", b"DELETE", b"PATCH", b"HEAD", b"PROPFIND"])
def test_methods_that_a_route_has_not(server: RunningServer, method: bytes) -> None:
    data = method + b" /predictions/chaos HTTP/1.1\r\nconnection: close\r\n" + HOST + b"\r\n"
    with connect(server.inference) as sock:
        sock.sendall(data)
        assert read_all(sock).startswith((b"HTTP/1.1 404", b"HTTP/1.1 405"))


@pytest.mark.parametrize(
    "path",
    [
        *(b"/predictions/" + name for name in (b"%00", b"a%00b", b"..%2f..%2fetc", b"%ff", b"a" * 5000)),
        *(b"//ping", b"/%2e%2e/ping", b"/\xff"),
    ],
)
def test_paths_that_lead_nowhere(server: RunningServer, path: bytes) -> None:
    data = b"GET " + path + b" HTTP/1.1\r\nconnection: close\r\n" + HOST + b"\r\n"
    for port in PATHS:
        [answer] = talk(getattr(server, port), data)
        assert 400 <= answer.status < 500
