"""Clients that leave, that only listen any more, that send many requests at once, and that are there when it stops."""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from pathlib import Path
from typing import Any

import grpc
import psutil
import pytest
import requests

from tests.conftest import Serve, pack_handler
from tests.grpc_client import inference_pb2, prediction
from tests.prpc_client import Prpc, frame
from tests.running import RunningServer, eventually
from tests.security.raw import answers, connect, read_all, reset
from tests.test_budget import memory_files

MIB = 1 << 20
PING = b"GET /ping HTTP/1.1\r\nhost: localhost\r\n\r\n"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    folder = tmp_path_factory.mktemp("connections")
    store = folder / "store"
    store.mkdir()
    for name in ("faults", "stream", "mirror", "parts"):
        pack_handler(store, name)
    with RunningServer(folder / "server", store, settings={"disable_system_metrics": "true"}) as server:
        yield server


@pytest.fixture
def held(server: RunningServer, tmp_path: Path) -> Iterator[Path]:
    """The worker of `faults` is busy until this file is there, or the test is at its end."""
    go, begun = tmp_path / "go", tmp_path / "begun"
    asked = {"op": "wait_for", "begun": str(begun), "go": str(go)}
    thread = threading.Thread(
        target=requests.post, args=(f"{server.inference}/predictions/faults",), kwargs={"json": asked, "timeout": 60}
    )
    thread.start()
    eventually(begun.exists)
    yield go
    go.touch()
    thread.join()


def post(model: str, body: Any, version: str = "1.1", headers: bytes = b"") -> bytes:
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    kind = b"application/octet-stream" if isinstance(body, bytes) else b"application/json"
    line = f"POST /predictions/{model} HTTP/{version}\r\nhost: localhost\r\n".encode()
    return b"%bcontent-type: %b\r\ncontent-length: %d\r\n%b\r\n%b" % (line, kind, len(data), headers, data)


def waiting(server: RunningServer, model: str = "faults") -> int:
    return int(server.describe(model)["jobQueueStatus"]["pendingRequests"])


# Who leaves


@pytest.mark.parametrize("leave", [reset, socket.socket.close])
def test_what_waits_in_the_queue_goes_with_its_client(
    server: RunningServer, held: Path, leave: Callable[[socket.socket], None]
) -> None:
    asked = server.metric("pd_requests_total", model_name="faults", result="succeeded")
    large = post("faults", {"pad": "x" * MIB})
    for _ in range(3):  # more than the queue has room for, all together
        socks = [connect(server.inference) for _ in range(40)]
        for sock in socks:
            sock.sendall(large)
        eventually(lambda: waiting(server) == 40)
        assert len(memory_files(server)) == 40
        for sock in socks:
            leave(sock)
        eventually(lambda: waiting(server) == 0)
        eventually(lambda: not memory_files(server))
    held.touch()
    assert server.predict("faults", json={"nonce": 1}).json()["nonce"] == 1
    done = server.metric("pd_requests_total", model_name="faults", result="succeeded")
    assert done - asked == 2, "nothing was run for those who left"


@pytest.mark.parametrize("leave", [reset, socket.socket.close])
def test_what_is_with_a_worker_goes_when_the_worker_is_done_with_it(
    server: RunningServer, tmp_path: Path, leave: Callable[[socket.socket], None]
) -> None:
    go, begun = tmp_path / "go", tmp_path / "begun"
    sock = connect(server.inference)
    sock.sendall(post("faults", {"op": "wait_for", "begun": str(begun), "go": str(go), "pad": "x" * MIB}))
    eventually(begun.exists)
    leave(sock)
    go.touch()
    eventually(lambda: not memory_files(server))
    assert server.predict("faults", json={"nonce": 2}).json()["nonce"] == 2


def test_an_answered_request_leaves_nothing_on_a_connection_that_is_kept(server: RunningServer) -> None:
    with closing(requests.Session()) as session:
        for _ in range(3):
            data = bytes(range(256)) * 4096
            answer = session.post(f"{server.inference}/predictions/mirror", data=data, timeout=60)
            assert answer.content == data[::-1]
            eventually(lambda: not memory_files(server))


# Who only listens


def half_closed(server: RunningServer, data: bytes) -> bytes:
    """All that comes back to a client that says at once that it sends nothing more."""
    with connect(server.inference) as sock:
        sock.sendall(data)
        sock.shutdown(socket.SHUT_WR)
        return read_all(sock)


@pytest.mark.parametrize("version", ["1.1", "1.0"])
def test_who_sends_nothing_more_is_answered_and_hung_up_on(server: RunningServer, version: str) -> None:
    received = half_closed(server, post("faults", {"nonce": 3}, version))
    [answer] = answers(received)
    assert (answer.status, json.loads(answer.body)["nonce"]) == (200, 3)
    assert received.startswith(b"HTTP/1.1 200"), "nothing comes before an answer that comes soon"


