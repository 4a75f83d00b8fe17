"""The management API of a cluster over HTTP: a real controller, whose nodes are fakes."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from pdserver.cluster.node_http import token_of
from pdserver.configuration.tokens import Scope
from pdserver.errors import ConfigError
from pdserver.management.openapi import management_api
from tests.cluster.managed import Managed
from tests.running import eventually

ADMIN, VIEWER = "a" * 32, "i" * 32


@pytest.fixture
def managed(tmp_path: Path) -> Iterator[Managed]:
    with Managed(tmp_path).opened() as found:
        yield found


@pytest.fixture(scope="module")
def unchanged(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Managed]:
    """For tests that register nothing."""
    with Managed(tmp_path_factory.mktemp("unchanged")).opened() as found:
        yield found


def test_a_model_is_registered_once_and_served_by_several(managed: Managed) -> None:
    words = 'Model "fit" Version: 1 registered with 2 initial workers on each of 2 nodes'
    assert managed.said("POST", "/models?url=fit-1-10.pdar&copies=2&initial_workers=2") == (200, words)
    [described] = managed.described("fit")
    assert described["modelName"] == "fit"
    assert described["modelUrl"] == "fit-1-10.pdar"
    assert described["status"] == "READY"
    copies = described["copies"]
    assert (copies["wanted"], copies["ready"], copies["spread"], copies["default"]) == (2, 2, "spread", True)
    assert [(copy["status"], copy["host"]) for copy in copies["nodes"]] == [("READY", "n1"), ("READY", "n2")]
    assert "problems" not in described
    assert managed.ask("GET", "/models").json() == {"models": [{"modelName": "fit", "modelUrl": "fit-1-10.pdar"}]}
    assert managed.ask("GET", "/v1/models/fit").json() == {"name": "fit", "ready": True}


def test_a_model_may_be_registered_in_the_background(managed: Managed) -> None:
    assert managed.said("POST", "/models?url=fit-1-10.pdar&synchronous=false") == (202, "Processing worker updates...")
    eventually(lambda: managed.described("fit")[0]["status"] == "READY")


def test_copies_and_workers_are_scaled(managed: Managed) -> None:
    managed.ask("POST", "/models?url=fit-1-10.pdar").raise_for_status()
    told = managed.said("PUT", "/models/fit?copies=3&synchronous=true")
    assert told == (200, "Copies scaled to 3 for model: fit")
    assert managed.described("fit")[0]["copies"]["ready"] == 3
    told = managed.said("PUT", "/models/fit/1?min_worker=2&max_worker=2&synchronous=true")
    assert told == (200, "Workers scaled to 2 for model: fit, version: 1 on each of 3 nodes")
    assert managed.said("PUT", "/models/fit?min_worker=3") == (202, "Processing worker updates...")
    told = managed.said("PUT", "/models/fit?batch_size=4&synchronous=true")
    assert told == (200, "Changed batch_size of model: fit")


def test_a_model_without_workers_is_empty(managed: Managed) -> None:
    managed.ask("POST", "/models?url=fit-1-10.pdar&initial_workers=0").raise_for_status()
    [described] = managed.described("fit")
    assert described["status"] == "EMPTY"
    assert [copy["status"] for copy in described["copies"]["nodes"]] == ["EMPTY"]
    assert managed.said("PUT", "/models/fit?min_worker=1&synchronous=true")[0] == 200
    assert managed.described("fit")[0]["status"] == "READY"


def test_versions_come_and_go(managed: Managed) -> None:
    for version in "12":
        managed.ask("POST", f"/models?url=fit-{version}-10.pdar").raise_for_status()
    assert [each["modelVersion"] for each in managed.described("fit/all")] == ["1", "2"]
    assert managed.said("DELETE", "/models/fit/1")[0] == 403
    told = managed.said("PUT", "/models/fit/2/set-default")
    assert told == (200, 'Default version successfully updated for model "fit" to "2"')
    assert managed.described("fit")[0]["modelVersion"] == "2"
    assert managed.said("DELETE", "/models/fit/1") == (200, 'Model "fit" unregistered')
    assert managed.said("GET", "/models/fit/1") == (404, "Model version: 1 does not exist for model: fit")


def test_pipelines_and_what_they_ask_are_told(managed: Managed) -> None:
    told = managed.said("POST", "/models?url=page-1-10-fit.pdar")
    assert (told[0], "Model not found: fit: register that model first" in told[1]) == (400, True)
    for url in ("fit-1-10.pdar", "page-1-10-fit.pdar"):
        managed.ask("POST", f"/models?url={url}").raise_for_status()
    assert managed.described("page")[0]["copies"]["asks"] == ["fit/1"]
    assert managed.described("fit")[0]["copies"]["askedBy"] == ["page/1"]
    assert managed.said("DELETE", "/models/fit") == (409, "fit/1 is asked by page/1: unregister that first")


def test_there_are_no_workflows(unchanged: Managed) -> None:
    words = "a cluster has no workflows: register their models, and a pipeline that asks these"
    for method, path in (("POST", "/workflows?url=a.war"), ("GET", "/workflows"), ("DELETE", "/workflows/a")):
        assert unchanged.said(method, path) == (501, words)


def test_a_version_is_replaced_if_the_caller_says_so(managed: Managed) -> None:
    managed.ask("POST", "/models?url=fit-1-10.pdar").raise_for_status()
    again = "/models?url=fit-1-11.pdar"
    assert managed.said("POST", again)[0] == 409
    assert managed.said("POST", f"{again}&replace=true")[0] == 200
    assert managed.described("fit")[0]["modelUrl"] == "fit-1-11.pdar"
    assert "unknown parameter replace" in managed.said("PUT", "/models/fit?replace=true")[1]


def test_kserves_clients_are_told_all_models(managed: Managed) -> None:
    for name in "ba":
        managed.ask("POST", f"/models?url={name}-1-1.pdar").raise_for_status()
    for path in ("/v1/models", "/v2/models"):
        assert managed.ask("GET", path).json() == {"models": ["a", "b"]}


def test_pages_are_as_on_one_server(managed: Managed) -> None:
    for name in "abc":
        managed.ask("POST", f"/models?url={name}-1-1.pdar").raise_for_status()
    first = managed.ask("GET", "/models?limit=2").json()
    assert ([model["modelName"] for model in first["models"]], first["nextPageToken"]) == (["a", "b"], "2")


@pytest.mark.parametrize(
    ("method", "path", "status", "words"),
    [
        ("POST", "/models", 400, "Parameter url is required"),
        ("POST", "/models?url=fit-1-10.pdar&copies=0", 400, "copies=0: expected a whole number from 1"),
        ("POST", "/models?url=fit-1-10.pdar&copies=-1", 400, "copies=-1: expected a whole number from 1"),
        ("POST", "/models?url=fit-1-10.pdar&copies=many", 400, "copies=many: expected a whole number"),
        ("POST", "/models?url=fit-1-10.pdar&spread=wide", 400, "spread=wide: expected spread or packed"),
        ("POST", "/models?url=fit-1-10.pdar&copy=2", 400, "unknown parameter copy; did you mean copies?"),
        ("POST", "/models?url=fit-1-10.pdar&batch_size=none", 400, "batch_size"),
        ("POST", "/models?url=fit-1-10.pdar&sha256=12", 400, "expected 64 hexadecimal digits"),
        ("POST", "/models?url=fit-1-10.pdar&copies=4", 503, "no node can take another copy of fit/1"),
        ("POST", "/models?url=nothing", 404, "not in the model store"),
        ("PUT", "/models/nothing?copies=2", 404, "nothing"),
        ("PUT", "/models/nothing?min_worker=1&max_worker=2", 400, "just as many workers as min_worker says"),
        ("GET", "/models/nothing", 404, "Model not found: nothing"),
        ("GET", "/models/nothing?custom=true", 400, "did you mean customized?"),
        ("DELETE", "/models/nothing", 404, "nothing"),
    ],
)
def test_what_is_wrong_is_said(unchanged: Managed, method: str, path: str, status: int, words: str) -> None:
    told = unchanged.said(method, path)
    assert (told[0], words in told[1]) == (status, True), told
    assert unchanged.ask("GET", "/models").json() == {"models": []}


def test_problems_are_described(managed: Managed) -> None:
    managed.world.models.broken_on.add(("n1", "fit-1-10.pdar"))
    managed.ask("POST", "/models?url=fit-1-10.pdar&copies=3&synchronous=false").raise_for_status()
    described = eventually(lambda: [each for each in managed.described("fit") if each["copies"]["ready"] == 2])[0]
    assert described["status"] == "DEGRADED"
    assert any("fit-1-10.pdar can't be loaded" in problem for problem in described["problems"])
    [broken] = [copy for copy in described["copies"]["nodes"] if copy["node"] == "n1"]
    assert (broken["status"], broken["reason"]) == ("FAILED", "fit-1-10.pdar can't be loaded")
    whole = next(copy for copy in described["copies"]["nodes"] if copy["node"] == "n2")
    assert (whole["status"], "reason" in whole) == ("READY", False)
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", whole["since"])
    managed.world.members["n2"].kill()
    eventually(lambda: "LOST" in {copy["status"] for copy in managed.described("fit")[0]["copies"]["nodes"]})


def test_a_node_that_is_lost_is_told(managed: Managed) -> None:
    managed.ask("POST", "/models?url=fit-1-10.pdar&copies=3").raise_for_status()
    managed.world.members["n2"].kill()
    text = eventually(
        lambda: (found := managed.ask("GET", "/metrics").text) and 'state="lost",} 1.0' in found and found
    )
    samples = {
        (sample.name, *sorted(sample.labels.values())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }
    assert samples["pd_cluster_nodes", "ready"] == 2
    assert samples["pd_cluster_copies_wanted", "1", "fit"] == 3
    assert samples["pd_cluster_copies_ready", "1", "fit"] == 2
    assert samples["pd_cluster_revision",] >= 1


def test_the_description_of_the_api_is_true(unchanged: Managed) -> None:
    told = unchanged.ask("OPTIONS", "/").json()
    assert told == json.loads(json.dumps(management_api(model_api=True, cluster=True)))
    for method in ("post", "put"):
        path = "/models" if method == "post" else "/models/{model_name}"
        taken = {each["name"] for each in told["paths"][path][method]["parameters"]}
        assert {"copies", "spread"} <= taken
        assert ("replace" in taken) == (method == "post")
    assert not any("workflow" in path for path in told["paths"])


def test_prometheus_is_told_of_the_nodes(unchanged: Managed) -> None:
    file = unchanged.folder / "prometheus-targets.json"

    def told() -> bool:
        answer = unchanged.ask("GET", "/prometheus/targets")
        assert answer.headers["content-type"] == "application/json"
        found = answer.json()
        return file.exists() and json.loads(file.read_text()) == found and len(found) == 3

    eventually(told)
    [first, *_] = json.loads(file.read_text())
    assert set(first) == {"targets", "labels"}
    assert first["labels"]["node"] == "n1"


def test_tokens_and_hosts_are_checked_as_on_one_server(tmp_path: Path) -> None:
    tokens = {"admin_token": ADMIN, "inference_token": VIEWER}
    environment = {f"PD_{name.upper()}": token for name, token in tokens.items()}
    with Managed(tmp_path, environment).opened() as managed:
        statuses = {
            token: managed.ask("POST", "/models?url=fit-1-10.pdar", authorization=f"Bearer {token}").status_code
            for token in ("b" * 32, VIEWER, ADMIN)
        }
        assert statuses == {"b" * 32: 401, VIEWER: 403, ADMIN: 200}
        assert managed.ask("GET", "/models").status_code == 401
        assert managed.ask("GET", "/models", host="evil.example").status_code == 421
        refused = managed.ask("GET", "/models", origin="http://evil.example", authorization=f"Bearer {ADMIN}")
        assert refused.status_code == 403


def test_registering_may_be_switched_off(tmp_path: Path) -> None:
    with Managed(tmp_path, enable_model_api="false").opened() as managed:
        assert managed.ask("POST", "/models?url=fit-1-10.pdar").status_code == 405
        assert "post" not in managed.ask("OPTIONS", "/").json()["paths"]["/models"]


def test_an_unsafe_address_and_one_that_is_taken_are_refused(unchanged: Managed, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="others can reach this address"):
        Managed(tmp_path, management_address="http://0.0.0.0:0").opened().__enter__()
    with pytest.raises(ConfigError, match="Address already in use: name an address of this machine, and a free port"):
        Managed(tmp_path, management_address=unchanged.url).opened().__enter__()


def test_a_token_of_the_environment_is_used_for_calls_to_nodes() -> None:
    assert token_of({"PD_INFERENCE_TOKEN": "one,two", "PD_ADMIN_TOKEN": "three"}, Scope.INFERENCE) == "one"
    assert token_of({"PD_ADMIN_TOKEN": "three"}, Scope.MANAGEMENT) == "three"
    assert token_of({}, Scope.MANAGEMENT) == ""
