"""A server with several front ends stops in order: what was accepted is answered, and has its line in the log."""

from __future__ import annotations

import re
import signal
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import requests

from tests.conftest import pack_handler
from tests.front_ends.load import Grpc, Rest, load
from tests.grpc_client import access_log
from tests.running import RunningServer, eventually
from tests.without_paddle import running_without_paddle


def test_each_answer_has_its_line_also_at_the_end(tmp_path: Path, store: Path) -> None:
    pack_handler(store, "mirror")
    with running_without_paddle(tmp_path, store, front_ends="2") as server:
        with load(*[lambda: Rest(server)] * 4, *[lambda: Grpc(server)] * 2) as clients:
            clients.wait_for(30)
            assert server.stop() == 0
        assert clients.wrong == []
        lines = re.findall(r' "(?:POST|gRPC) [^"]*" (?:200|OK) .* mirror$', access_log(server), re.MULTILINE)
        assert len(lines) >= clients.right.total()
        assert len(lines) - clients.right.total() <= clients.lost, "a line without an answer"
        assert "Traceback" not in server.log()


def test_requests_that_run_are_answered_and_signals_to_all_processes_are_no_obstacle(
    tmp_path: Path, store: Path
) -> None:
    """As Ctrl-C, or a service manager that signals each process."""
    pack_handler(store, "faults")
    go, begun = tmp_path / "go", tmp_path / "begun"
    answers: list[requests.Response] = []
    with running_without_paddle(tmp_path, store, front_ends="2") as server:
        asked = {"op": "wait_for", "begun": str(begun), "go": str(go), "nonce": 5}

        def ask() -> None:
            answers.append(requests.post(f"{server.inference}/predictions/faults", json=asked, timeout=60))

        thread = threading.Thread(target=ask)
        thread.start()
        eventually(begun.exists)
        assert server.process is not None
        for process in server.front_ends():
            process.send_signal(signal.SIGTERM)
        server.process.send_signal(signal.SIGTERM)
        eventually(lambda: _refuses(server))
        go.touch()
        thread.join(60)
        assert server.stop() == 0
    [answer] = answers
    assert answer.status_code == 200, answer.text


@pytest.mark.parametrize("insists", [False, True])
def test_those_for_whom_no_time_is_left_are_told_so(tmp_path: Path, store: Path, insists: bool) -> None:
    pack_handler(store, "faults")
    begun = tmp_path / "begun"
    hanging = {"op": "wait_for", "begun": str(begun), "go": str(tmp_path / "never")}
    settings = {"front_ends": "2", "stop_timeout": "600" if insists else "2"}
    with running_without_paddle(tmp_path, store, **settings) as server, ThreadPoolExecutor(8) as threads:
        url = f"{server.inference}/predictions/faults"
        asked = [threads.submit(requests.post, url, json=hanging, timeout=120)]
        eventually(begun.exists)
        asked += [threads.submit(requests.post, url, json={}, timeout=120) for _ in range(7)]
        eventually(lambda: server.metric("pd_queue_length", model_name="faults") == 7)
        if insists:
            server.insist()
        assert server.stop() == 0
        answers = [each.result() for each in asked]
    assert {(answer.status_code, answer.headers["retry-after"]) for answer in answers} == {(503, "1")}


def _refuses(server: RunningServer) -> bool:
    try:
        requests.get(f"{server.inference}/ping", timeout=60)
    except requests.ConnectionError:
        return True
    return False
