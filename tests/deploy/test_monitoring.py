"""What Prometheus and Grafana are given: promtool accepts it, and a real server has each metric that it names."""

from __future__ import annotations

import asyncio
import json
import re
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import msgspec
import pytest
import requests
import yaml
from prometheus_client.parser import text_string_to_metric_families

from pdserver.cluster.base import Archive, ClusterView, ModelView, NodeView, Wanted
from pdserver.cluster.metrics import ClusterMetrics
from pdserver.cluster.node_http import NodeHttp
from pdserver.errors import Kind
from pdserver.peers.base import Addresses, Peers
from pdserver.peers.others import Outcome
from pdserver.types import ModelRef
from tests.conftest import pack_handler
from tests.deploy.tools import ROOT, Tools
from tests.deploy.tools import tools as tools
from tests.peers.nodes import route
from tests.running import RunningServer, eventually
from tests.without_paddle import running_without_paddle

PROMETHEUS = ROOT / "deploy" / "prometheus"
DASHBOARDS = sorted((ROOT / "deploy/grafana/dashboards").glob("*.json"))
METRIC = re.compile(r"\b((?:pd|process|nv|ts)_\w+)")


def panels(dashboard: Path) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(dashboard.read_text())["panels"]
    return found


def dashboards_queries() -> list[str]:
    return [target["expr"] for each in DASHBOARDS for panel in panels(each) for target in panel["targets"]]


def variables_queries() -> list[str]:
    """Those that fill the lists above the panels."""
    lists = [json.loads(each.read_text())["templating"]["list"] for each in DASHBOARDS]
    return [str(each["definition"]) for those in lists for each in those if each["type"] == "query"]


def queries() -> dict[str, list[str]]:
    """All of them, by where they are."""
    rules = yaml.safe_load((PROMETHEUS / "rules.yml").read_text())["groups"]
    adapter = yaml.safe_load((PROMETHEUS / "adapter-values.yaml").read_text())["rules"]["custom"]
    return {
        "rules": [rule["expr"] for group in rules for rule in group["rules"]],
        "dashboards": [*dashboards_queries(), *variables_queries()],
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
    peers = folder / "peers.json"
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))  # nobody listens, and nobody else gets the port
        gone = Addresses(f"http://127.0.0.1:{closed.getsockname()[1]}", "", "", "")
        peers.write_bytes(msgspec.json.encode(Peers("here", {"gone": gone}, (route("elsewhere", "gone"),))))
        peers.chmod(0o600)
        settings = {"log_config": logs, "front_ends": "2", "peers_file": str(peers)}
        with running_without_paddle(folder, store, **settings) as server:
            assert server.predict("chaos", json={"nonce": 1}).json()["nonce"] == 1
            assert server.predict("elsewhere").status_code == 503
            # The front end tells it to the main process, which has the metrics.
            eventually(lambda: "pd_forwarded_total{" in requests.get(f"{server.metrics}/metrics", timeout=60).text)
            yield server


def of_a_cluster() -> str:
    """What a cluster has by itself, beside the metrics of its nodes."""

    async def rendered() -> bytes:
        nodes = NodeHttp("token")
        try:
            wanted = Wanted(ref=ModelRef("m", "1.0"), url="m.pdar", archive=Archive("", "m.pdar", 0))
            view = ClusterView(1, "1", (ModelView(wanted, ()),), (NodeView("n1", None),), ())
            return await ClusterMetrics(lambda: view, nodes).rendered(())
        finally:
            await nodes.close()

    return asyncio.run(rendered()).decode()


def test_a_server_and_a_cluster_have_every_metric_that_is_asked_for(server: RunningServer) -> None:
    text = requests.get(f"{server.metrics}/metrics", timeout=60).text + of_a_cluster()
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


def test_the_outcomes_and_states_that_queries_name_are_those_of_the_product() -> None:
    texts = [text for those in queries().values() for text in those]
    outcomes = {
        each for text in texts for group in re.findall(r'outcome=~"([^"]*)"', text) for each in group.split("|")
    }
    states = {
        (name, state)
        for text in texts
        for name, found in re.findall(r'(pd_cluster_\w+)\{state=~?"([^"]*)"', text)
        for state in found.split("|")
    }
    assert outcomes
    assert outcomes <= {*get_args(Outcome)}
    assert states
    assert all(f'{name}{{state="{state}",}}' in of_a_cluster() for name, state in states)


def test_prometheus_is_told_of_all_metrics_that_a_cluster_has_by_itself() -> None:
    page = (ROOT / "docs/cluster-entrance.md").read_text()
    own = {line.split()[2] for line in of_a_cluster().splitlines() if line.startswith("# TYPE ")}
    assert set(re.findall(r"^ +- (pd_\w+)$", page, re.MULTILINE)) == own


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
    exprs = [re.sub(r"\$\w+", ".*", query.replace("$__rate_interval", "5m")) for query in dashboards_queries()]
    rules = [{"record": f"panel:{number}", "expr": expr} for number, expr in enumerate(exprs)]
    file = tmp_path / "rules.yml"
    file.write_text(yaml.safe_dump({"groups": [{"name": "dashboard", "rules": rules}]}))
    done = subprocess.run([tools.promtool, "check", "rules", str(file)], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_dashboards_are_provisioned() -> None:
    provisioning = ROOT / "deploy/grafana/provisioning"
    [source] = yaml.safe_load((provisioning / "datasources/prometheus.yaml").read_text())["datasources"]
    [provider] = yaml.safe_load((provisioning / "dashboards/pdserver.yaml").read_text())["providers"]
    services = yaml.safe_load((ROOT / "docker/compose.yaml").read_text())["services"]
    assert any(volume.split(":")[1] == provider["options"]["path"] for volume in services["grafana"]["volumes"])
    assert source["url"] == "http://prometheus:9090"
    assert len({json.loads(each.read_text())["uid"] for each in DASHBOARDS}) == len(DASHBOARDS)


@pytest.mark.parametrize("dashboard", DASHBOARDS, ids=lambda path: path.stem)
def test_each_panel_has_a_place_of_its_own(dashboard: Path) -> None:
    found = panels(dashboard)
    assert len({(panel["gridPos"]["x"], panel["gridPos"]["y"]) for panel in found}) == len(found)
    assert len({panel["id"] for panel in found}) == len(found)


def test_every_alert_is_documented_and_tried() -> None:
    groups = yaml.safe_load((PROMETHEUS / "rules.yml").read_text())["groups"]
    alerts = {rule["alert"] for group in groups for rule in group["rules"]}
    page = (ROOT / "docs/deploy.md").read_text()
    assert set(re.findall(r"^\| `(Pdserver\w+)` \|", page, re.MULTILINE)) == alerts
    tests = yaml.safe_load((PROMETHEUS / "rules.test.yml").read_text())["tests"]
    assert {case["alertname"] for test in tests for case in test["alert_rule_test"]} == alerts
