"""The command `pdserver cluster`: machines of a real Ray cluster, all on this one."""

from __future__ import annotations

import json
import re
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import psutil
import pytest
import requests

from pdarchiver.pipeline.packing import PipelineOptions, pack_pipeline
from pdserver.cli import main
from tests.conftest import pack_handler
from tests.grpc_client import Manager
from tests.running import PDSERVER, clean_environment, eventually, free_ports, lives
from tests.security.certificates import authority, signed
from tests.without_paddle import no_paddle


class Cluster:
    """Runs the command with a state of its own, in a folder whose config.properties names free ports and a store."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.store = folder / "store"
        self.store.mkdir()
        inference, management, metrics, grpc, grpc_management = free_ports(5)
        self.inference = f"http://127.0.0.1:{inference}"
        (folder / "config.properties").write_text(
            f"inference_address={self.inference}\nmanagement_address=http://127.0.0.1:{management}\n"
            f"metrics_address=http://127.0.0.1:{metrics}\ngrpc_inference_port={grpc}\n"
            f"grpc_management_port={grpc_management}\nmodel_store={self.store}\nstate_location={folder / 'state'}\n"
        )

    def __call__(self, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [PDSERVER, "cluster", *arguments],
            cwd=self.folder,
            env={**clean_environment(), **environment},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=150,
            check=False,
        )

    def report(self) -> dict[str, Any]:
        report: dict[str, Any] = json.loads(self("status", "--json").stdout)
        return report

    def processes(self) -> list[psutil.Process]:
        """Of the local machines, with all that runs on them."""
        record = json.loads((self.folder / "state" / "cluster" / "cluster.json").read_bytes())
        try:
            machines = psutil.Process(record["machines"][1])
            return [machines, *machines.children(recursive=True)]
        except psutil.NoSuchProcess:
            return []


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """Three machines with one model, and a pipeline that asks it; two copies of each."""
    folder = tmp_path_factory.mktemp("cluster")
    cluster = Cluster(folder)
    pack_handler(cluster.store, "chaos")
    (folder / "asking.yaml").write_text(
        "inputs: {data: bytes}\noutputs: {body: ask.body}\n"
        "nodes: {ask: {model: chaos, opaque: true, inputs: {data: data}}}\n"
    )
    pack_pipeline(
        PipelineOptions(model_name="asking", version="1.0", pipeline=folder / "asking.yaml", export_path=cluster.store)
    )
    with no_paddle(tmp_path_factory.mktemp("site")):
        started = cluster("start", "--local", "3", "--models", "all", "--copies", "2")
        try:
            assert (started.returncode, started.stderr) == (0, ""), started.stdout
            words = started.stdout.splitlines()
            assert words[-1] == "Cluster started."
            assert f"{'inference':<15} {cluster.inference}" in words
            yield cluster
        finally:
            if any(map(lives, cluster.processes())):
                cluster("stop")


def predict(cluster: Cluster) -> int:
    """The worker's pid."""
    answer = requests.post(f"{cluster.inference}/predictions/chaos", json={"nonce": 5}, timeout=60)
    assert answer.json()["nonce"] == 5, answer.text
    return int(answer.json()["pid"])


def test_it_serves_and_says_how_it_is(cluster: Cluster) -> None:
    predict(cluster)
    status = cluster("status")
    assert (status.returncode, status.stderr) == (0, "")
    assert re.search("chaos/1.0, 2 of 2 copies: .*, asked by asking/1.0$", status.stdout, re.MULTILINE)
    assert "asking/1.0, 2 of 2 copies" in status.stdout, "it was registered after the model, and comes before by name"
    report = cluster.report()
    assert report["running"]
    assert report["addresses"]["inference"] == cluster.inference
    [entrance] = report["entrances"]
    assert (entrance["status"]["addresses"], entrance["problem"]) == (report["addresses"], "")
    assert len(report["nodes"]) == 3
    assert report["problems"] == {}
    again = cluster("start", "--local", "3")
    assert again.returncode == 1
    assert "pdserver cluster stop" in again.stderr


def test_a_user_who_has_started_none_reaches_none_unasked(cluster: Cluster, tmp_path: Path) -> None:
    """Ray finds it on this machine, and lets this process in."""
    another = Cluster(tmp_path)
    token = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(cluster.folder / "state" / "cluster" / "ray-token")}
    status, upgrade, stop = (another(verb, **token) for verb in ("status", "upgrade", "stop"))
    assert (status.returncode, upgrade.returncode, stop.returncode) == (3, 1, 0)
    hint = "this user has started none: pdserver cluster start begins one, and --address HOST:PORT"
    assert all(hint in said for said in (status.stdout, upgrade.stderr, stop.stdout))
    named = another("status", "--address", cluster.report()["ray"], **token)
    assert (named.returncode, "chaos/1.0, 2 of 2 copies" in named.stdout) == (0, True)


