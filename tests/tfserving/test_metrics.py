"""TensorFlow Serving's metrics at the path of its monitoring configuration, read with prometheus_client's parser."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import requests
from prometheus_client import Metric
from prometheus_client.parser import text_string_to_metric_families

from pdserver.errors import Kind
from pdserver.metrics.registry import Metrics
from pdserver.types import ModelRef
from tests.conftest import MadeOnce
from tests.running import eventually
from tests.tfserving.site import Site, made_versions

PREFIX = ":tensorflow:serving:"


@pytest.fixture(scope="module")
def running(made_once: MadeOnce, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    site = Site(tmp_path_factory.mktemp("metrics"), made_versions(made_once))
    site.put(1)
    monitoring = site.folder / "monitoring.config"
    monitoring.write_text('prometheus_config { enable: true path: "/monitoring/prometheus/metrics" }')
    with site:
        yield site.start(
            "--model_name=fit",
            f"--model_base_path={site.folder / 'fit'}",
            f"--monitoring_config_file={monitoring}",
            "--file_system_poll_wait_seconds=1",
        )


def families(found: str) -> dict[str, Metric]:
    return {family.name: family for family in text_string_to_metric_families(found)}


def value(site: Site, sample: str, **labels: str) -> float:
    """The one sample with these labels and no others, of this name; the parser adds _total to that of a counter."""
    [found] = [
        each.value
        for family in text_string_to_metric_families(site.metrics())
        for each in family.samples
        if each.labels == labels and each.name in (PREFIX + sample, f"{PREFIX}{sample}_total")
    ]
    return found


def test_requests_are_counted_and_timed_by_model_through_a_change_of_version(running: Site) -> None:
    url = f"http://127.0.0.1:{running.port}/v1/models/fit"
    for _ in range(3):
        assert requests.post(f"{url}:predict", json={"instances": [[1.0]]}, timeout=30).status_code == 200
    answer = requests.post(f"{url}:regress", json={"examples": [{"x": 1.0}, {"x": 2.0}]}, timeout=30)
    assert answer.status_code == 200, answer.text
    eventually(lambda: value(running, "request_count", model_name="fit", status="OK") == 4)
    running.put(2)
    running.reaches({1: "END", 2: "AVAILABLE"})
    assert requests.post(f"{url}:predict", json={"instances": [[1.0]]}, timeout=30).status_code == 200
    eventually(lambda: value(running, "request_count", model_name="fit", status="OK") == 5)
    rest = {"model_name": "fit", "entrypoint": "REST"}
    assert value(running, "request_latency_count", **rest, API="predict") == 4
    assert value(running, "request_latency_count", **rest, API="regress") == 1
    assert 0 < value(running, "request_latency_sum", **rest, API="predict") < 4 * 30e6
    assert value(running, "runtime_latency_count", model_name="fit", API="Predict", runtime="Paddle") == 4
    assert value(running, "request_example_counts_bucket", model="fit", le="1") == 0
    assert value(running, "request_example_counts_bucket", model="fit", le="2") == 1
    assert value(running, "request_example_count_total", model="fit") == 2
    assert value(running, "batching_session:queuing_latency_count", thread_pool_name="batch_threads") == 5


def test_buckets_have_the_bounds_and_the_spelling_of_tensorflow_serving(running: Site) -> None:
    running.ask()
    found = families(running.metrics())
    assert found[f"{PREFIX}request_latency"].type == "histogram"
    bounds = [
        sample.labels["le"]
        for sample in found[f"{PREFIX}request_latency"].samples
        if sample.name.endswith("_bucket") and sample.labels["API"] == "predict"
    ]
    assert bounds[:4] == ["10", "18", "32.4", "58.32"]
    assert {"708235", "+Inf"} <= {*bounds}
    assert len(bounds) == 34
    queuing = [each for each in found[f"{PREFIX}batching_session:queuing_latency"].samples if "le" in each.labels]
    assert [each.labels["le"] for each in queuing][:3] == ["100", "120", "144"]
    assert len(queuing) == 53
    assert "pd_requests" in found, "ours are beside them"


def test_failures_have_the_codes_that_clients_are_told() -> None:
    metrics = Metrics(serving=True)
    model = metrics.model(ModelRef("fit", "1"))
    model.succeeded += 2
    for kind in (Kind.OVERLOADED, Kind.UNAVAILABLE, Kind.HANDLER, Kind.DEADLINE):
        model.failed[kind] += 1
    assert model.serving is not None
    model.serving.warmed_up("/models/fit/1", 0.001, Kind.INVALID)
    metrics.forget(ModelRef("fit", "1"))
    metrics.model(ModelRef("fit", "2")).succeeded += 1
    found = families(metrics.render()[0].decode())
    counts = {each.labels["status"]: each.value for each in found[f"{PREFIX}request_count"].samples}
    assert counts == {"OK": 3, "UNAVAILABLE": 2, "INTERNAL": 1, "DEADLINE_EXCEEDED": 1}
    warm_up = found[f"{PREFIX}model_warmup_latency"].samples[0]
    assert warm_up.labels["status"] == "INVALID_ARGUMENT"
    assert f"{PREFIX}request_count" not in families(Metrics().render()[0].decode())