def test_who_sends_nothing_more_has_all_answers(server: RunningServer) -> None:
    data = post("faults", {"nonce": 4}) + PING + post("mirror", b"abc") + PING
    first, ping, mirrored, last = answers(half_closed(server, data))
    assert [ping.status, last.status, mirrored.body] == [200, 200, b"cba"]
    assert json.loads(first.body)["nonce"] == 4


def test_who_sends_nothing_more_has_a_large_body_answered(server: RunningServer) -> None:
    data = bytes(range(256)) * 20_000
    [answer] = answers(half_closed(server, post("mirror", data)))
    assert answer.body == data[::-1]


def test_who_sends_nothing_more_has_a_streamed_answer(server: RunningServer) -> None:
    received = half_closed(server, post("stream", {"count": 3}))
    assert received.endswith(b"3\r\nend\r\n0\r\n\r\n")


@pytest.mark.parametrize(("path", "status"), [("/ping", 200), ("/nowhere", 404), ("/v2/health/live", 200)])
def test_who_sends_nothing_more_is_answered_by_the_application(server: RunningServer, path: str, status: int) -> None:
    [answer] = answers(half_closed(server, b"GET %b HTTP/1.1\r\nhost: localhost\r\n\r\n" % path.encode()))
    assert answer.status == status


def test_who_sends_nothing_more_and_waits_for_long_is_answered(server: RunningServer, held: Path) -> None:
    """It is asked meanwhile, by what means nothing to it, whether it is there."""
    with connect(server.inference) as sock:
        sock.sendall(post("faults", {"nonce": 5}))
        sock.shutdown(socket.SHUT_WR)
        asked = sock.recv(100)
        assert asked == b"HTTP/1.1 100 Continue\r\n\r\n"
        assert waiting(server) == 1
        held.touch()
        [answer] = answers(read_all(sock))
        assert json.loads(answer.body)["nonce"] == 5


def test_half_a_request_and_nothing_more_is_refused_behind_the_answers_before_it(
    server: RunningServer, held: Path
) -> None:
    with connect(server.inference) as sock:
        sock.sendall(post("faults", {"nonce": 6}) + post("faults", {"nonce": 7})[:-3])
        sock.shutdown(socket.SHUT_WR)
        eventually(lambda: waiting(server) == 1)
        held.touch()
        first, second = answers(read_all(sock))
    assert (first.status, second.status) == (200, 400)
    assert "closed in the body" in second.message


# HTTP/1.0


def test_a_client_of_1996_that_keeps_its_connection_is_told_that_it_is_kept(server: RunningServer) -> None:
    ask = post("mirror", b"abc", "1.0", b"connection: Keep-Alive\r\n")
    with connect(server.inference) as sock:
        for _ in range(3):
            sock.sendall(ask)
            received = sock.recv(65536)
            [answer] = answers(received)
            assert (answer.status, answer.body, answer.headers["connection"]) == (200, b"cba", "keep-alive")
        sock.sendall(post("nowhere", b"abc", "1.0", b"connection: Keep-Alive\r\n"))
        [answer] = answers(sock.recv(65536))
        assert (answer.status, answer.headers["connection"]) == (404, "keep-alive")
        sock.sendall(post("mirror", b"abc", "1.0"))
        [answer] = answers(read_all(sock))
        assert answer.headers["connection"] == "close"


def test_a_client_of_1996_has_streamed_answers_until_the_connection_ends(server: RunningServer) -> None:
    with connect(server.inference) as sock:
        sock.sendall(post("stream", {"count": 2}, "1.0", b"connection: keep-alive\r\n"))
        head, _, body = read_all(sock).partition(b"\r\n\r\n")
    assert body == b"0 1 end"
    assert b"connection: close" in head
    assert b"chunked" not in head


def test_a_client_of_1996_is_not_asked_to_go_on(server: RunningServer) -> None:
    with connect(server.inference) as sock:
        sock.sendall(post("mirror", b"abc", "1.0", b"expect: 100-continue\r\n"))
        assert read_all(sock).startswith(b"HTTP/1.1 200")


def test_the_benchmark_of_1996_keeps_its_connections(server: RunningServer, tmp_path: Path) -> None:
    ab = shutil.which("ab")
    if ab is None:
        pytest.skip("there is no ab: apt install apache2-utils")
    (tmp_path / "body").write_bytes(b"abc")
    command = [ab, "-q", "-k", "-n", "200", "-c", "4", "-p", str(tmp_path / "body"), "-T", "application/octet-stream"]
    done = subprocess.run(
        [*command, f"{server.inference}/predictions/mirror"], capture_output=True, text=True, timeout=100, check=True
    )
    figures = {line.partition(":")[0]: line.partition(":")[2].split() for line in done.stdout.splitlines()}
    assert figures["Complete requests"] == figures["Keep-Alive requests"] == ["200"], done.stdout
    assert figures["Failed requests"] == ["0"]
    assert "Non-2xx responses" not in figures


