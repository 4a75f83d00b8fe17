"""The comparison of clusters: that nothing of them is left, and what its table says."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from bench.load import Target
from bench.peers import clusters
from bench.peers.base import WrongAnswer
from bench.peers.clusters import RunningCluster
from bench.results import Measurement
from bench.scenarios.cluster import Cluster
from tests.test_bench import answering, measured, response

_SLEEP = "import time; time.sleep(600)"
_PARENT = f"import subprocess, sys; subprocess.Popen([sys.executable, '-c', '{_SLEEP}']); {_SLEEP}"


@pytest.fixture
def parent() -> Iterator[psutil.Process]:
    """A process with a child."""
    process = subprocess.Popen([sys.executable, "-c", _PARENT])
    found = psutil.Process(process.pid)
    while not found.children():
        pass
    yield found
    for each in [*found.children(), found] if found.is_running() else []:
        each.kill()
    process.wait()


def test_a_cluster_is_the_process_that_its_record_names_and_all_below_it(
    tmp_path: Path, parent: psutil.Process
) -> None:
    assert clusters._family(tmp_path) == []
    record = tmp_path / "cluster" / "cluster.json"
    record.parent.mkdir()
    record.write_text("{}")
    assert clusters._family(tmp_path) == []
    record.write_text(json.dumps({"machines": ["127.0.0.1:1", parent.pid, parent.create_time()]}))
    family = clusters._family(tmp_path)
    assert [process.pid for process in family] == [parent.pid, parent.children()[0].pid]
    clusters._kill(family)
    assert not any(process.is_running() and process.status() != psutil.STATUS_ZOMBIE for process in family)


def test_a_cluster_that_answers_wrongly_is_ended(tmp_path: Path) -> None:
    body = tmp_path / "body"
    body.write_bytes(b"x")
    ended: list[bool] = []
    with answering(lambda: response("200 OK")) as url:
        cluster = RunningCluster(
            Target(url, body, "text/plain"), b"other".__eq__, list, lambda: ended.append(True), tmp_path / "log"
        )
        with pytest.raises(WrongAnswer), cluster:
            pass
    assert ended == [True]


def test_the_table_has_both_and_the_targets_take_ray_serve_at_its_best() -> None:
    def cell(server: str, configuration: str, rate: float, case: str = "c=64") -> Measurement:
        values = {"requests_per_second": rate, "p99_ms": 5.0, "cpu_us_per_request": 300.0, "mib": 900.0}
        return Measurement(server=server, configuration=configuration, case=case, round=1, values=values)

    results = measured(
        cell("pdserver", "HAProxy, 3 nodes", 3000),
        cell("Ray Serve", "HAProxy, for throughput, 3 nodes", 1500),
        cell("Ray Serve", "its own proxy, 3 nodes", 500),
        cell("versions", "pdserver 1, Ray Serve 2", 0, "versions"),
    )
    text = Cluster().report(results)
    assert text.startswith("pdserver 1, Ray Serve 2. All nodes")
    assert "| pdserver, HAProxy, 3 nodes | – | – | 3,000/s, 5.00 ms | 300 | 900 |" in text
    reached = {(target.case, target.text): target.reached for target in Cluster().targets(results)}
    assert reached[("c=64", "3 nodes, requests/s, to Ray Serve's best")] == 2.0
    assert reached[("c=1", "1 node, requests/s, to Ray Serve's best")] is None
