"""The inference port, as its clients use it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import requests

from tests.conftest import Lent, pack_handler
from tests.running import RunningServer, eventually, open_descriptors
from tests.security.raw import connect, read_all


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    folder = tmp_path_factory.mktemp("inference")
    store = folder / "store"
    store.mkdir()
    pack_handler(store, "chaos")
    pack_handler(store, "parts")
    with RunningServer(folder / "server", store, settings={"max_request_size": "100000"}) as server:
        yield server


def ask(server: RunningServer, op: str, **fields: object) -> requests.Response:
    return server.predict("chaos", json={"op": op, **fields})


def test_json_in_json_out(server: RunningServer) -> None:
    answer = ask(server, "echo", nonce=42)
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "application/json"
    assert answer.json()["nonce"] == 42


def test_text_and_bytes_have_their_content_types(server: RunningServer) -> None:
    text = ask(server, "text")
    assert (text.text, text.headers["content-type"]) == ("grüße", "text/plain; charset=utf-8")
    raw = ask(server, "raw")
    assert (raw.content, raw.headers["content-type"]) == (b"\x00\x01", "application/octet-stream")


def test_not_a_number_is_valid_json(server: RunningServer) -> None:
    assert ask(server, "nan").json() == {"x": None}


def test_headers_content_type_and_request_id_go_both_ways(server: RunningServer) -> None:
    answer = server.predict("chaos", json={"op": "headers"}, headers={"X-To-Handler": "hello", "X-Request-Id": "abc-1"})
    assert answer.headers["x-from-handler"] == "hello"
    assert answer.headers["content-type"] == "text/csv"
    assert answer.headers["x-request-id"] == "abc-1"


def test_every_request_has_an_id_of_its_own(server: RunningServer) -> None:
    answers = [ask(server, "request_id") for _ in range(3)]
    ids = [answer.headers["x-request-id"] for answer in answers]
    assert len(set(ids)) == 3
    assert [answer.text for answer in answers] == ids


@pytest.mark.parametrize("request_id", ["has space", "x" * 200, "ü"])
def test_an_unusable_request_id_is_replaced(server: RunningServer, request_id: str) -> None:
    answer = server.predict("chaos", json={"op": "echo"}, headers={"X-Request-Id": request_id.encode()})
    assert answer.status_code == 200
    assert answer.headers["x-request-id"] != request_id


def test_multipart_parts_reach_the_handler_by_name(server: RunningServer) -> None:
    files = {
        "data": ("a.bin", b"\x01\x02", "application/octet-stream"),
        "config": (None, '{"a": 1}', "application/json"),
        "word": (None, "hello"),
    }
    answer = server.predict("parts", files=files)
    assert answer.json() == {
        "data": ["bytearray", "0102"],
        "config": ["dict", {"a": 1}],
        "word": ["bytearray", b"hello".hex()],
    }


def test_a_real_form_is_taken_apart(server: RunningServer) -> None:
    answer = server.predict("parts", data={"a": "1", "b": "x y"})
    assert answer.json() == {"a": ["bytearray", b"1".hex()], "b": ["bytearray", b"x y".hex()]}


@pytest.mark.parametrize("body", [b'{"a": 1}', b"\x89PNG=\x00"])
def test_what_curl_calls_a_form_but_is_none_stays_whole(server: RunningServer, body: bytes) -> None:
    answer = server.predict("parts", data=body, headers={"Content-Type": "application/x-www-form-urlencoded"})
    assert answer.json() == {"body": ["bytearray", body.hex()]}


@pytest.mark.parametrize(
    ("body", "content_type", "words"),
    [
        (b'{"a":', "application/json", "not valid JSON"),
        (b"x", "multipart/form-data", "without a boundary"),
        (b"--b\r\nContent-Disposition: form-data; name=a\r\n\r\n1", "multipart/form-data; boundary=b", "cut short"),
        (b"--b\r\n\r\n1\r\n--b--\r\n", "multipart/form-data; boundary=b", "no name"),
        (b"\xff", "text/plain", "not text"),
    ],
)
def test_malformed_bodies_are_a_400_that_says_why(
    server: RunningServer, body: bytes, content_type: str, words: str
) -> None:
    answer = server.predict("parts", data=body, headers={"Content-Type": content_type})
    assert answer.status_code == 400
    assert answer.json()["type"] == "BadRequestException"
    assert words in answer.json()["message"]


def test_get_predicts_too(server: RunningServer) -> None:
    answer = requests.get(f"{server.inference}/predictions/parts", timeout=60)
    assert answer.json() == {"body": ["bytearray", ""]}


@pytest.mark.parametrize(
    ("path", "status", "kind"),
    [
        ("/predictions/nope", 404, "ModelNotFoundException"),
        ("/predictions/chaos/9.9", 404, "ModelVersionNotFoundException"),
        ("/predictions/", 400, "BadRequestException"),
        ("/nowhere", 404, "ResourceNotFoundException"),
        ("/", 405, "MethodNotAllowedException"),
    ],
)
def test_wrong_addresses(server: RunningServer, path: str, status: int, kind: str) -> None:
    answer = requests.post(server.inference + path, json={}, timeout=60)
    assert (answer.status_code, answer.json()["type"], answer.json()["code"]) == (status, kind, status)


def test_a_near_miss_is_suggested(server: RunningServer) -> None:
    assert "chaos" in server.predict("chaoss", json={}).json()["message"]


def test_errors_of_the_handler(server: RunningServer) -> None:
    failed = ask(server, "fail")
    assert failed.status_code == 500
    assert failed.json()["message"] == 'KeyError: "the handler\'s own fault"'
    assert "Traceback" not in failed.text
    server.logged("Traceback")
    bad = ask(server, "fail_item")
    assert (bad.status_code, bad.json()["message"]) == (400, "this one is bad")
    full = ask(server, "fail_item_torchserve")
    assert (full.status_code, full.reason, full.text) == (507, "No Room", "no room")
    teapot = ask(server, "prediction_exception")
    assert (teapot.status_code, teapot.json()["message"]) == (418, "teapots only")
    assert ask(server, "sys_exit").status_code == 500
    assert ask(server, "out_of_memory").status_code == 507
    assert ask(server, "unserialisable").status_code == 500
    assert ask(server, "bad_header").status_code == 500
    assert "1" in ask(server, "short").json()["message"]
    assert "list" in ask(server, "not_a_list").json()["message"]
    assert ask(server, "echo", nonce=1).json()["nonce"] == 1


def test_too_large_a_body_is_refused_with_the_limit(server: RunningServer) -> None:
    for body in (b"x" * 100_001, (b"x" * 1000 for _ in range(200))):
        answer = requests.post(f"{server.inference}/predictions/parts", data=body, timeout=60)
        assert answer.status_code == 413
        assert "100,000" in answer.json()["message"]
        assert "max_request_size" in answer.json()["message"]
    assert ask(server, "echo").status_code == 200


def test_large_answers_arrive_whole(server: RunningServer) -> None:
    assert ask(server, "large", bytes=5_000_000).content == bytes(5_000_000)


def test_a_chunked_body(server: RunningServer) -> None:
    answer = server.predict("chaos", data=iter([b'{"non', b'ce": 7}']), headers={"Content-Type": "application/json"})
    assert answer.json()["nonce"] == 7


def test_openapi(server: RunningServer) -> None:
    document = requests.options(f"{server.inference}/", timeout=60).json()
    assert document["openapi"].startswith("3.")
    assert "/predictions/chaos" in document["paths"]
    one = requests.options(f"{server.inference}/predictions/parts", timeout=60).json()
    assert list(one["paths"]) == ["/ping", "/predictions/parts"]


def raw(server: RunningServer, data: bytes, answers: int) -> list[tuple[int, bytes]]:
    """(status, body) of each answer to what is sent on one connection."""
    with connect(server.inference) as sock:
        sock.sendall(data)
        stream = sock.makefile("rb")
        result = []
        for _ in range(answers):
            status = int(stream.readline().split()[1])
            length = 0
            while (line := stream.readline()) not in (b"\r\n", b""):
                name, _, value = line.partition(b":")
                length = int(value) if name.lower() == b"content-length" else length
            result.append((status, stream.read(length)))
        return result


def post(nonce: int, path: str = "/predictions/chaos", extra: str = "") -> bytes:
    body = json.dumps({"op": "echo", "nonce": nonce}).encode()
    head = (
        f"POST {path} HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\n"
    )
    return f"{head}{extra}\r\n".encode() + body


def test_pipelined_requests_are_answered_in_their_order(server: RunningServer) -> None:
    count = 600
    answers = raw(server, b"".join(post(nonce) for nonce in range(count)), count)
    assert [json.loads(body)["nonce"] for _, body in answers] == list(range(count))


def test_predictions_and_other_requests_share_a_connection(server: RunningServer) -> None:
    ping = b"GET /ping HTTP/1.1\r\nhost: localhost\r\n\r\n"
    data = post(1) + ping + post(2, "/predictions/nope") + ping + post(3)
    answers = raw(server, data, 5)
    assert [status for status, _ in answers] == [200, 200, 404, 200, 200]
    assert json.loads(answers[4][1])["nonce"] == 3


def test_a_client_that_asks_to_continue(server: RunningServer) -> None:
    head, body = post(5, extra="expect: 100-continue\r\n").split(b"\r\n\r\n")
    with connect(server.inference) as sock:
        sock.sendall(head + b"\r\n\r\n")
        assert sock.recv(100).startswith(b"HTTP/1.1 100 Continue")
        sock.sendall(body)
        assert sock.recv(1000).startswith(b"HTTP/1.1 200")


def test_old_clients_are_answered_and_hung_up_on(server: RunningServer) -> None:
    with connect(server.inference) as sock:
        sock.sendall(b"GET /predictions/parts HTTP/1.0\r\n\r\n")
        data = read_all(sock)
    assert data.startswith(b"HTTP/1.1 200")
    assert b"connection: close" in data


def test_a_client_that_leaves_harms_nobody(server: RunningServer, tmp_path: Path) -> None:
    before = server.pids("chaos")
    body = json.dumps({"op": "wait_for", "begun": str(tmp_path / "begun"), "go": str(tmp_path / "go")}).encode()
    for data in (post(1)[:-3], post(1)[:20]):
        with connect(server.inference) as sock:
            sock.sendall(data)
    sock = connect(server.inference)
    sock.sendall(
        b"POST /predictions/chaos HTTP/1.1\r\nhost: localhost\r\ncontent-length: %d\r\n\r\n" % len(body) + body
    )
    eventually((tmp_path / "begun").exists)
    sock.close()
    (tmp_path / "go").touch()
    assert ask(server, "echo", nonce=9).json()["nonce"] == 9
    assert server.pids("chaos") == before


def test_everybody_gets_the_own_answer(server: RunningServer) -> None:
    with ThreadPoolExecutor(8) as threads:
        answers = list(threads.map(lambda nonce: ask(server, "echo", nonce=nonce).json()["nonce"], range(400)))
    assert answers == list(range(400))


def test_large_bodies_and_answers_cross_whole(roomy: RunningServer) -> None:
    body = bytes(range(256)) * 40_000
    for how in ({"data": body}, {"data": iter([body[:100_000], body[100_000:]])}):
        answer = roomy.predict("mirror", **how)
        assert answer.content == body[::-1]
    parts = roomy.predict("mirror", files={"body": ("a", body, "application/octet-stream")})
    assert parts.content == body[::-1]


def test_large_requests_of_one_batch_keep_their_own_bodies(roomy: RunningServer) -> None:
    def ask_with(number: int) -> bool:
        body = bytes([number]) * (300_000 + number) + b"x"
        return requests.post(f"{roomy.inference}/predictions/mirror", data=body, timeout=60).content == body[::-1]

    with ThreadPoolExecutor(8) as threads:
        assert all(threads.map(ask_with, range(40)))


def test_no_descriptor_stays_open(roomy: RunningServer) -> None:
    assert roomy.process is not None
    family = [roomy.process.pid, *(process.pid for process in roomy.family())]
    roomy.predict("mirror", data=bytes(1_000_000))
    before = [len(open_descriptors(pid)) for pid in family]
    for _ in range(20):
        roomy.predict("mirror", data=bytes(1_000_000))
    eventually(lambda: all(len(open_descriptors(pid)) <= then for pid, then in zip(family, before, strict=True)))


def test_a_worker_keeps_no_large_input(roomy: RunningServer) -> None:
    roomy.predict("mirror", data=bytes(1_000_000))
    (pid,) = roomy.pids("mirror")
    eventually(lambda: "memfd" not in Path(f"/proc/{pid}/maps").read_text())


@pytest.fixture(scope="module")
def roomy(servant: Lent) -> Iterator[RunningServer]:
    """A server that takes large bodies."""
    yield servant("mirror", config="batchSize: 8\nmaxBatchDelay: 20\n")
    servant.clear()
