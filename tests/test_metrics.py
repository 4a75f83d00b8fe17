"""What a scrape says of what was counted, read back with prometheus_client's own parser."""

from __future__ import annotations

import re
import socket
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from prometheus_client import Metric
from prometheus_client.parser import text_string_to_metric_families

from pdserver.errors import Kind
from pdserver.metrics.counters import SECONDS_BOUNDS, Histogram, PoolGauges
from pdserver.metrics.families import TORCHSERVE_NAMES
from pdserver.metrics.log import MetricsLog
from pdserver.metrics.registry import Metrics
from pdserver.metrics.shared import FrontEndGauges
from pdserver.metrics.system import SystemMetrics
from pdserver.types import Measured, ModelRef

DIGITS = ModelRef("digits", "1.0")
DOCUMENT = Path(__file__).parent.parent / "docs" / "metrics.md"


def families(metrics: Metrics, *names: str) -> dict[str, Metric]:
    body, content_type = metrics.render(names)
    assert content_type == "text/plain; version=0.0.4; charset=utf-8"
    return {family.name: family for family in text_string_to_metric_families(body.decode())}


def value(metrics: Metrics, sample: str, **labels: str) -> float:
    """The value of the one sample with this name and at least these labels."""
    found = [
        line
        for line in metrics.render()[0].decode().splitlines()
        if re.match(rf"{sample}[{{ ]", line) and all(f'{name}="{text}",' in line for name, text in labels.items())
    ]
    assert len(found) == 1, found
    return float(found[0].split(" ")[-1])


def served(*, serving: bool = False) -> Metrics:
    """Three requests in two batches, two refused, one not found; and what the pool is like."""
    metrics = Metrics(serving=serving)
    digits = metrics.model(DIGITS)
    for latency, queued in ((0.004, 0.001), (0.004, 0.002), (2.0, 0.5)):
        digits.succeeded += 1
        digits.latency_seconds.observe(latency)
        digits.queue_seconds.observe(queued)
        metrics.http_responses[200] += 1
    for size, seconds in ((2, 0.002), (1, 1.5)):
        digits.batch_size.observe(size)
        digits.handler_seconds.observe(seconds)
    digits.failed[Kind.OVERLOADED] += 2
    metrics.http_responses[503] += 2
    metrics.http_responses[404] += 1
    metrics.gauges(lambda: [PoolGauges(DIGITS, 3, {"ready": 2, "loading": 0}, 1)])
    return metrics


def test_a_histogram_counts_a_value_at_its_bound_within_it() -> None:
    histogram = Histogram((1, 2, 4))
    for observed in (0, 1, 1.5, 2, 4, 4.1):
        histogram.observe(observed)
    assert histogram.counts == [2, 2, 1, 1]
    assert histogram.total == 12.6


def test_requests_are_counted_by_result() -> None:
    metrics = served()
    assert value(metrics, "pd_requests_total", model_name="digits", model_version="1.0", result="succeeded") == 3
    assert value(metrics, "pd_requests_total", result="overloaded") == 2
    results = [sample.labels["result"] for sample in families(metrics)["pd_requests"].samples]
    assert results == ["succeeded", "overloaded"]


def test_histograms_are_cumulative_and_agree_with_their_count_and_sum() -> None:
    family = families(served())["pd_request_latency_seconds"]
    assert family.type == "histogram"
    buckets = [(float(s.labels["le"]), s.value) for s in family.samples if s.name.endswith("_bucket")]
    assert [bound for bound, _ in buckets] == [*SECONDS_BOUNDS, float("inf")]
    assert dict(buckets)[0.0025] == 0
    assert dict(buckets)[0.005] == 2
    assert dict(buckets)[2.5] == dict(buckets)[float("inf")] == 3
    others = {s.name.rpartition("_")[2]: s.value for s in family.samples if not s.name.endswith("_bucket")}
    assert others == {"count": 3, "sum": 2.008}
    assert value(served(), "pd_batch_size_sum") == 3
    assert value(served(), "pd_batch_size_count") == 2


