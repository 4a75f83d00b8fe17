"""The metrics port of a real server: it counts exactly what was sent."""

from __future__ import annotations

import re
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import requests
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.samples import Sample

from pdarchiver.pack import PackOptions, pack
from tests.conftest import Lent, Serve, pack_handler
from tests.other import FEW, Other
from tests.running import RunningServer, eventually
from tests.without_paddle import without_paddle as without_paddle

pytestmark = pytest.mark.usefixtures("without_paddle")


def scrape(server: RunningServer, *names: str) -> list[Sample]:
    answer = server.session.get(f"{server.metrics}/metrics", params={"name[]": names}, timeout=60)
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
    samples = [sample for family in text_string_to_metric_families(answer.text) for sample in family.samples]
    # The parser lets all counters' names end in _total, as OpenMetrics does; TorchServe's do not, nor do they here.
    written = set(re.findall(r"^\w+", answer.text, re.MULTILINE))
    return [s if s.name in written else s._replace(name=s.name.removesuffix("_total")) for s in samples]


def values(server: RunningServer, name: str, label: str, **having: str) -> dict[str, float]:
    """The samples called `name`, by the value of their `label`."""
    return {
        sample.labels[label]: sample.value
        for sample in scrape(server, name)
        if sample.name == name and having.items() <= sample.labels.items()
    }


def test_requests_are_counted_by_result(lent: Lent, tmp_path: Path) -> None:
    lent("chaos")
    server = lent("chaos", name="slow", config="responseTimeout: 0.3\n")
    sent = {"echo": 7, "fail_item": 2, "fail": 3, "out_of_memory": 1, "exit": 1}
    statuses = Counter(
        server.predict("chaos", json={"op": op}).status_code for op, count in sent.items() for _ in range(count)
    )
    assert statuses == {200: 7, 400: 2, 500: 4, 507: 1}
    hung = {"op": "wait_for", "begun": str(tmp_path / "begun"), "go": str(tmp_path / "never")}
    assert server.predict("slow", json=hung).status_code == 504
    assert server.predict("nobody", json={}).status_code == 404

    assert values(server, "pd_requests_total", "result", model_name="chaos", model_version="1.0") == {
        "succeeded": 7, "invalid": 2, "handler": 3, "out_of_memory": 1, "worker_died": 1,
    }  # fmt: skip
    assert values(server, "pd_requests_total", "result", model_name="slow") == {"succeeded": 0, "deadline": 1}
    assert values(server, "ts_inference_requests_total", "model_name") == {"chaos": 14, "slow": 1}
    # The one that kills workers is given to two of them, and is in no batch that was answered.
    eventually(lambda: values(server, "pd_worker_restarts_total", "model_name") == {"chaos": 2, "slow": 1})
    for name in ("pd_batch_size_count", "pd_handler_seconds_count"):
        assert values(server, name, "model_name") == {"chaos": 13, "slow": 0}


def test_latency_is_that_of_the_requests_that_succeeded(lent: Lent) -> None:
    server = lent("chaos")
    for _ in range(2):
        assert server.predict("chaos", json={"op": "sleep", "seconds": 0.1}).ok
    assert not server.predict("chaos", json={"op": "fail"}).ok
    for name in ("pd_request_latency_seconds", "pd_queue_seconds"):
        assert server.metric(f"{name}_count", model_name="chaos") == 2
    latency_seconds = server.metric("pd_request_latency_seconds_sum", model_name="chaos")
    queue_seconds = server.metric("pd_queue_seconds_sum", model_name="chaos")
    assert server.metric("pd_handler_seconds_sum", model_name="chaos") >= 0.2
    assert latency_seconds >= 0.2 + queue_seconds
    buckets = values(server, "pd_request_latency_seconds_bucket", "le", model_name="chaos")
    assert (buckets["0.1"], buckets["+Inf"]) == (0, 2)
    for name, seconds in (("ts_inference_latency", latency_seconds), ("ts_queue_latency", queue_seconds)):
        assert values(server, f"{name}_microseconds", "model_name") == {"chaos": pytest.approx(seconds * 1e6)}


def test_queue_workers_and_batches(lent: Lent, tmp_path: Path) -> None:
    server = lent("chaos", config="batchSize: 4\njobQueueSize: 5\n")
    assert values(server, "pd_workers", "state", model_name="chaos") == {"ready": 1}
    held = {"op": "wait_for", "begun": str(tmp_path / "begun"), "go": str(tmp_path / "go")}

    def ask(body: dict[str, str]) -> int:
        return requests.post(f"{server.inference}/predictions/chaos", json=body, timeout=60).status_code

    with ThreadPoolExecutor(6) as threads:
        asked = [threads.submit(ask, held)]
        eventually((tmp_path / "begun").exists)
        assert values(server, "pd_workers", "state", model_name="chaos") == {"busy": 1}
        asked += [threads.submit(ask, {}) for _ in range(5)]
        eventually(lambda: server.metric("pd_queue_length", model_name="chaos") == 5)
        assert ask({}) == 503
        (tmp_path / "go").touch()
        assert [answer.result() for answer in asked] == [200] * 6

    assert server.metric("pd_queue_length", model_name="chaos") == 0
    assert values(server, "pd_requests_total", "result") == {"succeeded": 6, "overloaded": 1}
    # The one that was held, then a full batch of those that waited, then the rest.
    assert server.metric("pd_batch_size_sum") == 6
    buckets = values(server, "pd_batch_size_bucket", "le")
    assert [buckets[bound] for bound in ("1.0", "2.0", "4.0", "+Inf")] == [2, 2, 3, 3]
    assert server.manage("PUT", "/models/chaos?min_worker=3&synchronous=true").ok
    assert values(server, "pd_workers", "state", model_name="chaos") == {"ready": 3}


