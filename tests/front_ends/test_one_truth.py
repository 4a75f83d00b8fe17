"""A server with several front ends keeps its limits, counts and logs as one, and is found by its command."""

from __future__ import annotations

import contextlib
import json
import re
import select
import socket
import subprocess
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from pdserver.security.failures import EACH
from tests.conftest import Serve, pack_handler
from tests.front_ends.several import of_all
from tests.grpc_client import access_log
from tests.running import PDSERVER, RunningServer, clean_environment, eventually
from tests.security.raw import answers, connect, one, read_all
from tests.without_paddle import running_without_paddle

MOST = 12
MIB = 1 << 20


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    folder = tmp_path_factory.mktemp("truth")
    store = folder / "store"
    store.mkdir()
    pack_handler(store, "mirror")
    settings = {
        "front_ends": "2",
        "max_connections": str(MOST),
        "receive_buffer_bytes": str(4 * MIB),
        "token_file": str(folder / "tokens.json"),
        "metrics_token_authorization": "false",
    }
    with running_without_paddle(folder, store, **settings) as running:
        key = json.loads((folder / "tokens.json").read_text())["admin"]["key"]
        running.session.headers["authorization"] = f"Bearer {key}"
        yield running


def request(server: RunningServer, length: int, token: str = "", id: str = "x") -> bytes:
    key = token or str(server.session.headers["authorization"]).removeprefix("Bearer ")
    head = "POST /predictions/mirror HTTP/1.1\r\nhost: localhost\r\n"
    return f"{head}authorization: Bearer {key}\r\nx-request-id: {id}\r\ncontent-length: {length}\r\n\r\n".encode()


@contextlib.contextmanager
def of_both(server: RunningServer) -> Iterator[list[socket.socket]]:
    """Connections, of which each front end has at least one. All are closed before the next test."""
    with contextlib.ExitStack() as stack:
        yield of_all(server, server.inference, lambda: stack.enter_context(connect(server.inference)))
    eventually(lambda: not connections(server))


def connections(server: RunningServer) -> float:
    """Those of the front ends, on all ports."""
    return sum(server.metric("pd_front_end_connections", front_end=number) for number in "12")


def test_a_port_has_as_many_connections_as_it_may_on_all_front_ends(server: RunningServer) -> None:
    server.session.close()
    with of_both(server) as clients, contextlib.ExitStack() as stack:
        clients += [stack.enter_context(connect(server.inference)) for _ in range(MOST - len(clients))]
        eventually(lambda: connections(server) == MOST)
        for _ in range(5):  # whichever front end it comes to
            with connect(server.inference) as sock:
                [answer] = answers(read_all(sock))
            assert answer.status == 503
            assert "max_connections" in answer.message


def test_bodies_have_one_budget_on_all_front_ends(server: RunningServer) -> None:
    size = 3 * MIB
    with of_both(server) as clients:
        pair = {clients[0], clients[-1]}  # the last one has come to the front end that had none
        for sock in pair:
            with contextlib.suppress(ConnectionError):
                sock.sendall(request(server, size) + bytes(size - 1))
        [refused] = eventually(lambda: select.select(pair, [], [], 0)[0])
        answer = one(refused)
        assert answer.status == 503
        assert "receive_buffer_bytes" in answer.message
        [other] = pair - {refused}
        other.sendall(b"\0")
        assert one(other).status == 200


def test_wrong_tokens_are_throttled_on_all_front_ends_together(server: RunningServer) -> None:
    def failures_in_one_second() -> Counter[int] | None:
        before = int(time.monotonic())
        eventually(lambda: int(time.monotonic()) > before)
        statuses = Counter[int]()
        for _ in range(3 * EACH):  # each by a connection of its own, to either front end
            with connect(server.inference) as sock:
                sock.sendall(request(server, 0, token="wrong"))
                statuses[one(sock).status] += 1
        return statuses if int(time.monotonic()) == before + 1 else None

    assert eventually(failures_in_one_second) == {401: EACH, 429: 2 * EACH}


def test_each_answer_has_one_line_in_the_access_log_and_is_counted_once(server: RunningServer) -> None:
    before = server.metric("pd_http_responses_total", status="200")
    with of_both(server) as clients:
        for number, sock in enumerate(clients * 5):
            sock.sendall(request(server, 3, id=f"line-{number}") + b"abc")
            assert one(sock).body == b"cba"
        asked = len(clients) * 5
    # each scrape that asks for the count is an answer, too
    assert server.metric("pd_http_responses_total", status="200") - before >= asked
    eventually(lambda: len(re.findall(r" line-\d+ ", access_log(server))) >= asked)
    lines = Counter(re.findall(r" 200 [\d.]+ (line-\d+) mirror$", access_log(server), re.MULTILINE))
    assert lines == {f"line-{number}": 1 for number in range(asked)}


def test_a_token_that_was_just_made_is_valid_everywhere(server: RunningServer) -> None:
    made = server.manage("GET", "/token", params={"type": "inference"})
    assert made.ok, made.text
    with of_both(server) as clients:
        for sock in clients:
            sock.sendall(request(server, 3, token=made.json()["key"]) + b"abc")
            assert one(sock).status == 200


def test_a_second_server_on_the_port_is_refused(server: RunningServer, store: Path, serve: Serve) -> None:
    for number in ("1", "2"):
        with pytest.raises(AssertionError, match=f"inference_address={server.inference}: Address already in use"):
            serve(inference_address=server.inference, front_ends=number)


def test_the_command_says_how_the_front_ends_are(server: RunningServer) -> None:
    command = [PDSERVER, "--status", "--pd-config", str(server.config)]
    said = subprocess.check_output(command, text=True, cwd=server.folder, env=clean_environment())
    pids = re.findall(r"^front end +[12], pid (\d+), 0 restarts$", said, re.MULTILINE)
    assert sorted(map(int, pids)) == sorted(each.pid for each in server.front_ends())
    report = json.loads(subprocess.check_output([*command, "--json"], cwd=server.folder, env=clean_environment()))
    assert [(each["number"], each["alive"]) for each in report["front_ends"]] == [(1, True), (2, True)]


def test_one_that_can_not_serve_says_why_until_it_can(server: RunningServer) -> None:
    """The others go on with the tokens that they know."""
    file = Path(server.settings["token_file"])
    before = file.read_text()
    file.write_text("{")
    try:
        server.front_ends()[0].kill()
        server.logged(f"front end 1: {file}", 1)
        server.logged("exited with status 1; another one takes its place in")
        assert "Traceback" not in server.log()
        assert server.predict("mirror", b"abc").content == b"cba"
        assert (
            subprocess.run([PDSERVER, "--status", "--pd-config", str(server.config)], cwd=server.folder).returncode == 1
        )
    finally:
        file.write_text(before)
    eventually(lambda: server.metric("pd_front_ends") == 2)
