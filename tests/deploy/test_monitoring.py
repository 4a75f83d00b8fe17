"""What Prometheus and Grafana are given: promtool accepts it, and a real server has each metric that it names."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests
import yaml
from prometheus_client.parser import text_string_to_metric_families

from pdserver.errors import Kind
from tests.conftest import pack_handler
from tests.deploy.tools import ROOT, Tools
from tests.deploy.tools import tools as tools
from tests.running import RunningServer
from tests.without_paddle import running_without_paddle

PROMETHEUS = ROOT / "deploy" / "prometheus"
DASHBOARD = ROOT / "deploy/grafana/dashboards/pdserver.json"
METRIC = re.compile(r"\b((?:pd|process|nv|ts)_\w+)")


def dashboard() -> list[dict[str, Any]]:
    """Its panels."""
    panels: list[dict[str, Any]] = json.loads(DASHBOARD.read_text())["panels"]
    return panels


def dashboards_queries() -> list[str]:
    return [target["expr"] for panel in dashboard() for target in panel["targets"]]


def queries() -> dict[str, list[str]]:
    """All of them, by where they are."""
    rules = yaml.safe_load((PROMETHEUS / "rules.yml").read_text())["groups"]
    adapter = yaml.safe_load((PROMETHEUS / "adapter-values.yaml").read_text())["rules"]["custom"]
    return {
        "rules": [rule["expr"] for group in rules for rule in group["rules"]],
        "dashboard": dashboards_queries(),
        "adapter": [text for rule in adapter for text in (rule["seriesQuery"], rule["metricsQuery"])],
    }


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    """With the logs of the image."""
    folder = tmp_path_factory.mktemp("monitored")
    store = folder / "store"
    store.mkdir()
    pack_handler(store, "chaos")
    logs = str(ROOT / "docker" / "logging.yaml")
    with running_without_paddle(folder, store, log_config=logs, front_ends="2") as server:
        assert server.predict("chaos", json={"nonce": 1}).json()["nonce"] == 1
        yield server


def test_a_server_has_every_metric_that_is_asked_for(server: RunningServer) -> None:
    text = requests.get(f"{server.metrics}/metrics", timeout=60).text
    there = {sample.name for family in text_string_to_metric_families(text) for sample in family.samples}
    for where, texts in queries().items():
        named = {name for text in texts for name in METRIC.findall(text)}
        assert named, where
        assert named - there == set(), where


def test_the_results_that_queries_name_are_those_of_the_server() -> None:
    results = {kind.value for kind in Kind} | {"succeeded"}
    named = {
        result
        for texts in queries().values()
        for text in texts
        for group in re.findall(r'result(?:=~|!=|=)"([^"]*)"', text)
        for result in group.split("|")
    }
    assert {"overloaded", "handler", "succeeded"} <= named <= results


def test_the_logs_of_the_image_are_on_the_standard_error(server: RunningServer) -> None:
    server.logged("pdserver.access")
    log = server.log()
    assert re.search(r"^\S+ \S+ INFO pdserver\.engine registered chaos/1\.0 ", log, re.MULTILINE)
    assert list((server.folder / "logs").rglob("*.log")) == []


def test_promtool_accepts_the_configuration_and_its_rules_do_what_they_say(tools: Tools) -> None:
    for command in (["check", "config", "prometheus.yml"], ["test", "rules", "rules.test.yml"]):
        done = subprocess.run([tools.promtool, *command], cwd=PROMETHEUS, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr


def test_promtool_accepts_the_queries_of_the_dashboard(tools: Tools, tmp_path: Path) -> None:
    exprs = [
        query.replace("$__rate_interval", "5m").replace("$instance", ".*").replace("$model", ".*")
        for query in dashboards_queries()
    ]
    rules = [{"record": f"panel:{number}", "expr": expr} for number, expr in enumerate(exprs)]
    file = tmp_path / "rules.yml"
    file.write_text(yaml.safe_dump({"groups": [{"name": "dashboard", "rules": rules}]}))
    done = subprocess.run([tools.promtool, "check", "rules", str(file)], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_dashboard_is_provisioned() -> None:
    provisioning = ROOT / "deploy/grafana/provisioning"
    [source] = yaml.safe_load((provisioning / "datasources/prometheus.yaml").read_text())["datasources"]
    [provider] = yaml.safe_load((provisioning / "dashboards/pdserver.yaml").read_text())["providers"]
    services = yaml.safe_load((ROOT / "docker/compose.yaml").read_text())["services"]
    assert any(volume.split(":")[1] == provider["options"]["path"] for volume in services["grafana"]["volumes"])
    assert source["url"] == "http://prometheus:9090"
    places = [(panel["gridPos"]["x"], panel["gridPos"]["y"]) for panel in dashboard()]
    assert len({*places}) == len(places)
    assert len({panel["id"] for panel in dashboard()}) == len(places)
