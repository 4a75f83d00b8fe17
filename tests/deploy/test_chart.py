"""The Helm chart: rendered by Helm, checked against Kubernetes' schemas, and its configuration by a real server."""

from __future__ import annotations

import base64
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import jsonschema_rs
import pytest
import yaml

from pdserver.configuration.loading import load_config
from tests.conftest import Serve, pack_handler
from tests.deploy.tools import ROOT, Tools
from tests.deploy.tools import tools as tools
from tests.without_paddle import without_paddle as without_paddle

CHART = ROOT / "deploy" / "helm" / "pdserver"
KUBERNETES = ["1.25", "1.37"]
"""The oldest version that the chart allows, and the newest that the schemas know."""
EVERYTHING: dict[str, Any] = {
    "models": {
        "volume": {"persistentVolumeClaim": {"claimName": "models", "readOnly": True}},
        "initContainers": [
            {"name": "fetch", "image": "fetch", "volumeMounts": [{"name": "models", "mountPath": "/m"}]}
        ],
    },
    "config": {"job_queue_size": 200, "max_request_size": 134217728, "access_log_probes": False},
    "allowedHosts": ["models.example.com"],
    "tokens": {"existingSecret": "our-tokens"},
    "tls": {"existingSecret": "certificate"},
    "management": {"expose": True},
    "autoscaling": {"enabled": True, "queueSeconds": 0.25, "cpuPercent": 60},
    "networkPolicy": {
        "clients": [{"podSelector": {"matchLabels": {"app": "shop"}}}],
        "scrapers": [{"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "monitoring"}}}],
        "egress": [{"ports": [{"port": 443}]}],
    },
    "serviceMonitor": {"enabled": True, "labels": {"release": "prometheus"}},
    "imagePullSecrets": [{"name": "registry"}],
    "podAnnotations": {"a": "b"},
    "podLabels": {"c": "d"},
    "extraEnv": [{"name": "TZ", "value": "UTC"}],
    "nodeSelector": {"disk": "ssd"},
    "tolerations": [{"key": "gpu", "operator": "Exists"}],
    "affinity": {"nodeAffinity": {}},
    "priorityClassName": "high",
    "resources": {"limits": {"nvidia.com/gpu": 1}},
}
NOTHING: dict[str, Any] = {
    "tokens": {"enabled": False},
    "podDisruptionBudget": {"enabled": False},
    "networkPolicy": {"enabled": False},
}
Manifests = dict[str, dict[str, Any]]


class Helm:
    def __init__(self, packages: Path) -> None:
        self._command = [sys.executable, str(Path(__file__).with_name("helm.py")), str(packages), str(CHART)]

    def said(self, values: dict[str, Any]) -> dict[str, Any]:
        done = subprocess.run(self._command, input=json.dumps(values), capture_output=True, text=True, check=True)
        said: dict[str, Any] = json.loads(done.stdout)
        return said

    def manifests(self, **values: Any) -> Manifests:
        """By their kinds."""
        said = self.said(values)
        assert "refused" not in said, said
        texts = [text for path, text in said["manifests"].items() if path.endswith(".yaml")]
        return {manifest["kind"]: manifest for text in texts if (manifest := yaml.safe_load(text))}


@pytest.fixture(scope="module")
def helm(tools: Tools) -> Helm:
    return Helm(tools.helm)


def pod(manifests: Manifests) -> dict[str, Any]:
    spec: dict[str, Any] = manifests["Deployment"]["spec"]["template"]["spec"]
    return spec


def test_helm_finds_nothing_wrong(helm: Helm) -> None:
    lint = helm.said({})["lint"]
    assert lint["errors"] == []
    assert [message["error"] for message in lint["messages"]] == ["icon is recommended"]


@pytest.mark.parametrize("values", [{}, EVERYTHING, NOTHING], ids=["default", "everything", "nothing"])
def test_kubernetes_knows_what_is_rendered(helm: Helm, tools: Tools, values: dict[str, Any]) -> None:
    manifests = helm.manifests(**values)
    manifests.pop("ServiceMonitor", None)  # not one of Kubernetes' own
    assert {"Deployment", "Service", "ConfigMap"} <= manifests.keys()
    for version in KUBERNETES:
        schemas = tools.schemas(version)
        definitions = json.loads((schemas / "_definitions.json").read_text())["$defs"]
        for kind, manifest in manifests.items():
            group, _, of = manifest["apiVersion"].rpartition("/")
            file = "-".join(filter(None, [kind.lower(), group.partition(".")[0], of]))
            text = (schemas / f"{file}.json").read_text().replace("/api/_definitions.json#", "#")
            validator = jsonschema_rs.validator_for(json.loads(text) | {"$defs": definitions})
            assert [f"{kind}: {error.message}" for error in validator.iter_errors(manifest)] == []


@pytest.mark.parametrize(
    ("values", "named"),
    [
        ({"replica": 3}, "replica"),
        ({"replicas": -1}, "/replicas"),
        ({"tls": {"secret": "x"}}, "/tls"),
        ({"image": {"pullPolicy": "Sometimes"}}, "/image/pullPolicy"),
        ({"config": {"batch size": "3"}}, "batch size"),
        ({"autoscaling": {"queueSeconds": 0}}, "/autoscaling/queueSeconds"),
        ({"models": {"volume": {"emptyDir": {}, "hostPath": {}}}}, "/models/volume"),
    ],
    ids=lambda given: given.strip("/").replace(" ", "_") if isinstance(given, str) else "",
)
def test_wrong_values_are_refused(helm: Helm, values: dict[str, Any], named: str) -> None:
    assert named in helm.said(values)["refused"]


@pytest.mark.parametrize("values", [{}, EVERYTHING], ids=["default", "everything"])
def test_names_lead_somewhere(helm: Helm, values: dict[str, Any]) -> None:
    manifests = helm.manifests(**values)
    [container] = pod(manifests)["containers"]
    ports = {port["name"] for port in container["ports"]}
    asked = {container[f"{probe}Probe"]["httpGet"]["port"] for probe in ("startup", "readiness", "liveness")}
    allowed = {port["port"] for rule in manifests["NetworkPolicy"]["spec"]["ingress"] for port in rule.get("ports", [])}
    assert asked <= ports
    assert allowed == ports
    assert {port["targetPort"] for port in manifests["Service"]["spec"]["ports"]} == ports
    labels = manifests["Deployment"]["spec"]["template"]["metadata"]["labels"]
    for selector in (
        manifests["Deployment"]["spec"]["selector"]["matchLabels"],
        manifests["Service"]["spec"]["selector"],
        manifests["PodDisruptionBudget"]["spec"]["selector"]["matchLabels"],
        manifests["NetworkPolicy"]["spec"]["podSelector"]["matchLabels"],
    ):
        assert selector.items() <= labels.items()
    volumes = {volume["name"] for volume in pod(manifests)["volumes"]}
    assert {mount["name"] for mount in container["volumeMounts"]} == volumes
    image = (ROOT / "docker" / "Dockerfile").read_text()
    for place in ("/models", "/var/lib/pdserver"):
        assert place in image
        assert place in {mount["mountPath"] for mount in container["volumeMounts"]}


def test_a_pod_has_the_time_that_it_needs_to_stop(helm: Helm) -> None:
    manifests = helm.manifests(drain={"balancersSeconds": 7, "requestsSeconds": 90})
    [container] = pod(manifests)["containers"]
    assert container["lifecycle"]["preStop"]["exec"]["command"] == ["sleep", "7"]
    assert "stop_timeout=90\n" in manifests["ConfigMap"]["data"]["config.properties"]
    assert pod(manifests)["terminationGracePeriodSeconds"] > 7 + 90


def test_front_ends_follow_the_cpu_limit_if_there_is_one(helm: Helm) -> None:
    """Without one, a pod would count all cores of its node."""
    for limits, expected in (({"memory": "4Gi"}, "1"), ({"cpu": "16", "memory": "4Gi"}, "auto")):
        config = helm.manifests(resources={"limits": limits})["ConfigMap"]["data"]["config.properties"]
        assert f"front_ends={expected}\n" in config
    assert "front_ends=3\n" in helm.manifests(config={"front_ends": "3"})["ConfigMap"]["data"]["config.properties"]


def test_the_autoscaler_asks_for_the_metric_that_the_adapter_gives(helm: Helm) -> None:
    spec = helm.manifests(**EVERYTHING)["HorizontalPodAutoscaler"]["spec"]
    metric, cpu = spec["metrics"]
    assert cpu["resource"] == {"name": "cpu", "target": {"type": "Utilization", "averageUtilization": 60}}
    without = helm.manifests(**EVERYTHING | {"resources": {"requests": None}})["HorizontalPodAutoscaler"]["spec"]
    assert without["metrics"] == [metric]
    adapter = yaml.safe_load((ROOT / "deploy/prometheus/adapter-values.yaml").read_text())
    [rule] = adapter["rules"]["custom"]
    assert metric["pods"]["metric"]["name"] == rule["name"]["as"]
    assert metric["pods"]["target"] == {"type": "AverageValue", "averageValue": "250m"}
    assert "replicas" not in helm.manifests(**EVERYTHING)["Deployment"]["spec"]


def test_secrets_reach_the_server_and_prometheus(helm: Helm) -> None:
    made, given = helm.manifests(serviceMonitor={"enabled": True}), helm.manifests(**EVERYTHING)
    tokens = [base64.b64decode(token) for token in made["Secret"]["data"].values()]
    assert len({*tokens}) == 3
    assert all(len(token) >= 32 for token in tokens)
    assert "Secret" not in given
    for manifests, name in ((made, made["Secret"]["metadata"]["name"]), (given, "our-tokens")):
        [container] = pod(manifests)["containers"]
        from_secrets = {
            variable["name"]: variable["valueFrom"]["secretKeyRef"]
            for variable in container["env"]
            if "valueFrom" in variable
        }
        assert from_secrets == {
            f"PD_{key.upper()}_TOKEN": {"name": name, "key": key} for key in ("inference", "management", "admin")
        }
        [endpoint] = manifests["ServiceMonitor"]["spec"]["endpoints"]
        assert endpoint["authorization"]["credentials"] == {"name": name, "key": "inference"}
        assert endpoint["port"] in {port["name"] for port in manifests["Service"]["spec"]["ports"]}
    [endpoint] = given["ServiceMonitor"]["spec"]["endpoints"]
    assert endpoint["scheme"] == "https"
    assert {"name": "tls", "secret": {"secretName": "certificate", "defaultMode": 0o440}} in pod(given)["volumes"]


@pytest.mark.parametrize("values", [EVERYTHING, NOTHING], ids=["everything", "nothing"])
def test_a_server_accepts_the_configuration(helm: Helm, tmp_path: Path, values: dict[str, Any]) -> None:
    text = helm.manifests(**values)["ConfigMap"]["data"]["config.properties"]
    for name in ("tls.crt", "tls.key"):
        (tmp_path / name).touch()
    file = tmp_path / "config.properties"
    file.write_text(text.replace("/etc/pdserver/tls", str(tmp_path)).replace("=/models", f"={tmp_path}"))
    config = load_config({}, {}, file)
    assert config.warnings == ()
    assert config.max_request_bytes == (2**27 if values is EVERYTHING else 2**26)
    assert config.access_log_probes is (values is NOTHING)


@pytest.mark.usefixtures("without_paddle")
def test_a_server_with_the_configuration_answers_the_probes(
    helm: Helm, serve: Serve, store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pack_handler(store, "chaos")
    manifests = helm.manifests()
    token = base64.b64decode(manifests["Secret"]["data"]["inference"]).decode()
    lines = manifests["ConfigMap"]["data"]["config.properties"].splitlines()
    ours = ("address", "port", "model_store", "load_models")
    settings = dict(line.split("=", 1) for line in lines if not line.partition("=")[0].endswith(ours))
    tokens = store.parent / "tokens.json"
    tokens.write_text(json.dumps({"inference": {"key": token}}))
    tokens.chmod(0o600)
    server = serve(**settings, token_file=str(tokens))
    [container] = pod(manifests)["containers"]
    for probe in ("startup", "readiness", "liveness"):
        path = container[f"{probe}Probe"]["httpGet"]["path"]
        answer = server.session.get(f"{server.inference}{path}", headers={"Host": "10.1.2.3:8080"}, timeout=60)
        assert answer.status_code == 200, path
    headers = {"Host": "demo-pdserver.prod.svc.cluster.local:8080", "Authorization": f"Bearer {token}"}
    assert server.predict("chaos", json={"nonce": 1}, headers=headers).json()["nonce"] == 1
    assert server.predict("chaos", json={"nonce": 1}).status_code == 401
    assert server.predict("chaos", headers=headers | {"Host": "elsewhere.example.com"}).status_code == 421
