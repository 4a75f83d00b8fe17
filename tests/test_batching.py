"""When which requests leave together, seen from outside."""

from __future__ import annotations

import time
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import requests

from tests.conftest import Lent
from tests.running import RunningServer, eventually

FOR_EVER = "maxBatchDelay: 600000\n"
"""Longer than `ask` waits: what is answered has not waited for it."""


def ask(server: RunningServer, **fields: object) -> requests.Response:
    return requests.post(f"{server.inference}/predictions/chaos", json=fields, timeout=60)


def together(server: RunningServer, *rows: dict[str, Any]) -> list[requests.Response]:
    with ThreadPoolExecutor(len(rows)) as threads:
        futures: list[Future[requests.Response]] = [threads.submit(ask, server, **row) for row in rows]
        return [future.result() for future in futures]


def test_four_at_once_are_one_batch(lent: Lent) -> None:
    server = lent("chaos", config=f"batchSize: 4\n{FOR_EVER}")
    answers = together(server, *[{"nonce": n} for n in range(4)])
    assert [answer.json()["nonce"] for answer in answers] == list(range(4))
    assert {answer.json()["batch"] for answer in answers} == {4}
    assert server.metric("pd_batch_size_count", model_name="chaos") == 1


def test_a_batch_that_does_not_fill_leaves_after_the_delay(lent: Lent) -> None:
    server = lent("chaos", config="batchSize: 4\nmaxBatchDelay: 300\n")

    def batches() -> list[int]:
        started = time.monotonic()
        answers = together(server, {"nonce": 0}, {"nonce": 1})
        assert time.monotonic() - started >= 0.3
        return [answer.json()["batch"] for answer in answers]

    eventually(lambda: batches() == [2, 2])  # unless one of them came later than that


def test_without_a_delay_a_lone_request_leaves_at_once_and_what_waits_leaves_together(
    lent: Lent, tmp_path: Path
) -> None:
    server = lent("chaos", config="batchSize: 8\n")
    assert ask(server).json()["batch"] == 1
    with ThreadPoolExecutor(6) as threads:
        begun, go = tmp_path / "begun", tmp_path / "go"
        first = threads.submit(ask, server, op="wait_for", begun=str(begun), go=str(go))
        eventually(begun.exists)
        rest = [threads.submit(ask, server, nonce=n) for n in range(5)]
        eventually(lambda: server.describe("chaos")["jobQueueStatus"]["pendingRequests"] == 5)
        go.touch()
        assert first.result().json()["batch"] == 1
        assert {future.result().json()["batch"] for future in rest} == {5}


def test_full_batches_pass_while_another_waits_to_fill(lent: Lent) -> None:
    server = lent("chaos", config=f"batchSize: 2\nminWorkers: 2\n{FOR_EVER}")
    with ThreadPoolExecutor(1) as threads:
        lone = threads.submit(ask, server, nonce=0)
        eventually(lambda: server.describe("chaos")["jobQueueStatus"]["pendingRequests"] == 1)
        answers = together(server, {"nonce": 1}, {"nonce": 2}, {"nonce": 3})
        assert {answer.json()["batch"] for answer in answers} == {2}
        assert lone.result().json()["batch"] == 2


def test_two_workers_take_batches_side_by_side(lent: Lent, tmp_path: Path) -> None:
    server = lent("chaos", config="minWorkers: 2\n")
    go = tmp_path / "go"
    with ThreadPoolExecutor(2) as threads:
        rows: list[dict[str, Any]] = [
            {"op": "wait_for", "begun": str(tmp_path / f"begun{n}"), "go": str(go)} for n in range(2)
        ]
        futures = [threads.submit(ask, server, **row) for row in rows]
        eventually(lambda: all((tmp_path / f"begun{n}").exists() for n in range(2)))
        go.touch()
        assert len({future.result().json()["pid"] for future in futures}) == 2


def test_one_bad_item_fails_alone(lent: Lent) -> None:
    server = lent("chaos", config=f"batchSize: 4\n{FOR_EVER}")
    rows: list[dict[str, Any]] = [{"nonce": 0}, {"op": "fail_item"}, {"op": "fail_item_torchserve"}, {"nonce": 3}]
    answers = together(server, *rows)
    assert [answer.status_code for answer in answers] == [200, 400, 507, 200]
    assert answers[3].json() == {"nonce": 3, "pid": answers[0].json()["pid"], "batch": 4}


def test_who_makes_a_handler_raise_fails_alone_unless_it_must_not_run_twice(lent: Lent) -> None:
    server = lent("chaos", config=f"batchSize: 2\n{FOR_EVER}")
    assert [answer.status_code for answer in together(server, {"op": "fail"}, {"nonce": 1})] == [500, 200]
    assert [answer.status_code for answer in together(server, {"nonce": 0}, {"nonce": 1})] == [200, 200]
    lent.clear()
    server = lent("chaos", config=f"batchSize: 2\nisolateFailures: false\n{FOR_EVER}")
    assert [answer.status_code for answer in together(server, {"op": "fail"}, {"nonce": 1})] == [500, 500]
    assert [answer.status_code for answer in together(server, {"nonce": 0}, {"nonce": 1})] == [200, 200]


@pytest.mark.catalogue("R7")
def test_a_full_queue_refuses_at_once_and_says_when_to_come_again(lent: Lent, tmp_path: Path) -> None:
    server = lent("chaos", config="jobQueueSize: 2\n")
    begun, go = tmp_path / "begun", tmp_path / "go"
    with ThreadPoolExecutor(3) as threads:
        threads.submit(ask, server, op="wait_for", begun=str(begun), go=str(go))
        eventually(begun.exists)
        waiting = [threads.submit(ask, server, nonce=n) for n in range(2)]
        eventually(lambda: server.describe("chaos")["jobQueueStatus"]["remainingCapacity"] == 0)
        refused = ask(server)
        assert (refused.status_code, refused.json()["type"]) == (503, "ServiceUnavailableException")
        assert refused.headers["retry-after"] == "1"
        assert "jobQueueSize" in refused.json()["message"] or "job_queue_size" in refused.json()["message"]
        go.touch()
        assert [future.result().status_code for future in waiting] == [200, 200]
