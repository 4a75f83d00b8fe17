"""Workers come and go, and no request is lost."""

from __future__ import annotations

import os
import signal
import threading
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import pytest
import requests

from tests.conftest import Lent, Serve, pack_handler
from tests.flow import Flow
from tests.running import RunningServer, eventually
from tests.without_paddle import without_paddle as without_paddle

pytestmark = pytest.mark.usefixtures("without_paddle")


class Load:
    """Clients that ask without pause; `failures` are the answers that were not their own 200."""

    def __init__(self, server: RunningServer, clients: int = 4) -> None:
        self._url = f"{server.inference}/predictions/chaos"
        self._stop = threading.Event()
        self.flow = Flow()
        self._threads = [threading.Thread(target=self._ask, args=(n,)) for n in range(clients)]
        self.answered = 0
        self.failures: list[str] = []

    def _ask(self, number: int) -> None:
        with requests.Session() as session:
            count = 0
            while not self._stop.is_set():
                nonce = f"{number}-{count}"
                count += 1
                with self.flow.request():
                    answer = session.post(self._url, json={"nonce": nonce}, timeout=60)
                if answer.status_code != 200 or answer.json()["nonce"] != nonce:
                    self.failures.append(f"{answer.status_code} {answer.text}")
                self.answered += 1

    def has_answered(self, count: int) -> bool:
        return self.answered >= count

    def __enter__(self) -> Load:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()


@pytest.mark.catalogue("L12")
def test_scaling_while_requests_flow(lent: Lent) -> None:
    server = lent("chaos", config="batchSize: 4\n")
    with Load(server) as load:
        for workers in (4, 2, 3, 1):
            answer = server.manage("PUT", f"/models/chaos?min_worker={workers}&synchronous=true")
            assert answer.status_code == 200
            assert len(server.pids("chaos")) == workers
            enough = load.answered + 20
            eventually(partial(load.has_answered, enough))
    assert load.failures == []
    assert server.metric("pd_workers", model_name="chaos", state="ready") == 1


def test_killed_workers_come_back_and_no_client_notices(lent: Lent) -> None:
    server = lent("chaos", config="batchSize: 4\nminWorkers: 2\n")

    def replaced(victim: int) -> bool:
        pids = server.pids("chaos")
        return len(pids) == 2 and victim not in pids

    with Load(server) as load:
        for _ in range(5):
            before = server.pids("chaos")
            victim = min(before)
            load.flow.kill(victim)
            eventually(partial(replaced, victim))
    assert load.failures == []
    assert load.answered > 20
    assert server.metric("pd_worker_restarts_total", model_name="chaos") == 5


def test_workers_that_are_killed_together_are_no_crash_loop(lent: Lent) -> None:
    server = lent("chaos", config="minWorkers: 6\n")
    before = server.pids("chaos")
    assert len(before) == 6
    for pid in before:
        os.kill(pid, signal.SIGKILL)
    assert server.predict("chaos", json={"nonce": 1}).json()["nonce"] == 1
    eventually(lambda: len(server.pids("chaos") - before) == 6)
    assert server.ping().status_code == 200


def test_a_request_is_tried_once_more_when_its_worker_dies(lent: Lent, tmp_path: Path) -> None:
    server = lent("chaos")
    before = server.pids("chaos")
    answer = server.predict("chaos", json={"op": "exit_once", "mark": str(tmp_path / "mark"), "nonce": 5})
    assert answer.json()["nonce"] == 5
    assert server.pids("chaos") != before


def test_a_request_that_kills_workers_is_told_how_they_ended(lent: Lent) -> None:
    server = lent("chaos", config="batchSize: 4\nmaxBatchDelay: 600000\nminWorkers: 2\n")

    def ask(op: str) -> requests.Response:
        return requests.post(f"{server.inference}/predictions/chaos", json={"op": op}, timeout=60)

    for poison, words in (("exit", "exited with status 3"), ("segfault", "SIGSEGV")):
        with ThreadPoolExecutor(4) as threads:
            answers = list(threads.map(ask, [poison, "echo", "echo", "echo"]))
        assert [answer.status_code for answer in answers] == [500, 200, 200, 200]
        assert words in answers[0].json()["message"]
    eventually(lambda: len(server.pids("chaos")) == 2)