def test_it_is_managed_and_measured_at_one_address(cluster: Cluster) -> None:
    addresses = cluster.report()["addresses"]
    [described] = requests.get(f"{addresses['management']}/models/chaos", timeout=60).json()
    assert (described["status"], described["copies"]["ready"]) == ("READY", 2)
    assert len({worker["pid"] for worker in described["workers"]}) == len(described["workers"]) >= 2
    assert len({worker["machine"] for worker in described["workers"]}) == 2
    scaled = requests.put(f"{addresses['management']}/models/chaos?copies=3&synchronous=true", timeout=60)
    assert scaled.json() == {"status": "Copies scaled to 3 for model: chaos"}
    index = requests.post(f"{cluster.inference}/v2/repository/index", timeout=60).json()
    assert {"name": "chaos", "version": "1.0", "state": "READY"} in index
    refused = requests.post(f"{cluster.inference}/v2/repository/models/chaos/load", json={}, timeout=60)
    assert (refused.status_code, "model_control_mode" in refused.json()["error"]) == (503, True)
    assert "chaos" in requests.get(f"{cluster.inference}/v2/models", timeout=60).json()["models"]
    text = requests.get(f"{addresses['metrics']}/metrics", timeout=60).text
    assert 'pd_cluster_copies_ready{model_name="chaos",model_version="1.0",} 3.0' in text
    assert 'pd_cluster_entrances{state="ready",} 1.0' in text
    assert len(set(re.findall(r'^pd_workers\{node="(\w+)",', text, re.MULTILINE))) == 3
    targets = requests.get(f"{addresses['metrics']}/prometheus/targets", timeout=60).json()
    for target in targets:
        assert "pd_workers" in requests.get(f"http://{target['targets'][0]}/metrics", timeout=60).text
    with Manager(addresses["grpc_management"]) as over_grpc:
        said = over_grpc("ScaleWorker", model_name="chaos", copies=2, synchronous=True)
    assert said == "Copies scaled to 2 for model: chaos"
    predict(cluster)

    def logged() -> str:
        logs = (cluster.folder / "state" / "cluster").glob("node-*/logs/access_log.log")
        return "".join(path.read_text() for path in logs)

    eventually(lambda: "/predictions/chaos" in logged())
    assert "/ready" not in logged(), "what the cluster asks is not logged"


def test_a_model_may_begin_without_workers(cluster: Cluster) -> None:
    management = cluster.report()["addresses"]["management"]
    pack_handler(cluster.store, "chaos", "later", config="minWorkers: 0\n")
    answer = requests.post(f"{management}/models?url=later.pdar&copies=2", timeout=120)
    assert answer.status_code == 200, answer.text
    [described] = requests.get(f"{management}/models/later", timeout=60).json()
    assert (described["status"], described["workers"]) == ("EMPTY", [])
    assert "later/1.0 on " in cluster("status").stdout
    answer = requests.put(f"{management}/models/later?min_worker=1&synchronous=true", timeout=120)
    assert answer.status_code == 200, answer.text
    [described] = requests.get(f"{management}/models/later", timeout=60).json()
    assert (described["status"], len(described["workers"])) == ("READY", 2)
    assert requests.delete(f"{management}/models/later", timeout=120).status_code == 200


def test_a_node_that_is_killed_comes_back_with_its_server(cluster: Cluster) -> None:
    servers = [each for each in cluster.processes() if "--life-fd" in each.cmdline()]
    assert len(servers) == 3
    agent = servers[0].parent()
    assert agent is not None
    agent.kill()
    eventually(lambda: not lives(servers[0]))
    predict(cluster)

    def is_whole() -> bool:
        report = cluster.report()
        ready = [sum(copy["ready"] for copy in model["copies"]) for model in report["models"]]
        return not report["problems"] and ready == [2, 2] and all(node["status"]["version"] for node in report["nodes"])

    eventually(is_whole)
    predict(cluster)


def test_stop_leaves_no_process(cluster: Cluster) -> None:
    processes = cluster.processes()
    stopped = cluster("stop")
    assert (stopped.returncode, stopped.stdout, stopped.stderr) == (0, "The cluster has stopped.\n", "")
    assert not [process.cmdline() for process in processes if lives(process)]
    status = cluster("status")
    assert (status.returncode, "pdserver cluster start" in status.stdout) == (3, True)
    assert cluster.report() == {"running": False}
    again = cluster("stop")
    assert (again.returncode, again.stdout) == (0, "No cluster of pdserver is running.\n")


