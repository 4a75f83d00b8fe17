"""Priorities, limits and timeouts in the queue, seen from outside: one worker, kept busy while requests wait."""

from __future__ import annotations

import json
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest
import requests

from tests.conftest import Lent
from tests.running import RunningServer, eventually

CONFIG = """
priorityLevels: 3
defaultPriority: 2
queuePolicy: {maxQueueSize: 2}
priorityQueuePolicies:
  3: {timeout: 300}
"""


@pytest.fixture(scope="module")
def server(servant: Lent) -> Iterator[RunningServer]:
    yield servant("chaos", config=CONFIG)
    servant.clear()


def ask(server: RunningServer, priority: int = 0, **fields: object) -> requests.Response:
    body = {"name": "body", "shape": [1, 1], "datatype": "BYTES", "data": [json.dumps(fields)]}
    request = {"inputs": [body], "parameters": {"priority": priority}}
    return requests.post(f"{server.inference}/v2/models/chaos/infer", json=request, timeout=60)


class Busy:
    """A model whose one worker has something to do until `free` is called, and requests that wait for it."""

    def __init__(self, server: RunningServer, threads: ThreadPoolExecutor, folder: Path) -> None:
        self._server, self._threads, self._go = server, threads, folder / "go"
        self._count = 0
        threads.submit(ask, server, op="wait_for", begun=str(folder / "begun"), go=str(self._go))
        eventually((folder / "begun").exists)

    def wait(self, priority: int = 0, **fields: object) -> Future[requests.Response]:
        """One more that waits."""
        waiting = self._threads.submit(ask, self._server, priority, **fields)
        self._count += 1
        eventually(lambda: self._server.describe("chaos")["jobQueueStatus"]["pendingRequests"] == self._count)
        return waiting

    def free(self) -> None:
        self._go.touch()


@contextmanager
def busy(server: RunningServer, folder: Path) -> Iterator[Busy]:
    with ThreadPoolExecutor(8) as threads:
        model = Busy(server, threads, folder)
        try:
            yield model
        finally:
            model.free()


@pytest.mark.catalogue("Q3")
def test_a_higher_priority_goes_first(server: RunningServer, tmp_path: Path) -> None:
    with busy(server, tmp_path) as model:
        waiting = [model.wait(op="speak", text=f"turn-{n}") for n in (1, 2)]
        high = model.wait(1, op="speak", text="turn-high")
        model.free()
        assert [answer.result().status_code for answer in (*waiting, high)] == [200] * 3
    server.logged("turn-2")
    log = server.log()
    assert log.index("turn-high") < log.index("turn-1") < log.index("turn-2")


def test_one_more_of_its_priority_is_refused(server: RunningServer, tmp_path: Path) -> None:
    with busy(server, tmp_path) as model:
        waiting = [model.wait(), model.wait()]
        refused = ask(server)
        assert refused.status_code == 503
        assert "Exceeds maximum queue size: 2 requests like this wait already" in refused.json()["error"]
        model.free()
        assert [answer.result().status_code for answer in waiting] == [200, 200]


def test_one_that_waits_for_too_long_fails_while_the_worker_is_busy(server: RunningServer, tmp_path: Path) -> None:
    with busy(server, tmp_path) as model:
        patient = model.wait()
        late = ask(server, 3)
        assert late.status_code == 503
        assert "Request timeout expired" in late.json()["error"]
        model.free()
        assert patient.result().status_code == 200