def not_found(server: RunningServer) -> float:
    return values(server, "pd_http_responses_total", "status").get("404", 0)


def test_answers_of_all_ports_are_counted_by_status(lent: Lent) -> None:
    server = lent("chaos")
    names = ("Requests2XX", "Requests4XX", "Requests5XX")
    not_found_before = not_found(server)
    before = {sample.name: sample.value for sample in scrape(server, *names)}
    for op in ("echo", "echo", "fail_item", "fail"):
        server.predict("chaos", json={"op": op})
    server.predict("nobody", json={})
    assert server.ping().ok
    assert server.manage("GET", "/models").ok
    assert server.manage("GET", "/models/nobody").status_code == 404
    after = {sample.name: sample.value for sample in scrape(server, *names)}
    # Of the scrapes, the one before is among them and the one that tells is not.
    assert [after[name] - before[name] for name in names] == [2 + 1 + 1 + 1, 1 + 1 + 1, 1]
    assert not_found(server) - not_found_before == 2


def test_a_scrape_can_be_narrowed(lent: Lent) -> None:
    server = lent("chaos")
    assert {sample.name for sample in scrape(server, "pd_queue_length", "Requests2XX")} == {
        "pd_queue_length",
        "Requests2XX",
    }
    assert [sample.labels["le"] for sample in scrape(server, "pd_batch_size_bucket")][-1] == "+Inf"
    assert scrape(server, "no_such_metric") == []
    everything = {sample.name for sample in scrape(server)}
    assert {"pd_queue_length", "ts_inference_requests_total", "process_resident_memory_bytes"} < everything


def test_an_unregistered_version_is_counted_no_more(lent: Lent) -> None:
    lent("chaos")
    server = lent("parts")
    server.predict("chaos", json={})
    assert server.manage("DELETE", "/models/chaos").ok
    assert {sample.labels["model_name"] for sample in scrape(server) if "model_name" in sample.labels} == {"parts"}
    assert server.manage("POST", "/models?url=chaos.pdar").ok
    assert values(server, "pd_requests_total", "result", model_name="chaos") == {"succeeded": 0}


def test_the_port_can_stay_closed(store: Path, serve: Serve) -> None:
    pack_handler(store, "chaos")
    server = serve(enable_metrics_api="false")
    assert server.ping().ok
    with pytest.raises(requests.ConnectionError):
        requests.get(f"{server.metrics}/metrics", timeout=60)


def test_what_a_handler_measures_is_on_the_metrics_port(store: Path, serve: Serve) -> None:
    """And others are answered while very many series are written."""
    pack_handler(store, "measuring")
    pack_handler(store, "mirror")
    server = serve(model_metrics_auto_detect="true")
    for _ in range(3):
        assert server.predict("measuring", json={}).text == "ok"
    text = requests.get(f"{server.metrics}/metrics", timeout=60).text
    assert re.search(r'^Fish\{ModelName="measuring",.*\} 3\.0$', text, re.MULTILINE)
    assert re.search(r'^NetTime\{ModelName="measuring",.*\} 12\.5$', text, re.MULTILINE)

    for first in range(0, 5000, 250):
        assert server.predict("measuring", json={"series": [*range(first, first + 250)]}).text == "ok"
    with Other(server) as other:
        before = other.answers
        answer = server.session.get(f"{server.metrics}/metrics", timeout=60, stream=True)
        others = other.answers - before
        text = answer.text
    assert len(re.findall(r'^Many\d+_count{series="\d+",', text, re.MULTILINE)) == 5000
    assert others >= FEW


DECLARED = """
model_metrics:
  gauge:
    - name: Temperature
      unit: Celsius
      dimensions: [ModelName, Room]
"""
MEASURES_DECLARED = """
from ts.metrics.metric_type_enum import MetricTypes

def handle(data, context):
    if data is None:
        return None
    metric = context.metrics.get_metric("Temperature", MetricTypes.GAUGE)
    metric.add_or_update(21.5, [context.model_name, "lab"])
    return [metric.unit] * len(data)
"""


def test_handlers_find_the_metrics_that_metrics_yaml_declares(serve: Serve, store: Path, tmp_path: Path) -> None:
    (tmp_path / "metrics.yaml").write_text(DECLARED)
    (tmp_path / "declared.py").write_text(MEASURES_DECLARED)
    pack(PackOptions(model_name="warm", version="1.0", handler=str(tmp_path / "declared.py"), export_path=store))
    server = serve(metrics_config=str(tmp_path / "metrics.yaml"), model_metrics_auto_detect="false")
    assert server.predict("warm", b"").text == "Celsius"
    assert values(server, "Temperature", "Room", ModelName="warm") == {"lab": 21.5}