# Forms


@pytest.mark.parametrize("size", [262_143, 262_144, 3_000_000])
def test_a_form_of_any_size_is_taken_apart(server: RunningServer, size: int) -> None:
    text = "x =&%+\u00fc" * (size // 7)
    answer = server.predict("parts", data={"a": text, "b": "1"})
    assert answer.json() == {"a": ["bytearray", text.encode().hex()], "b": ["bytearray", b"1".hex()]}


@pytest.mark.parametrize("body", [b"\x89PNG=" * 60_000, b"x" * 300_000, b"a=" + b"b" * 300_000 + b" "])
def test_a_large_body_that_curl_calls_a_form_but_is_none_stays_whole(server: RunningServer, body: bytes) -> None:
    answer = server.predict("parts", data=body, headers={"Content-Type": "application/x-www-form-urlencoded"})
    assert answer.json() == {"body": ["bytearray", body.hex()]}


# Who is there when the server stops


def stop(server: RunningServer) -> None:
    """Returns when all connections of the inference port have been told, and no more are taken in."""
    assert server.process is not None
    server.process.terminate()

    def refused() -> bool:
        try:
            connect(server.inference).close()
        except ConnectionRefusedError:
            return True
        return False

    eventually(refused)


def read_until(sock: socket.socket, end: bytes) -> bytes:
    received = b""
    while not received.endswith(end):
        piece = sock.recv(65536)
        assert piece, f"hung up on after {received!r}"
        received += piece
    return received


@contextmanager
def request_behind_a_streamed_answer(server: RunningServer, go: Path, when: str) -> Iterator[None]:
    """The answer has begun without a word of its being the last one, so the client may send another request."""
    with connect(server.inference) as sock:
        sock.sendall(post("stream", {"count": 2, "go": str(go)}))
        received = read_until(sock, b"0 \r\n")
        assert b"connection: close" not in received
        yield
        if when == "during the stream":
            sock.sendall(post("mirror", b"abc"))
        go.touch()
        if when == "after the stream":
            assert read_until(sock, b"0\r\n\r\n").endswith(b"end\r\n0\r\n\r\n")
            sock.sendall(post("mirror", b"abc"))
        received = read_all(sock)
        if when == "during the stream":
            stream, end, received = received.partition(b"0\r\n\r\n")
            assert (stream.endswith(b"end\r\n"), bool(end)) == (True, True)
        [answer] = answers(received)
    assert (answer.status, answer.body, answer.headers["connection"]) == (200, b"cba", "close")


@contextmanager
def requests_behind_one_that_is_run_and_half_a_request(server: RunningServer, go: Path) -> Iterator[None]:
    """Each is answered, and the last answer on a connection says that it is."""
    begun = go.with_suffix(".begun")
    with connect(server.inference) as busy, connect(server.inference) as half:
        busy.sendall(post("faults", {"op": "wait_for", "begun": str(begun), "go": str(go), "nonce": 1}))
        eventually(begun.exists)
        half.sendall(post("faults", {"nonce": 2})[:30])
        yield
        busy.sendall(post("faults", {"nonce": 3}) + PING)
        half.sendall(post("faults", {"nonce": 2})[30:])
        go.touch()
        first, second, third = answers(read_all(busy))
        [other] = answers(read_all(half))
    assert [json.loads(each.body)["nonce"] for each in (first, second, other)] == [1, 3, 2]
    assert json.loads(third.body)["status"] == "Unhealthy"
    assert ["connection" in each.headers for each in (first, second)] == [False, False]
    assert third.headers["connection"] == other.headers["connection"] == "close"


@contextmanager
def calls_of_other_protocols(server: RunningServer, go: Path) -> Iterator[None]:
    """On the same port. What runs is answered; connections without calls are closed."""
    method = "org.pytorch.serve.grpc.inference.InferenceAPIsService/Predictions"

    def asked(name: str) -> Any:
        what = {"op": "wait_for", "begun": str(go.with_name(f"begun-{name}")), "go": str(go), "nonce": 8}
        return prediction("waits", body=json.dumps(what).encode())

    with (
        Prpc(server.inference) as client,
        Prpc(server.inference) as idle,
        grpc.insecure_channel(server.inference.removeprefix("http://")) as channel,
    ):
        assert idle.call("nowhere/x").errno
        client.send(frame(method, asked("prpc").SerializeToString()))
        predict: Any = channel.unary_unary(f"/{method}")
        call = predict.future(asked("grpc").SerializeToString(), timeout=60)
        for name in ("prpc", "grpc"):
            eventually(go.with_name(f"begun-{name}").exists)
        yield
        assert idle.rest() == []
        go.touch()
        for message in (client.rest()[0].body, call.result()):
            assert json.loads(inference_pb2.PredictionResponse.FromString(message).prediction)["nonce"] == 8


def test_every_request_on_a_connection_is_answered_before_the_end(store: Path, serve: Serve, tmp_path: Path) -> None:
    pack_handler(store, "stream", config="minWorkers: 2\n")
    pack_handler(store, "faults", "waits", config="minWorkers: 2\n")
    for name in ("mirror", "faults"):
        pack_handler(store, name)
    server = serve()
    with (
        request_behind_a_streamed_answer(server, tmp_path / "go1", "during the stream"),
        request_behind_a_streamed_answer(server, tmp_path / "go2", "after the stream"),
        requests_behind_one_that_is_run_and_half_a_request(server, tmp_path / "go3"),
        calls_of_other_protocols(server, tmp_path / "go4"),
    ):
        stop(server)
    assert server.stop() == 0


# Who sends many requests at once


def test_a_burst_of_requests_leaves_others_their_turn(server: RunningServer) -> None:
    """Counted, not timed: while one connection has eight thousand answers, another one has its share."""
    burst, bursts = post("nowhere", b"") * 1000, 8
    counted = 0

    def attack(sock: socket.socket) -> None:
        for _ in range(bursts):
            sock.sendall(burst)

    with connect(server.inference) as attacker, connect(server.inference) as other:
        sending = threading.Thread(target=attack, args=(attacker,))
        received = 0
        rest = b""
        asking = threading.Event()

        def ask() -> None:
            nonlocal counted
            while not asking.is_set():
                other.sendall(post("nowhere", b""))
                read_until(other, b"}\n")
                counted += 1

        asker = threading.Thread(target=ask)
        sending.start()
        asker.start()
        while received < 1000 * bursts:
            piece = rest + attacker.recv(1 << 20)
            received += piece.count(b"HTTP/1.1 404")
            rest = piece[-11:]
        asking.set()
        sending.join()
        asker.join()
    assert received == 1000 * bursts
    assert counted > bursts * 2, f"{counted} answers beside {received}"


def test_no_order_is_lost_in_a_burst(server: RunningServer) -> None:
    """Predictions, refusals, bodies of all sizes and other requests, over many reads."""
    expected = []
    data = b""
    for number in range(300):
        body = b"%d." % number * (1 + number * 37 % 4000)
        data += post("mirror", body) + PING + post("nowhere", body[:100])
        if number % 7 == 0:
            chunks = b"".join(
                b"%x\r\n%b\r\n" % (len(body[at : at + 999]), body[at : at + 999]) for at in range(0, len(body), 999)
            )
            head = b"POST /predictions/mirror HTTP/1.1\r\nhost: localhost\r\ntransfer-encoding: chunked\r\n\r\n"
            data += head + chunks + b"0\r\n\r\n"
            expected += [body[::-1], None, 404, body[::-1]]
        else:
            expected += [body[::-1], None, 404]
    data += PING.replace(b"\r\n\r\n", b"\r\nconnection: close\r\n\r\n")
    with connect(server.inference) as sock:
        sending = threading.Thread(target=sock.sendall, args=(data,))
        sending.start()
        found = answers(read_all(sock))
        sending.join()
    assert len(found) == len(expected) + 1
    for answer, wanted in zip(found, expected, strict=False):
        if isinstance(wanted, bytes):
            assert answer.body == wanted
        else:
            assert answer.status == (wanted or 200)


def test_what_waits_in_a_burst_is_not_read_ahead(server: RunningServer, held: Path) -> None:
    """Ten clients send as much as is taken from them, behind a request that waits: hardly anything of it is held."""
    assert server.process is not None
    process = psutil.Process(server.process.pid)
    with ExitStack() as stack:
        socks = [stack.enter_context(connect(server.inference)) for _ in range(10)]
        for sock in socks:
            sock.sendall(post("faults", {"nonce": 8}))
        eventually(lambda: waiting(server) == len(socks))
        before = process.memory_info().rss
        for sock in socks:
            sock.settimeout(0.3)
            with suppress(TimeoutError):
                while True:
                    sock.sendall(PING * 1000)
        assert process.memory_info().rss - before < 2 * MIB * len(socks)
        held.touch()
        for sock in socks:
            sock.settimeout(60)
            assert sock.recv(12) == b"HTTP/1.1 200"
            reset(sock)