def test_torchserves_names_have_its_labels_types_and_units() -> None:
    metrics = served()
    host = socket.gethostname()
    text = metrics.render()[0].decode()
    labels = f'{{model_name="digits",model_version="1.0",hostname="{host}",}}'
    assert f"ts_inference_requests_total{labels} 5.0\n" in text
    assert "# TYPE ts_inference_latency_microseconds counter\n" in text
    assert round(value(metrics, "ts_inference_latency_microseconds", hostname=host)) == 2_008_000
    assert round(value(metrics, "ts_queue_latency_microseconds", hostname=host)) == 503_000
    assert f'Requests2XX{{Level="Host",Hostname="{host}",}} 3.0\n' in text
    assert value(metrics, "Requests4XX", Level="Host") == 1
    assert value(metrics, "Requests5XX", Level="Host") == 2


def test_gauges_are_asked_for_at_each_scrape() -> None:
    metrics = Metrics()
    lengths = iter((7, 0))
    metrics.gauges(lambda: [PoolGauges(DIGITS, next(lengths), {"ready": 2, "busy": 1}, 4)])
    body = metrics.render()[0].decode()
    assert 'pd_queue_length{model_name="digits",model_version="1.0",} 7.0\n' in body
    assert 'pd_workers{model_name="digits",model_version="1.0",state="busy",} 1.0\n' in body
    assert 'pd_worker_restarts_total{model_name="digits",model_version="1.0",} 4.0\n' in body
    assert value(metrics, "pd_queue_length") == 0


def test_names_choose_families_and_single_samples() -> None:
    metrics = served()
    assert families(metrics, "pd_queue_length", "Requests2XX").keys() == {"pd_queue_length", "Requests2XX"}
    assert metrics.render(["pd_queue_seconds_count"])[0].decode().splitlines()[2:] == [
        'pd_queue_seconds_count{model_name="digits",model_version="1.0",} 3.0'
    ]
    assert families(metrics, "process_cpu_seconds_total").keys() == {"process_cpu_seconds"}
    assert metrics.render(["no_such_metric"])[0] == b""


def test_a_version_is_counted_until_it_is_forgotten() -> None:
    metrics = Metrics()
    first = metrics.model(DIGITS)
    assert metrics.model(DIGITS) is first
    first.succeeded += 1
    metrics.forget(DIGITS)
    metrics.forget(DIGITS)
    assert b"digits" not in metrics.render()[0]
    assert metrics.model(DIGITS).succeeded == 0


def test_label_values_are_escaped() -> None:
    metrics = Metrics()
    odd = 'a"b\\c\nd,}'
    metrics.model(ModelRef(odd, "1"))
    samples = families(metrics, "ts_inference_requests_total")["ts_inference_requests"].samples
    assert [sample.labels["model_name"] for sample in samples] == [odd]


def test_two_servers_in_one_process_count_apart() -> None:
    one, other = Metrics(), Metrics()
    one.http_responses[200] += 1
    assert value(one, "Requests2XX") == 1
    assert value(other, "Requests2XX") == 0


def all_there_is(monkeypatch: pytest.MonkeyPatch, folder: Path) -> Metrics:
    """A server that has had everything happen to it that is counted, on a machine with a GPU."""
    nvidia_smi = folder / "nvidia-smi"
    nvidia_smi.write_text("#!/bin/sh\necho 0, 1, 2, 3\n")
    nvidia_smi.chmod(0o755)
    monkeypatch.setenv("PATH", str(folder), prepend=":")
    metrics = served(serving=True)
    metrics.system = SystemMetrics().sample()
    call: Any = SimpleNamespace(arrived=1.0, taken=2.0, entrypoint="GRPC", form="", request=SimpleNamespace(rows=1))
    handled: Any = SimpleNamespace(seconds=0.5, input_seconds=0.1, output_seconds=0.1, executions=1)
    digits = metrics.model(DIGITS)
    digits.batch([call], handled, 3.0)
    digits.succeed([call], 3.0)
    assert digits.serving is not None
    digits.serving.warmed_up("/models/digits/1", 0.5, None)
    metrics.record(DIGITS, [Measured("pd_of_my_own", 1, "Count")])
    metrics.gauges(lambda: [PoolGauges(DIGITS, 3, {"ready": 2, "loading": 0}, 1, {1: 0.5}, ("openvino",))])
    metrics.front_ends(lambda: [FrontEndGauges(1, 99, alive=True, restarts=2, connections=3, cpu_seconds=4.5)])
    metrics.forwarded["b", "answered"] += 1
    return metrics


