"""The head's machine of a cluster dies, with two entrances on machines with addresses of their own."""

from __future__ import annotations

import contextlib
import shutil
import subprocess
from collections.abc import Iterator

import pytest
import requests

from tests.cluster.load import Broken, GrpcLine, HttpLine, Refused, Unreachable, loaded
from tests.cluster.machines import RAY, RAY_PORT, Host, Hosts, network
from tests.cluster.running import SOON_SECONDS, AnyCluster
from tests.running import eventually
from tests.without_paddle import no_paddle

REDIS_PORT = 6380
SETTINGS = {
    "inference_address": "http://0.0.0.0:8080",
    "management_address": "http://0.0.0.0:8081",
    "metrics_address": "http://0.0.0.0:8082",
    "grpc_inference_address": "0.0.0.0",
    "grpc_management_address": "0.0.0.0",
    "disable_token_authorization": "true",
    "allow_insecure": "true",
}


HAS_REDIS = shutil.which("redis-server") is not None


def start_head(hosts: Hosts) -> None:
    """Its GCS is in the Redis of the other machine, if there is one. Ray on the same system must not take it for one
    that runs already."""
    (hosts[0].home / "ray" / "ray_current_cluster").unlink(missing_ok=True)
    environment = {"RAY_REDIS_ADDRESS": f"{hosts[1].address}:{REDIS_PORT}"} if HAS_REDIS else {}
    for last in (False, False, True):
        try:
            hosts[0].start_ray("--head", f"--port={RAY_PORT}", "--include-dashboard=false", **environment)
        except AssertionError:  # a busy machine may need more than the 30 seconds for which Ray waits
            if last:
                raise
            hosts[0].kill()
        else:
            return


@contextlib.contextmanager
def redis(host: Host) -> Iterator[None]:
    """On this machine, if it is installed."""
    if not HAS_REDIS:
        yield
        return
    words = ("--port", str(REDIS_PORT), "--bind", host.address, "--protected-mode", "no", "--save", "")
    with subprocess.Popen(host.command("redis-server", *words), stdout=subprocess.DEVNULL) as process:
        try:
            yield
        finally:
            process.kill()


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[AnyCluster]:
    folder = tmp_path_factory.mktemp("head")
    (folder / "site").mkdir()
    with no_paddle(folder / "site"), network(2) as hosts, redis(hosts[1]):
        hosts[0].run(RAY, "get-auth-token", "--generate")
        start_head(hosts)
        hosts.add(hosts[1])
        cluster = AnyCluster(folder, hosts, SETTINGS)
        try:
            cluster.start("--listen", "node", "--entrances", "2")
            yield cluster
        finally:
            cluster.stop()


def hosts_of(cluster: AnyCluster) -> Hosts:
    assert isinstance(cluster.ray, Hosts)
    return cluster.ray


def ask(address: str, model: str) -> float:
    """The answer for 7; 0: none."""
    line = HttpLine(address, model, {}) if address.startswith("http") else GrpcLine(address, model, {})
    with contextlib.closing(line), contextlib.suppress(Broken, Refused, Unreachable):
        return line.ask(7)
    return 0


def entrances(hosts: Hosts) -> list[str]:
    """Their addresses, of HTTP and gRPC."""
    return [each for host in hosts for each in (f"http://{host.address}:8080", f"{host.address}:7070")]


def test_each_entrance_leads_to_all_nodes_and_to_the_controller(cluster: AnyCluster) -> None:
    hosts = hosts_of(cluster)
    told = {each["status"]["host"]: each["status"]["addresses"] for each in cluster.status()["entrances"]}
    assert set(told) == {host.address for host in hosts}
    cluster.register("m", 3, copies=1)
    for host in hosts:
        assert told[host.address]["inference"] == f"http://{host.address}:8080"
        models = requests.get(f"http://{host.address}:8081/models", timeout=SOON_SECONDS).json()
        assert [each["modelName"] for each in models["models"]] == ["m"]
    assert [ask(address, "m") for address in entrances(hosts)] == [21] * 4, "as soon as the registration is answered"


@pytest.mark.skipif(not HAS_REDIS, reason="redis-server is not installed")
def test_the_heads_machine_dies_and_comes_back(cluster: AnyCluster) -> None:
    """The other entrance and its node serve meanwhile, and nothing of them begins anew."""
    hosts = hosts_of(cluster)
    head, other = hosts
    if not cluster.manage("GET", "/models?limit=1").json()["models"]:
        cluster.register("m", 3)
    scaled = cluster.manage("PUT", "/models/m", params={"copies": 2, "synchronous": "true"})
    assert scaled.status_code == 200, scaled.text
    there = entrances(hosts)[2:]
    before = [process.pid for process in other.named("-m pdserver", "--foreground")]
    with loaded(there, "m", [3], clients=2) as load:
        head.kill()
        count = load.count()
        eventually(lambda: load.count() > count + 50, SOON_SECONDS)
        start_head(hosts)
        eventually(cluster.is_managed, SOON_SECONDS)
        eventually(lambda: len(cluster.ready_on("m")) == 2, SOON_SECONDS)
        eventually(lambda: [ask(address, "m") for address in entrances(hosts)] == [21] * 4, SOON_SECONDS)
        account = load.stop()
    assert (account.wrong, account.lost) == ([], 0), str(account)
    assert [process.pid for process in other.named("-m pdserver", "--foreground")] == before
    cluster.register("later", 5)
    assert [ask(address, "later") for address in entrances(hosts)] == [35] * 4
