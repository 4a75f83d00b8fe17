"""How requests over HTTP are passed on: what is changed, what fails, what is repeated."""

from __future__ import annotations

import contextlib
import gzip
import json
import re
import socket
import threading
import time
from collections.abc import Mapping
from pathlib import Path

import pytest
import requests

from pdserver.peers.base import Addresses
from tests.conftest import pack_handler
from tests.peers.fake_node import OK, FakeNode, said
from tests.peers.nodes import Node
from tests.running import eventually
from tests.security.raw import connect, read_all, talk

PATH = "/predictions/fake"


def ask(node: Node, path: str, data: bytes = b"abc", headers: Mapping[str, str] | None = None) -> requests.Response:
    return requests.post(node.server.inference + path, data=data, headers=headers, timeout=60)


def head(path: str, *lines: str, method: str = "POST") -> bytes:
    return "\r\n".join([f"{method} {path} HTTP/1.1", "host: localhost", *lines, "", ""]).encode("latin-1")


def test_what_came_goes_on(nodes: dict[str, Node], fake: FakeNode) -> None:
    fake.reset(said(OK))
    with connect(nodes["a"].server.inference) as sock:
        sock.sendall(
            b"POST /predictions/f%61ke/1.0/a%2Fb?q=%20&r=+ HTTP/1.1\r\nHost: localhost\r\nX-Mine: caf\xe9\r\n"
            b"X-Twice: 1\r\nX-Twice: 2\r\ntraceparent: 00-abc\r\nX-Request-Id: mine\r\nCookie: a=b\r\n"
            b"Connection: keep-alive, X-Hop\r\nX-Hop: 1\r\nTE: trailers\r\nOrigin: http://localhost\r\n"
            b"Transfer-Encoding: chunked\r\nAuthorization: Bearer abc\r\n\r\n"
            b"3\r\nabc\r\n2;x=y\r\nde\r\n0\r\nX-Late: 1\r\n\r\n"
        )
        answer = sock.recv(65536)
    assert answer.startswith(b"HTTP/1.1 200 OK\r\n")
    assert answer.endswith(b"\r\n\r\nok")
    [request] = fake.received
    assert request.line == b"POST /predictions/f%61ke/1.0/a%2Fb?q=%20&r=+ HTTP/1.1"
    assert request.body == b"abcde"
    assert request.all(b"host") == [fake.url.removeprefix("http://").encode()]
    assert request.all(b"x-mine") == [b"caf\xe9"]
    assert request.all(b"x-twice") == [b"1", b"2"]
    for name, value in (
        (b"traceparent", b"00-abc"), (b"x-request-id", b"mine"), (b"cookie", b"a=b"), (b"content-length", b"5"),
        (b"authorization", b"Bearer abc"), (b"pd-forwarded-by", b"a"),
    ):  # fmt: skip
        assert request.all(name) == [value]
    names = {name for name, _ in request.headers}
    assert not names & {b"connection", b"x-hop", b"te", b"transfer-encoding", b"origin", b"x-late"}


def test_a_request_without_an_id_gets_one(nodes: dict[str, Node], fake: FakeNode) -> None:
    fake.reset(said(OK))
    answer = ask(nodes["a"], PATH)
    assert fake.received[0].all(b"x-request-id") == [answer.headers["x-request-id"].encode()]


def test_compressed_bodies_go_on_as_they_are(nodes: dict[str, Node], fake: FakeNode) -> None:
    body = gzip.compress(b"[1]")
    data = b"HTTP/1.1 200 OK\r\ncontent-encoding: gzip\r\ncontent-length: %d\r\n\r\n%b" % (len(body), body)
    fake.reset(said(data))
    answer = ask(nodes["a"], "/v2/models/fake/infer", body, {"content-encoding": "gzip"})
    assert fake.received[0].body == body
    assert answer.content == b"[1]"
    assert answer.headers["content-length"] == str(len(body))