def test_the_documentation_lists_every_metric_with_its_type_and_labels(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    documented = {}
    for row in re.findall(r"^\| `([\w:]+)` \| (\w+) \|([^|]*)\|", DOCUMENT.read_text(), re.MULTILINE):
        documented[row[0]] = (row[1], {label.strip() for label in row[2].split(",") if label.strip()})
    exposed = {}
    for family in all_there_is(monkeypatch, tmp_path).collect():
        assert family.samples, f"{family.name}: nothing is measured here, so what it has is not compared"
        exposed[family.name] = (family.type, {*family.samples[0].labels} - {"le"})
    assert documented == exposed
    assert exposed.keys() >= TORCHSERVE_NAMES


def handlers(*measured: Measured) -> Metrics:
    metrics = Metrics()
    for one in measured:
        metrics.record(DIGITS, [one])
    return metrics


def custom(metrics: Metrics) -> dict[str, list[float]]:
    """What handlers measured: the values of each family."""
    found: dict[str, list[float]] = {}
    for family in metrics.collect():
        if family.help.startswith("Measured by handlers"):
            assert family.name not in found
            found[family.name] = [sample.value for sample in family.samples if not sample.name.endswith("_bucket")]
    return found


@pytest.mark.parametrize(("first", "second"), [("net.time", "net-time"), ("温度", "湿度"), ("x" * 128, "x" * 129)])
def test_names_that_prometheus_would_take_as_one_are_not_counted_as_one(
    first: str, second: str, caplog: pytest.LogCaptureFixture
) -> None:
    metrics = handlers(*(Measured(name, 1, "Count") for name in (first, second, first)))
    assert list(custom(metrics).values()) == [[2.0]]
    assert value(metrics, "pd_model_metrics_dropped_total", reason="name") == 1
    assert "Prometheus would take it for" in caplog.text


@pytest.mark.parametrize("part", ["bucket", "count", "sum"])
def test_no_metric_has_samples_of_a_histograms_names(part: str) -> None:
    histogram, other = Measured("Took", 1, "ms", "histogram"), Measured(f"Took_{part}", 7, "Count")
    for first, second in ((histogram, other), (other, histogram)):
        metrics = handlers(first, second)
        assert custom(metrics).keys() == {first.name}
        assert value(metrics, "pd_model_metrics_dropped_total", reason="name") == 1


def test_no_family_of_the_servers_own_has_a_second_one(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    families = all_there_is(monkeypatch, tmp_path).collect()
    names = [family.name for family in families if ":" not in family.name]  # which handlers' names never have
    metrics = handlers(*(Measured(name, 1, "Count") for name in names))
    assert custom(metrics) == {}
    assert value(metrics, "pd_model_metrics_dropped_total", reason="reserved") == len(names)


def test_dimensions_that_prometheus_would_take_as_one_are_refused() -> None:
    metrics = handlers(Measured("Hits", 1, "Count", dimensions={"a.b": "1", "a-b": "2"}))
    assert custom(metrics) == {}
    assert value(metrics, "pd_model_metrics_dropped_total", reason="dimensions") == 1


def logged(*measured: Measured) -> tuple[Metrics, list[str]]:
    """What is in the log of models, with metrics_mode=log, and what remains of its lines but hosts and times."""
    lines: list[str] = []
    metrics = Metrics(log=MetricsLog("here", lambda _: None, lines.append))
    for one in measured:
        metrics.record(DIGITS, [one])
    return metrics, [line.partition("|")[0] for line in lines]


def test_the_log_has_the_same_rule_for_names_that_become_one() -> None:
    measured = [Measured(name, 1, "Count") for name in ("net.time", "net-time", "net.time")]
    metrics, lines = logged(*measured, Measured("net.time", 1, "ms", "gauge"))
    assert lines == ["net_time.Count:1.0"] * 2
    for reason in ("name", "type"):
        assert value(metrics, "pd_model_metrics_dropped_total", reason=reason) == 1
    assert custom(metrics) == {}, "what is logged is not exposed, too"
    metrics.forget(DIGITS)
    metrics.record(DIGITS, [Measured("net-time", 1, "Count")])
    assert "pd_model_metrics_dropped_total{" not in metrics.render()[0].decode(), "the name is free again"
