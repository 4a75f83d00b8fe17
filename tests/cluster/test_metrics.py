"""One exposition for all nodes."""

from __future__ import annotations

import asyncio
import subprocess
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Event, Thread
from urllib.parse import unquote

import msgspec
import pytest
from prometheus_client.parser import text_string_to_metric_families

from pdserver.cluster import metrics
from pdserver.cluster.base import ClusterView, NodeStatus, NodeView
from pdserver.cluster.metrics import ClusterMetrics, merged
from pdserver.cluster.node_http import NodeHttp
from pdserver.metrics.counters import Histogram
from pdserver.metrics.exposition import Family, render
from pdserver.peers.base import Addresses
from tests.deploy.tools import Tools

ODD = 'a"b\\c}\nd, e'


def exposition(value: float) -> bytes:
    plain = Family("pd_revision", "No labels.", "gauge")
    plain.add({}, value)
    requests = Family("pd_requests_total", "Requests.", "counter")
    requests.add({"model_name": ODD, "result": "succeeded"}, value)
    latency = Family("pd_latency_seconds", "Latency.", "histogram")
    seen = Histogram((0.1, 1.0))
    seen.observe(0.5)
    latency.add({"model_name": "m"}, seen)
    return render([plain, requests, latency])


def samples(text: bytes) -> dict[tuple[str, ...], float]:
    return {
        (sample.name, *(f"{name}={value}" for name, value in sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(text.decode())
        for sample in family.samples
    }


def test_families_are_merged_and_samples_say_whose_they_are() -> None:
    text = merged({"n1": exposition(1), 'n"2': exposition(2)})
    assert text.count(b"# TYPE ") == text.count(b"# HELP ") == 3
    found = samples(text)
    assert found["pd_revision", "node=n1"] == 1
    assert found["pd_revision", 'node=n"2'] == 2
    assert found["pd_requests_total", f"model_name={ODD}", "node=n1", "result=succeeded"] == 1
    assert found["pd_latency_seconds_bucket", "le=+Inf", "model_name=m", "node=n1"] == 1
    assert len(found) == 14


def test_what_is_no_sample_is_left_out() -> None:
    assert merged({"n1": b"<html>no metrics</html>\n# a comment\n\nx 1\n"}) == b""


def test_promtool_accepts_it() -> None:
    done = subprocess.run(
        [Tools().promtool, "check", "metrics"], input=merged({"n1": exposition(1)}), capture_output=True
    )
    assert b"error" not in done.stderr, done.stderr


class Stub(ThreadingHTTPServer):
    """A node's metrics."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Answering)
        self.asked: list[str] = []
        self.go_on = Event()
        self.go_on.set()

    def view(self, node: str) -> NodeView:
        addresses = Addresses("", "", f"http://127.0.0.1:{self.server_address[1]}", "")
        return NodeView(node, NodeStatus(node=node, host=node, addresses=addresses, version="1", revision=1))


class Answering(BaseHTTPRequestHandler):
    server: Stub

    def do_GET(self) -> None:
        self.server.asked.append(self.path)
        self.server.go_on.wait(60)
        self.send_response(200)
        self.end_headers()
        self.wfile.write(exposition(1))

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def stubs() -> Iterator[tuple[Stub, Stub]]:
    found = Stub(), Stub()
    for stub in found:
        Thread(target=stub.serve_forever, args=(0.01,), daemon=True).start()
    yield found
    for stub in found:
        stub.go_on.set()
        stub.shutdown()
        stub.server_close()


async def scraped(view: ClusterView, *names: str, times: int = 1) -> bytes:
    nodes = NodeHttp("token")
    try:
        found = ClusterMetrics(lambda: view, nodes)
        for _ in range(times):
            text = await found.rendered(names)
        return text
    finally:
        await nodes.close()


def test_a_node_that_does_not_answer_in_time_is_left_out_and_counted(
    stubs: tuple[Stub, Stub], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(metrics, "_SECONDS", 0.3)
    stubs[1].go_on.clear()
    gone = msgspec.structs.replace(stubs[1].view("gone"), lost=True)
    view = ClusterView(7, "1", (), (stubs[0].view("n1"), stubs[1].view("n2"), gone), ())
    found = samples(asyncio.run(scraped(view, times=2)))
    assert found["pd_revision", "node=n1"] == 1
    assert ("pd_revision", "node=n2") not in found
    failed = {name[1]: value for name, value in found.items() if name[0] == "pd_cluster_scrapes_failed_total"}
    assert failed == {"node=n1": 0, "node=n2": 2, "node=gone": 0}
    assert found["pd_cluster_revision",] == 7
    assert found["pd_cluster_nodes", "state=lost"] == 1


def test_names_are_passed_on(stubs: tuple[Stub, Stub]) -> None:
    view = ClusterView(7, "1", (), (stubs[0].view("n1"),), ())
    text = asyncio.run(scraped(view, "pd_revision", "pd_cluster_revision", "x&y=z"))
    assert list(map(unquote, stubs[0].asked)) == ["/metrics?name[]=pd_revision&name[]=pd_cluster_revision"]
    assert {name[0] for name in samples(text) if name[0].startswith("pd_cluster")} == {"pd_cluster_revision"}