def test_a_worker_that_hangs_is_replaced(lent: Lent) -> None:
    server = lent("chaos", config="responseTimeout: 1\n")
    before = server.pids("chaos")
    answer = server.predict("chaos", json={"op": "sleep", "seconds": 60})
    assert answer.status_code == 504
    assert "responseTimeout" in answer.json()["message"]
    assert server.predict("chaos", json={"nonce": 1}).json()["nonce"] == 1
    assert server.pids("chaos").isdisjoint(before)


def test_ping_tells_the_truth(lent: Lent) -> None:
    server = lent("chaos")
    assert (server.ping().status_code, server.ping().json()) == (200, {"status": "Healthy"})
    server.manage("POST", "/models?url=chaos.pdar&model_name=idle&initial_workers=0")
    assert server.ping().status_code == 200


def test_what_workers_print_is_in_the_log_with_their_name(lent: Lent) -> None:
    server = lent("chaos")
    server.predict("chaos", json={"op": "speak", "text": "grüße \x1b[31m\x00 von hier"})
    server.predict("chaos", json={"op": "speak", "text": "x" * 100_000})
    worker = server.describe("chaos")["workers"][0]["id"]
    eventually(lambda: server.log().count(f"chaos/1.0 worker {worker} | grüße \\x1b[31m\\x00 von hier") == 2)
    eventually(lambda: server.log().count(f"chaos/1.0 worker {worker} | xxx") >= 2)
    assert max(len(line) for line in server.log().splitlines()) < 10_000


@pytest.mark.catalogue("F1")
def test_accepted_requests_are_answered_before_the_server_ends(store: Path, serve: Serve, tmp_path: Path) -> None:
    pack_handler(store, "chaos", config="batchSize: 2\n")
    server = serve()
    with ThreadPoolExecutor(5) as threads:
        begun, go = tmp_path / "begun", tmp_path / "go"

        def ask(body: dict[str, object]) -> requests.Response:
            return requests.post(f"{server.inference}/predictions/chaos", json=body, timeout=60)

        first = threads.submit(ask, {"op": "wait_for", "begun": str(begun), "go": str(go), "nonce": 0})
        eventually(begun.exists)
        rest = [threads.submit(ask, {"nonce": n}) for n in range(1, 5)]
        eventually(lambda: server.describe("chaos")["jobQueueStatus"]["pendingRequests"] == 4)
        assert server.process is not None
        server.process.terminate()
        eventually(lambda: "stopping" in server.log())
        go.touch()
        assert [future.result().json()["nonce"] for future in [first, *rest]] == list(range(5))
    assert server.process.wait(60) == 0


@pytest.mark.catalogue("L17")
def test_an_unloaded_model_answers_what_it_has(lent: Lent, tmp_path: Path) -> None:
    server = lent("chaos")
    with ThreadPoolExecutor(2) as threads:
        begun, go = tmp_path / "begun", tmp_path / "go"

        def ask(body: dict[str, object]) -> requests.Response:
            return requests.post(f"{server.inference}/predictions/chaos", json=body, timeout=60)

        first = threads.submit(ask, {"op": "wait_for", "begun": str(begun), "go": str(go), "nonce": 0})
        eventually(begun.exists)
        second = threads.submit(ask, {"nonce": 1})
        eventually(lambda: server.describe("chaos")["jobQueueStatus"]["pendingRequests"] == 1)
        with ThreadPoolExecutor(1) as other:
            gone = other.submit(server.manage, "DELETE", "/models/chaos")
            eventually(lambda: server.manage("GET", "/models/chaos").status_code == 404)
            go.touch()
            assert gone.result().status_code == 200
        assert [first.result().json()["nonce"], second.result().json()["nonce"]] == [0, 1]