def test_headers_of_the_other_connection_alone_do_not_come(nodes: dict[str, Node], fake: FakeNode) -> None:
    fake.reset(
        said(
            b"HTTP/1.1 299 Fine So\r\nConnection: close, X-Hop\r\nX-Hop: 1\r\nKeep-Alive: timeout=5\r\nX-Kept: 1\r\n"
            b"Date: yesterday\r\nTransfer-Encoding: chunked\r\nSet-Cookie: a=b\r\nSet-Cookie: c=d\r\n\r\n"
            b"2\r\nok\r\n0\r\nX-Trailer: 1\r\n\r\n",
            kept=False,
        )
    )
    answer = ask(nodes["a"], PATH)
    assert (answer.status_code, answer.reason, answer.content) == (299, "Fine So", b"ok")
    assert answer.headers["x-kept"] == "1"
    assert answer.headers["set-cookie"] == "a=b, c=d"
    assert "yesterday" not in answer.headers["date"]
    assert not {"connection", "x-hop", "keep-alive", "x-trailer"} & {name.lower() for name in answer.headers}


def test_an_interim_answer_is_not_the_answer(nodes: dict[str, Node], fake: FakeNode) -> None:
    fake.reset(said(b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nlink: x\r\n\r\n" + OK))
    assert ask(nodes["a"], PATH).content == b"ok"


def test_answers_without_a_body(nodes: dict[str, Node], fake: FakeNode) -> None:
    fake.reset(said(b"HTTP/1.1 204 No Content\r\nx: y\r\n\r\n"))
    with requests.Session() as session:
        for _ in range(2):
            answer = session.post(nodes["a"].server.inference + PATH, data=b"abc", timeout=60)
            assert (answer.status_code, answer.content, answer.headers["x"]) == (204, b"", "y")


def test_an_answer_that_ends_with_its_connection(nodes: dict[str, Node], fake: FakeNode) -> None:
    fake.reset(said(b"HTTP/1.1 200 OK\r\n\r\nokay", kept=False))
    assert ask(nodes["a"], PATH).content == b"okay"
    fake.reset(said(b"HTTP/1.1 200 OK\r\n\r\n", kept=False))
    assert ask(nodes["a"], PATH).content == b""


def test_contracts_of_pipelines(nodes: dict[str, Node], fake: FakeNode) -> None:
    """Their requests name no model."""
    fake.reset(said(OK))
    assert ask(nodes["a"], "/ocr", b'{"file": "aGk="}').content == b"ok"
    assert fake.received[0].line == b"POST /ocr HTTP/1.1"
    assert ask(nodes["a"], "/seal-recognition", b'{"file": "aGk="}').status_code == 404


def test_connections_are_kept(nodes: dict[str, Node], fake: FakeNode) -> None:
    ends = []

    def answer(sock: socket.socket) -> bool:
        ends.append(sock.getpeername())
        return said(OK)(sock)

    fake.reset(answer)
    for _ in range(3):
        ask(nodes["a"], PATH)
    assert len(set(ends[1:])) == 1


def test_a_kept_connection_that_has_ended_is_no_failure(nodes: dict[str, Node], fake: FakeNode) -> None:
    """The node closes each after its answer, and has not said so."""
    fake.reset(said(OK, kept=False))
    assert [ask(nodes["a"], PATH).status_code for _ in range(5)] == [200] * 5


def test_expect_continue_is_answered_here(nodes: dict[str, Node], fake: FakeNode) -> None:
    fake.reset(said(OK))
    with connect(nodes["a"].server.inference) as sock:
        sock.sendall(head(PATH, "content-length: 3", "expect: 100-continue", "connection: close"))
        assert sock.recv(100) == b"HTTP/1.1 100 Continue\r\n\r\n"
        sock.sendall(b"abc")
        assert read_all(sock).endswith(b"\r\n\r\nok")
    assert not fake.received[0].all(b"expect")


def test_pipelined_requests_are_answered_in_their_order(nodes: dict[str, Node], fake: FakeNode) -> None:
    def slow(sock: socket.socket) -> bool:
        time.sleep(0.2)
        return said(OK)(sock)

    fake.reset(slow)
    close = ("content-length: 3", "connection: close")
    own = head("/predictions/own/1.0", "content-length: 3")
    requests_ = [
        head(PATH, "content-length: 3"),
        own,
        head(PATH, "content-length: 3"),
        head("/predictions/own/1.0", *close),
    ]
    found = talk(nodes["a"].server.inference, b"".join(each + b"abc" for each in requests_))
    assert [each.body for each in found] == [b"ok", b"cba", b"ok", b"cba"]


def test_clients_of_http_1_0(nodes: dict[str, Node], fake: FakeNode) -> None:
    fake.reset(said(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n2\r\nay\r\n0\r\n\r\n"))
    with connect(nodes["a"].server.inference) as sock:
        sock.sendall(b"POST %b HTTP/1.0\r\nconnection: keep-alive\r\ncontent-length: 3\r\n\r\nabc" % PATH.encode())
        answer = read_all(sock)
    assert answer.endswith(b"connection: close\r\n\r\nokay")


def without_hint(text: str) -> str:
    return re.sub(r" \(is it [a-z_]+\?\)", "", text)


@pytest.mark.parametrize(
    ("path", "method"),
    [
        ("/predictions/ghost", "POST"),
        ("/v2/models/ghost/infer", "POST"),
        ("/v2/models/ghost", "GET"),
        ("/v1/models/ghost:predict", "POST"),
        ("/v1/models/ghost", "GET"),
        ("/ghost/prediction", "POST"),
    ],
)
def test_nothing_goes_in_circles(nodes: dict[str, Node], path: str, method: str) -> None:
    """The files of a and b both say that the other one has the model."""
    server = nodes["c"].server
    expected = requests.request(method, server.inference + path.replace("ghost", "none"), data=b"{}", timeout=60)
    told = requests.request(
        method, server.inference + path, data=b"{}", headers={"pd-forwarded-by": "somebody"}, timeout=60
    )
    assert told.headers["pd-lacks-model"] == "1"
    found = [requests.request(method, nodes[name].server.inference + path, data=b"{}", timeout=60) for name in "abc"]
    for answer in (told, *found):
        assert answer.status_code == expected.status_code
        assert without_hint(answer.text).replace("ghost", "none") == without_hint(expected.text)
    assert not any("pd-lacks-model" in answer.headers for answer in found)


def test_the_default_version_is_that_of_all_nodes(nodes: dict[str, Node]) -> None:
    """`a` has moved/1.0, and the default is 2.0 on b; own/2.0 on b is no default."""
    assert json.loads(ask(nodes["a"], "/predictions/moved", b'{"op": "echo", "nonce": 7}').content)["nonce"] == 7
    assert ask(nodes["a"], "/predictions/moved/1.0").content == b"cba"
    assert ask(nodes["a"], "/predictions/own").content == b"cba"
    assert json.loads(ask(nodes["a"], "/predictions/own/2.0", b'{"nonce": 8}').content)["nonce"] == 8
    versions = requests.get(nodes["a"].server.inference + "/v2/models/moved", timeout=60).json()["versions"]
    assert versions == ["2.0"]


def test_a_node_that_can_not_be_reached(nodes: dict[str, Node]) -> None:
    before = nodes["a"].forwarded("gone", "not_connected")
    assert ask(nodes["a"], "/predictions/gone_or_b").content == b"cba"
    assert nodes["a"].forwarded("gone", "not_connected") == before + 1
    answer = ask(nodes["a"], "/predictions/gone")
    assert answer.status_code == 503
    assert answer.headers["retry-after"] == "1"
    assert "gone version 1.0 is served by other nodes: gone Connection refused" in answer.json()["message"]


def test_what_is_not_loaded_yet_is_asked_elsewhere(nodes: dict[str, Node], tmp_path: Path) -> None:
    """A version that failed here, too."""
    server = nodes["a"].server
    store = Path(server.settings["model_store"])
    pack_handler(store, "hard_to_load", "late", config=f"loading: {{until: {tmp_path / 'ready'}, else: die}}\n")
    answer = server.manage("POST", "/models?url=late.pdar&synchronous=false&initial_workers=1")
    assert answer.status_code == 202, answer.text
    try:
        tensor = {"name": "body", "datatype": "BYTES", "shape": [1, 1], "data": ["abc"]}
        asked = json.dumps({"inputs": [tensor]}).encode()
        assert json.loads(ask(nodes["a"], "/v2/models/late/infer", asked).content)["outputs"][0]["data"] == ["cba"]
        eventually(lambda: server.describe("late").get("lastError"))
        eventually(lambda: ask(nodes["a"], "/predictions/late").content == b"cba")
    finally:
        assert server.manage("DELETE", "/models/late").status_code == 200


def test_a_node_that_breaks_off_before_its_answer(nodes: dict[str, Node], fake: FakeNode) -> None:
    """Another one answers, but for sequences."""
    fake.reset(said(b"", kept=False))
    before = nodes["a"].forwarded("fake", "broken")
    while nodes["a"].forwarded("fake", "broken") == before:
        assert ask(nodes["a"], "/predictions/fake_or_b").content == b"cba"
    fake.reset(said(b"HTTP/1.1 200 O", kept=False))
    for path in ("/predictions/fake_sequences", PATH):
        answer = ask(nodes["a"], path)
        assert answer.status_code == 502
        assert "fake broke off" in answer.json()["message"]


@pytest.mark.parametrize("framing", [b"content-length: 10", b"transfer-encoding: chunked"])
@pytest.mark.parametrize("path", [PATH, "/v2/models/fake/generate"])
def test_a_node_that_breaks_off_amid_its_answer(
    nodes: dict[str, Node], fake: FakeNode, framing: bytes, path: str
) -> None:
    fake.reset(said(b"HTTP/1.1 200 OK\r\n%b\r\n\r\n2\r\nok\r\n" % framing, kept=False))
    with pytest.raises(requests.exceptions.RequestException):
        ask(nodes["a"], path)
    assert ask(nodes["a"], "/predictions/own").status_code == 200


@pytest.mark.parametrize(
    "data",
    [
        b"SSH-2.0-x\r\n",
        b"HTTP/1.1 2000 OK\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nx: %b\r\n\r\n" % (b"y" * 100_000),
        b"HTTP/1.1 101 Switching Protocols\r\nupgrade: x\r\nconnection: upgrade\r\n\r\nabc",
    ],
    ids=["no http", "no status", "large head", "another protocol"],
)
def test_a_node_that_does_not_answer_in_http(nodes: dict[str, Node], fake: FakeNode, data: bytes) -> None:
    fake.reset(said(data, kept=False))
    assert ask(nodes["a"], PATH).status_code == 502
    assert requests.get(nodes["a"].server.inference + "/v2/models/fake", timeout=60).status_code == 502
    assert "Traceback" not in nodes["a"].server.log()


def test_odd_statuses(nodes: dict[str, Node], fake: FakeNode) -> None:
    metadata = nodes["a"].server.inference + "/v2/models/fake"
    fake.reset(said(b"HTTP/1.1 304 Not Modified\r\ncontent-length: 10\r\n\r\n"))
    assert ask(nodes["a"], PATH).status_code == requests.get(metadata, timeout=60).status_code == 304
    fake.reset(said(b"HTTP/1.1 799 Odd\r\ncontent-length: 2\r\n\r\nok"))
    assert ask(nodes["a"], PATH).status_code == 799
    assert requests.get(metadata, timeout=60).status_code == 502
    assert "Traceback" not in nodes["a"].server.log()


def test_deadlines_go_on_reduced(nodes: dict[str, Node], fake: FakeNode) -> None:
    fake.reset(said(OK))
    with connect(nodes["a"].server.inference) as sock:
        until = ("x-request-timeout-ms: 60000", "expect: 100-continue", "connection: close")
        sock.sendall(head(PATH, "content-length: 3", *until))
        assert sock.recv(100).startswith(b"HTTP/1.1 100 ")  # from here on, the time counts
        time.sleep(0.05)
        sock.sendall(b"abc")
        read_all(sock)
    [left] = fake.received[0].all(b"x-request-timeout-ms")
    assert 0 < int(left) <= 59_950


def test_a_deadline_that_passes(nodes: dict[str, Node], fake: FakeNode, tmp_path: Path) -> None:
    def never(sock: socket.socket) -> bool:
        sock.recv(1)
        fake.left.set()
        return False

    fake.reset(never)
    before = nodes["a"].forwarded("fake", "expired")
    assert ask(nodes["a"], PATH, headers={"x-request-timeout-ms": "100"}).status_code == 504
    assert fake.left.wait(60)
    assert nodes["a"].forwarded("fake", "expired") == before + 1


def test_a_client_that_leaves(nodes: dict[str, Node], fake: FakeNode) -> None:
    """The other node sees it, before its answer as well as amid it."""

    def never(sock: socket.socket) -> bool:
        sock.recv(1)
        fake.left.set()
        return False

    def endless(sock: socket.socket) -> bool:
        sock.sendall(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n")
        with contextlib.suppress(ConnectionError):
            while True:
                sock.sendall(b"2\r\nok\r\n")
                time.sleep(0.01)
        fake.left.set()
        return False

    for path in (PATH, "/v2/models/fake"):
        for answer in (never, endless):
            fake.reset(answer)
            with connect(nodes["a"].server.inference) as sock:
                sock.sendall(head(path, "content-length: 0", method="POST" if path == PATH else "GET"))
                eventually(lambda: fake.received)
                if answer is endless:
                    assert b"200 OK" in sock.recv(65536)
            assert fake.left.wait(60)


def test_pieces_come_as_the_node_has_them(nodes: dict[str, Node], tmp_path: Path) -> None:
    go = tmp_path / "go"
    body = json.dumps({"count": 2, "go": str(go)}).encode()
    with requests.post(
        nodes["a"].server.inference + "/predictions/stream", data=body, stream=True, timeout=60
    ) as answer:
        pieces = answer.iter_content(None)
        first = next(pieces)
        assert first.strip() == b"0"
        go.touch()
        assert b"".join(pieces).split() == [b"1", b"end"]


def test_large_bodies_both_ways(nodes: dict[str, Node]) -> None:
    body = bytes(range(256)) * (20 * 4096)
    with requests.Session() as session:
        for _ in range(2):
            answer = session.post(nodes["a"].server.inference + "/predictions/mirror", data=body, timeout=60)
            assert answer.content == body[::-1]


def test_a_slow_client_slows_the_other_node_down(nodes: dict[str, Node], fake: FakeNode) -> None:
    sent = [0]

    def much(sock: socket.socket) -> bool:
        size = 200 * 2**20
        sock.sendall(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % size)
        sock.settimeout(1)
        try:
            while sent[0] < size:
                sent[0] += sock.send(bytes(2**20))
        except TimeoutError:
            fake.left.set()
        return False

    fake.reset(much)
    with connect(nodes["a"].server.inference) as sock:
        sock.sendall(head(PATH, "content-length: 0"))
        sock.recv(1000)
        assert fake.left.wait(60), "all was taken"
    assert sent[0] < 100 * 2**20


def test_an_early_refusal_reaches_the_client(nodes: dict[str, Node], fake: FakeNode) -> None:
    """The node answers before it has read the body, and closes."""

    answered = threading.Event()

    class Early(FakeNode):
        def _serve(self, sock: socket.socket) -> None:
            sock.recv(1000)
            sock.sendall(b"HTTP/1.1 413 Too Large\r\ncontent-length: 2\r\nconnection: close\r\n\r\nno")
            answered.wait(60)  # a connection that is closed with a body unread may take the answer along
            sock.close()

    early = Early()
    a = nodes["a"]
    before = a.said
    a.tell({**before.nodes, "fake": Addresses(early.url, "", "", "")}, before.routes)
    try:
        answer = ask(a, PATH, bytes(20 * 2**20))
        assert (answer.status_code, answer.content) == (413, b"no")
    finally:
        answered.set()
        a.tell(before.nodes, before.routes)
        early.close()


def test_management_is_not_passed_on(nodes: dict[str, Node]) -> None:
    server = nodes["a"].server
    assert server.manage("GET", "/models/only_b").status_code == 404
    assert server.manage("DELETE", "/models/only_b").status_code == 404
    assert requests.get(nodes["b"].server.inference + "/v2/models/only_b/ready", timeout=60).status_code == 200


def test_the_access_log_has_the_request(nodes: dict[str, Node]) -> None:
    ask(nodes["a"], "/predictions/mirror", headers={"x-request-id": "for-the-log"})
    [line] = eventually(lambda: [line for line in nodes["a"].server.log().splitlines() if "for-the-log" in line])
    assert '"POST /predictions/mirror HTTP/1.1" 200 ' in line
    assert line.endswith("for-the-log mirror")