def test_a_start_that_fails_gives_its_reason_alone(tmp_path: Path) -> None:
    """Ray's own words for it have the stack of each of its processes."""
    cluster = Cluster(tmp_path)
    port = int(cluster.inference.rpartition(":")[2])
    with no_paddle(tmp_path), socket.create_server(("127.0.0.1", port)):
        failed = cluster("start", "--local", "1", "--models", "all")
    assert failed.returncode == 2
    taken = f"inference_address={cluster.inference}: Address already in use"
    [line] = failed.stderr.splitlines()
    assert line.startswith("pdserver: the entrance on ")
    assert line.endswith(f": {taken}: name an address of this machine, and a free port")
    assert "Cluster started." not in failed.stdout
    assert not (tmp_path / "state" / "cluster" / "cluster.json").exists(), "nothing is left to be stopped"


class Said(NamedTuple):
    status: int
    out: str
    error: str


Say = Callable[..., Said]


@pytest.fixture
def say(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Say:
    """Runs the command in this process, where no cluster is started."""
    monkeypatch.chdir(Cluster(tmp_path).folder)
    for variable in ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN_PATH"):  # which the command sets for Ray
        monkeypatch.setenv(variable, "")

    def run(*arguments: str) -> Said:
        try:
            status = main(["cluster", *arguments])
        except SystemExit as ended:
            status = int(ended.code or 0)
        return Said(status, *capfd.readouterr())

    return run


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["start", "--local", "0"], "expected a whole number from 1 to 16"),
        (["start", "--local", "2", "--address", "auto"], "leave out --local, or --address"),
        (["status", "--local", "2"], "only start begins machines"),
        (["begin"], "invalid choice: 'begin'"),
        (["start", "--local", "2", "--copys", "2"], "did you mean --copies?"),
        (["start", "--local", "2", "--oip-address", "http://127.0.0.1:8000"], "serves its clients, too"),
        (["start", "--local", "2", "--model-repository", "store"], "pd-model-archiver packs its models"),
        (["start", "--local", "2", "--listen", "node"], "--listen=node: others can reach the nodes"),
        (["start", "--address", "auto", "--listen", "node"], "begin Ray anew with a token"),
        (["start", "--local", "2", "--entrances", "2"], "the machines of --local have one address"),
        (
            ["start", "--local", "2", "--node-port", "9000"],
            "--node-port=9000: the machines of --local have one address",
        ),
        (["start", "--address", "auto", "--entrances", "2"], "others can't reach inference_address=http://127.0.0.1:"),
        (["start", "--local", "2", "--entrances", "some"], "some: expected a whole number from 0 to 1000000, or all"),
        (["start", "--local", "2", "--listen", "nod"], "--listen: nod: expected node, which is each machine's own"),
    ],
)
def test_what_cannot_be_is_refused_before_anything_is_begun(
    say: Say, tmp_path: Path, arguments: list[str], words: str
) -> None:
    refused = say(*arguments)
    assert (refused.status, refused.out) == (2, "")
    assert words in refused.error
    assert not (tmp_path / "state" / "cluster").exists()


def test_an_entrance_is_told_whose_certificates_nodes_have(say: Say, tmp_path: Path) -> None:
    """It checks who signed them, and not for which host."""
    own = signed(authority(tmp_path / "ca"), tmp_path, "node")
    files = ("--certificate-file", str(own.certificate), "--private-key-file", str(own.key))
    refused = say("start", "--local", "2", "--listen", "node", *files)
    assert (refused.status, refused.out) == (2, "")
    assert "must know whose certificates the nodes have: set peers_ca_file" in refused.error


def test_without_a_ray_cluster_it_says_how_to_have_one(say: Say) -> None:
    [port] = free_ports(1)
    refused = say("start", "--address", f"127.0.0.1:{port}")
    assert refused.status == 1
    assert "ray start --head" in refused.error


def test_without_ray_it_says_what_to_install(say: Say, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in [name for name in sys.modules if re.match(r"(ray|pdserver\.cluster\.actors)(\.|$)", name)]:
        monkeypatch.delitem(sys.modules, module)
    for module in ("actors", "running", "starting"):
        monkeypatch.delitem(sys.modules, f"pdserver.cluster.{module}", raising=False)
        monkeypatch.delattr(f"pdserver.cluster.{module}", raising=False)
    monkeypatch.setitem(sys.modules, "ray", None)
    refused = say("status")
    assert refused.status == 1
    assert "pip install 'pdserver[cluster]'" in refused.error
