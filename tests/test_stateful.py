"""Models that keep state between requests: sequences, and batches that go on step by step."""

from __future__ import annotations

import json
import os
import signal
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import requests

from tests.conftest import Lent, Serve, pack_handler
from tests.grpc_client import Client, prediction
from tests.running import RunningServer, eventually

SEQUENCES = "sequenceBatching: true\nmaxNumSequence: 4\nmaxSequenceJobQueueSize: 100\nbatchSize: 4\nminWorkers: 2\n"


def add(server: RunningServer, sequence: str | None, number: int, end: bool = False) -> requests.Response:
    headers = {"ts_request_sequence_id": sequence} if sequence else {}
    body = {"add": number, "end": end}
    return requests.post(f"{server.inference}/predictions/counter", json=body, headers=headers, timeout=60)


def test_a_sequence_is_served_by_one_worker_in_its_order(lent: Lent) -> None:
    server = lent("counter", config=SEQUENCES)

    def run(name: str) -> tuple[list[int], set[int]]:
        answers = [add(server, name, number).json() for number in range(1, 21)]
        return [answer["total"] for answer in answers], {answer["pid"] for answer in answers}

    with ThreadPoolExecutor(4) as threads:
        results = list(threads.map(run, "abcd"))
    expected = [n * (n + 1) // 2 for n in range(1, 21)]
    assert [totals for totals, _ in results] == [expected] * 4
    assert [len(pids) for _, pids in results] == [1] * 4
    assert len(set.union(*(pids for _, pids in results))) == 2


def test_a_request_without_a_sequence_opens_one(lent: Lent) -> None:
    server = lent("counter", config=SEQUENCES)
    first = add(server, None, 5)
    name = first.headers["ts_request_sequence_id"]
    assert name.startswith("ts-seq-")
    assert add(server, name, 6).json()["total"] == 11
    assert add(server, None, 1).headers["ts_request_sequence_id"] != name


def test_the_headers_of_sequences_have_the_names_of_the_configuration(serve: Serve, store: Path) -> None:
    pack_handler(store, "counter", config=SEQUENCES)
    names = {"id": "X-Amzn-SageMaker-Session-Id", "start": "Seq-Start", "end": "Seq-End"}
    server = serve(**{f"ts_header_key_sequence_{key}": name for key, name in names.items()})

    def ask(name: str | None, number: int, end: bool = False) -> requests.Response:
        headers = {names["id"]: name} if name else {}
        body = {"add": number, "end": end}
        return requests.post(f"{server.inference}/predictions/counter", json=body, headers=headers, timeout=60)

    first = ask(None, 5)
    name = first.headers[names["id"]]
    assert "ts_request_sequence_id" not in first.headers
    assert ask(name, 6).json()["total"] == 11
    ended = ask(name, 1, end=True)
    assert (ended.json()["total"], ended.headers[names["end"]]) == (12, name)
    assert [ask(other, 1).status_code for other in "abcd"] == [200] * 4
    assert ask("e", 1).status_code == 503
    message = prediction("counter", body=b'{"add": 7}')
    message.sequence_id = "a"
    with Client(server) as client:
        [answer] = client.inference.StreamPredictions2(iter([message]), timeout=60)
    assert (answer.sequence_id, json.loads(answer.prediction)["total"]) == ("a", 8)


def test_there_are_only_so_many_sequences_until_one_ends(lent: Lent) -> None:
    server = lent("counter", config=SEQUENCES)
    assert [add(server, name, 1).status_code for name in "abcd"] == [200] * 4
    refused = add(server, "e", 1)
    assert (refused.status_code, "maxNumSequence" in refused.json()["message"]) == (503, True)
    assert add(server, "b", 1, end=True).json()["total"] == 2
    assert add(server, "e", 1).status_code == 200


def test_idle_sequences_are_closed(lent: Lent) -> None:
    server = lent("counter", config=SEQUENCES + "sequenceMaxIdleMSec: 200\n")
    assert [add(server, name, 1).status_code for name in "abcd"] == [200] * 4
    eventually(lambda: add(server, "e", 1).status_code == 200)


def test_a_sequence_ends_with_its_worker(lent: Lent) -> None:
    server = lent("counter", config=SEQUENCES)
    pid = add(server, "a", 5).json()["pid"]
    os.kill(pid, signal.SIGKILL)
    eventually(lambda: pid not in server.pids("counter") and len(server.pids("counter")) == 2)
    again = add(server, "a", 1).json()
    assert (again["total"], again["pid"] != pid) == (1, True)


def test_requests_join_a_running_batch_at_any_step(lent: Lent, tmp_path: Path) -> None:
    server = lent("steps", config="continuousBatching: true\nbatchSize: 4\n")

    def ask(count: int, **fields: str) -> str:
        return requests.post(f"{server.inference}/predictions/steps", json={"count": count, **fields}, timeout=60).text

    begun, go = tmp_path / "begun", tmp_path / "go"
    counts = [300, *range(1, 40)]
    with ThreadPoolExecutor(8) as threads:
        first = threads.submit(ask, 300, begun=str(begun), go=str(go))
        eventually(begun.exists)
        rest = [threads.submit(ask, count) for count in counts[1:]]
        eventually(lambda: server.describe("steps")["jobQueueStatus"]["pendingRequests"] == 7)
        go.touch()
        texts = [answer.result() for answer in (first, *rest)]
    for count, text in zip(counts, texts, strict=True):
        pieces = [piece.split("/") for piece in text.split()]
        assert [int(left) for left, _ in pieces] == list(range(count - 1, -1, -1))
        assert all(1 <= int(size) <= 4 for _, size in pieces)
    assert len({size for text in texts for size in [piece.split("/")[1] for piece in text.split()]}) > 1
    assert server.describe("steps")["jobQueueStatus"]["pendingRequests"] == 0


@pytest.mark.catalogue("Q6")
def test_a_request_that_waits_too_long_is_not_run(lent: Lent, tmp_path: Path) -> None:
    server = lent("chaos", config="clientTimeoutInMills: 100\n")
    begun, go = tmp_path / "begun", tmp_path / "go"

    def ask(**body: object) -> requests.Response:
        return requests.post(f"{server.inference}/predictions/chaos", json=body, timeout=60)

    with ThreadPoolExecutor(2) as threads:
        first = threads.submit(ask, op="wait_for", begun=str(begun), go=str(go))
        eventually(begun.exists)
        late = threads.submit(ask, op="wait_for", begun=str(tmp_path / "never"), go=str(go))
        assert (late.result().status_code, "deadline" in late.result().json()["message"]) == (504, True)
        go.touch()
        assert first.result().status_code == 200
    assert not (tmp_path / "never").exists()


def test_a_job_ticket_is_an_idle_worker(lent: Lent, tmp_path: Path) -> None:
    server = lent("chaos", config="useJobTicket: true\n")
    begun, go = tmp_path / "begun", tmp_path / "go"
    with ThreadPoolExecutor(1) as threads:
        body = {"op": "wait_for", "begun": str(begun), "go": str(go)}
        first = threads.submit(requests.post, f"{server.inference}/predictions/chaos", json=body, timeout=60)
        eventually(begun.exists)
        refused = server.predict("chaos", json={})
        assert (refused.status_code, "useJobTicket" in refused.json()["message"]) == (503, True)
        go.touch()
        assert first.result().status_code == 200
    eventually(lambda: server.predict("chaos", json={}).status_code == 200)
