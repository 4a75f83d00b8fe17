"""Q and R: more work than there is room for."""

from __future__ import annotations

import ast
import threading
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import requests

from tests.catalogue.ward import Ward
from tests.conftest import Serve, pack_handler
from tests.running import eventually
from tests.without_paddle import without_paddle as without_paddle

pytestmark = pytest.mark.usefixtures("without_paddle")

ROOT = Path(__file__).parent.parent.parent


@pytest.fixture
def hot(ward: Ward) -> Iterator[str]:
    """A model with little room; gone after the test."""
    pack_handler(ward.store, "faults", name="hot", config="jobQueueSize: 4\njobQueueBytes: 2000000\n")
    assert ward.register("url=hot.pdar&initial_workers=1&synchronous=true").status_code == 200
    yield "hot"
    assert ward.unregister("hot").status_code == 200
    (ward.store / "hot.pdar").unlink()


def storm(ward: Ward, model: str, clients: int, each: int, **body: Any) -> Counter[int]:
    """Clients that ask again at once, whatever they were told."""
    statuses: Counter[int] = Counter()
    without_retry_after: list[str] = []

    def client() -> None:
        with requests.Session() as session:
            for _ in range(each):
                answer = session.post(f"{ward.server.inference}/predictions/{model}", json=body, timeout=60)
                statuses[answer.status_code] += 1
                if answer.status_code == 503 and answer.headers.get("retry-after") != "1":
                    without_retry_after.append(answer.text)

    threads = [threading.Thread(target=client) for _ in range(clients)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert without_retry_after == []
    return statuses


@pytest.mark.catalogue("Q1", "Q4", "Q5", "R7")
def test_a_storm_on_one_model_is_refused_and_the_others_serve(ward: Ward, hot: str) -> None:
    before = ward.canary.asked
    statuses = storm(ward, hot, clients=20, each=10, op="sleep", seconds=0.01)
    assert set(statuses) == {200, 503}
    assert sum(statuses.values()) == 200
    eventually(lambda: ward.canary.asked > before + 3)
    assert ward.canary.complaints == []


@pytest.mark.catalogue("R3")
def test_waiting_requests_have_only_so_many_bytes(ward: Ward, hot: str, tmp_path: Path) -> None:
    go = tmp_path / "go"
    answers: list[Any] = []

    def ask(**body: Any) -> threading.Thread:
        thread = threading.Thread(target=lambda: answers.append(ward.ask(hot, **body)))
        thread.start()
        return thread

    threads = [ask(op="wait_for", begun=str(tmp_path / "begun"), go=str(go))]
    eventually((tmp_path / "begun").exists)
    threads.append(ask(padding="x" * 1_500_000))
    eventually(lambda: ward.server.describe(hot)["jobQueueStatus"]["pendingRequests"] == 1)
    refused = ward.ask(hot, padding="x" * 1_500_000)
    assert (refused.status_code, "job_queue_bytes" in refused.json()["message"]) == (503, True)
    threads.append(ask())
    go.touch()
    for thread in threads:
        thread.join(60)
    assert [answer.status_code for answer in answers] == [200] * 3
    assert ward.ask(hot, padding="x" * 3_000_000).status_code == 200, "one alone may be as large as requests may be"


@pytest.mark.catalogue("Q2", "Q6")
def test_work_that_nobody_waits_for_is_not_done(ward: Ward, hot: str, tmp_path: Path) -> None:
    go, never = tmp_path / "go", tmp_path / "never"
    held = threading.Thread(target=lambda: ward.ask(hot, "wait_for", begun=str(tmp_path / "begun"), go=str(go)))
    held.start()
    eventually((tmp_path / "begun").exists)
    patient: list[Any] = []
    waiting = threading.Thread(target=lambda: patient.append(ward.ask(hot, headers={"x-request-timeout-ms": "20000"})))
    waiting.start()
    late = ward.ask(hot, "wait_for", begun=str(never), go=str(go), headers={"x-request-timeout-ms": "50"})
    assert (late.status_code, "deadline" in late.json()["message"]) == (504, True)
    go.touch()
    for thread in (held, waiting):
        thread.join(60)
    assert [answer.status_code for answer in patient] == [200]
    assert not never.exists()


def test_a_deadline_that_is_none_is_refused(ward: Ward) -> None:
    for value in ("0", "-1", "1.5", "soon", "99999999999", "9" * 5000, "", "1_0"):
        refused = ward.ask("one", headers={"x-request-timeout-ms": value})
        assert (refused.status_code, "x-request-timeout-ms" in refused.json()["message"]) == (400, True)


@pytest.mark.catalogue("R1")
def test_descriptors_run_out(serve: Serve, store: Path) -> None:
    pack_handler(store, "chaos")
    server = serve()
    assert server.process is not None
    processes = [psutil.Process(server.process.pid), *server.front_ends()]
    assert server.predict("chaos", json={"nonce": 1}).ok
    [victim] = server.pids("chaos")
    before = processes[0].rlimit(psutil.RLIMIT_NOFILE)
    for process in processes:
        process.rlimit(psutil.RLIMIT_NOFILE, (8, before[1]))
    with pytest.raises(requests.RequestException):
        requests.get(f"{server.inference}/ping", timeout=0.5)
    assert server.predict("chaos", json={"nonce": 2}).ok, "who is connected is served"
    psutil.Process(victim).kill()  # and now there is not enough for another one
    server.logged("no worker could be started")
    for process in processes:
        process.rlimit(psutil.RLIMIT_NOFILE, before)
    eventually(lambda: server.predict("chaos", json={"nonce": 3}).ok)
    assert requests.get(f"{server.inference}/ping", timeout=60).ok


@pytest.mark.catalogue("R6")
def test_no_deadline_depends_on_the_wall_clock() -> None:
    """A clock that is put forward or back moves no timeout: time.time and datetime.now say when, never how long."""
    users = set()
    for room in ("engine", "backends", "worker", "handlers"):
        for path in sorted((ROOT / "pdserver" / room).glob("*.py")):
            for node in ast.walk(ast.parse(path.read_text())):
                if isinstance(node, ast.Attribute) and ast.unparse(node) in ("time.time", "time.time_ns"):
                    users.add(f"{room}/{path.name}")
    assert users == set()
