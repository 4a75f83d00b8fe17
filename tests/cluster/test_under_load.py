"""A cluster of three Ray machines while clients ask: machines die and come, versions change, disks are full.

Some clients go to the entrance, others to the nodes themselves. What they lose is counted to the last request.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests

from tests.cluster.load import Broken, GrpcLine, HttpLine, Load, Refused, Unreachable, loaded
from tests.cluster.running import SOON_SECONDS, RunningCluster, running_cluster
from tests.running import eventually


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningCluster]:
    with running_cluster(tmp_path_factory.mktemp("cluster"), 3) as cluster:
        yield cluster


@pytest.fixture
def cluster(running: RunningCluster) -> Iterator[RunningCluster]:
    """Without a model."""
    yield running
    running.unregister_all()


@contextlib.contextmanager
def asked(cluster: RunningCluster, model: str, *factors: int) -> Iterator[tuple[Load, Load]]:
    """Loads on the entrance and on the nodes themselves, each over HTTP and gRPC, which end with the block."""
    nodes = cluster.nodes().values()
    directly = [address for node in nodes for address in (node["inference"], node["grpc"])]
    with (
        loaded([cluster.inference, cluster.grpc], model, factors, clients=4) as through,
        loaded(directly, model, factors, clients=len(directly)) as direct,
    ):
        yield through, direct


def nothing_lost(*loads: Load) -> None:
    for load in loads:
        account = load.stop()
        assert (account.wrong, account.lost) == ([], 0), str(account)


def little_lost(*loads: Load, at_most: int) -> None:
    """The system resets a connection that it has set up just when the server closes its port."""
    for load in loads:
        account = load.stop()
        assert (account.wrong, account.refused) == ([], {}), str(account)
        assert len(account.broken) <= at_most, str(account)


def soon(check: object, seconds: float = SOON_SECONDS) -> None:
    eventually(check, seconds)  # type: ignore[arg-type]


def test_a_node_that_dies_takes_its_open_connections_along_and_no_more(cluster: RunningCluster) -> None:
    """Its copies are placed anew, also those of a pipeline with the model that it asks."""
    cluster.register("m", 3, copies=1)
    cluster.register_pipeline("page", "m", copies=2)
    serving = cluster.ready_on("page")
    assert cluster.ready_on("m") == serving
    victim = next(
        machine
        for machine in cluster.machines.all
        if machine.node in serving and machine.raylet and machine != cluster.machines.head
    )
    lost = cluster.nodes()[victim.node]
    with asked(cluster, "page", 3) as (through, direct):
        victim.kill()
        soon(lambda: len(cluster.ready_on("page") - {victim.node}) == 2)
        assert cluster.ready_on("page") <= cluster.ready_on("m")
        after = direct.count()
        soon(lambda: direct.count() > after + 50)
    nothing_lost(through)
    account = direct.account
    assert (account.wrong, account.refused) == ([], {}), str(account)
    assert all(broken.startswith((lost["inference"], lost["grpc"])) for broken in account.broken), str(account)
    assert len(account.broken) <= 2, str(account)  # as many clients had begun there
    cluster.machines.all.remove(victim)
    soon(lambda: victim.node not in cluster.nodes())


def test_a_pipeline_brings_the_models_that_it_asks(cluster: RunningCluster) -> None:
    early = cluster.pack_pipeline("page", "m").name
    answer = cluster.manage("POST", "/models", params={"url": early})
    assert answer.status_code == 400, answer.text
    assert "Model not found: m: register that model first" in answer.json()["message"]
    cluster.register("m", 3)
    cluster.register_pipeline("page", "m")
    assert cluster.ready_on("page") == cluster.ready_on("m")
    assert cluster.described("m")["copies"]["askedBy"] == ["page/1.0"]
    with asked(cluster, "page", 3, 5) as loads:
        answer = cluster.manage("PUT", "/models/page", params={"copies": 2, "synchronous": "true"})
        assert answer.status_code == 200, answer.text
        assert cluster.ready_on("page") == cluster.ready_on("m")
        assert len(cluster.ready_on("m")) == 2
        answer = cluster.manage("DELETE", "/models/m")
        assert (answer.status_code, "m/1.0 is asked by page/1.0" in answer.text) == (409, True), answer.text
        cluster.register("m", 5, version="2.0")
        assert cluster.manage("PUT", "/models/m/2.0/set-default").status_code == 200
        assert cluster.manage("DELETE", "/models/m/1.0").status_code == 200
        after = [load.count() for load in loads]
        soon(lambda: all(load.count() > count + 50 for load, count in zip(loads, after, strict=True)))
    nothing_lost(*loads)
    assert loads[0].answered[-1].factor == 5


def test_a_machine_that_joins_gets_what_was_missing(cluster: RunningCluster) -> None:
    there = len(cluster.nodes())
    cluster.register("m", 3, copies=there)
    with asked(cluster, "m", 3) as loads:
        answer = cluster.manage("PUT", "/models/m", params={"copies": there + 1})
        assert answer.status_code == 202, answer.text
        assert "no node can take another copy of m/1.0" in cluster.described("m")["problems"][0]
        new = cluster.machines.add()
        soon(lambda: new.node in cluster.ready_on("m"))
        assert cluster.described("m")["copies"]["ready"] == there + 1
        addresses = cluster.nodes()[new.node]
        for line in (HttpLine(addresses["inference"], "m", {}), GrpcLine(addresses["grpc"], "m", {})):
            assert line.ask(7) == 21
            line.close()
    nothing_lost(*loads)


def test_the_controller_dies_and_nobody_notices(cluster: RunningCluster) -> None:
    """It comes back with all that it knew, and changes nothing."""
    cluster.register("m", 3, copies=2)
    cluster.register("other", 7, copies=1)
    before = cluster.described("m"), cluster.described("other")
    workers = cluster.worker_pids("m") | cluster.worker_pids("other")
    servers = {process.pid for process in cluster.machines.named("-m pdserver --foreground")}
    with asked(cluster, "m", 3) as loads:
        [controller] = cluster.machines.named("ray::ControllerShell")
        controller.kill()
        soon(lambda: cluster.is_managed() and cluster.ready_on("m"))
        soon(lambda: cluster.worker_pids("m") | cluster.worker_pids("other") == workers)
        cluster.register("later", 5)
    nothing_lost(*loads)
    assert {process.pid for process in cluster.machines.named("-m pdserver --foreground")} == servers
    for was, name in zip(before, ("m", "other"), strict=True):
        now = cluster.described(name)
        for described in (was, now):
            for copy in described["copies"]["nodes"]:
                del copy["memoryBytes"], copy["since"]  # a controller tells what it has seen itself
        assert (now["copies"], now["modelUrl"]) == (was["copies"], was["modelUrl"])


def test_an_entrance_that_begins_anew_is_told_where_requests_go(cluster: RunningCluster) -> None:
    """Nothing else changes meanwhile."""
    cluster.register("m", 3, copies=2)
    [entrance] = cluster.machines.named("ray::EntranceShell")
    entrance.kill()
    line = HttpLine(cluster.inference, "m", {})

    def answers() -> bool:
        with contextlib.suppress(Broken, Refused, Unreachable):
            return line.ask(7) == 21
        return False

    soon(answers, 30)
    soon(cluster.is_managed)
    line.close()


def test_a_version_is_replaced_by_another_with_nothing_lost(cluster: RunningCluster) -> None:
    cluster.register("m", 3, copies=2)
    with asked(cluster, "m", 3, 5) as loads:
        cluster.register("m", 5, version="2.0", copies=2)
        assert all(answer.factor == 3 for load in loads for answer in load.answered)
        assert cluster.manage("PUT", "/models/m/2.0/set-default").status_code == 200
        switched = time.monotonic()
        after = [load.count() for load in loads]
        assert cluster.manage("DELETE", "/models/m/1.0").status_code == 200
        soon(lambda: all(load.count() > count + 50 for load, count in zip(loads, after, strict=True)))
    nothing_lost(*loads)
    for load in loads:
        assert {answer.factor for answer in load.answered if answer.asked > switched} == {5}


def test_pdserver_is_upgraded_node_by_node_with_nothing_lost(cluster: RunningCluster) -> None:
    cluster.register("m", 3, copies=2)
    cluster.register("n", 7, copies=1)
    cluster.register_pipeline("single", "n")
    before = {process.pid for process in cluster.machines.named("-m pdserver --foreground")}
    with asked(cluster, "m", 3) as (through, direct), asked(cluster, "single", 7) as (single_through, single_direct):
        loads = through, direct, single_through, single_direct
        done = cluster.command("upgrade", seconds=400)
        assert done.returncode == 0, done.stdout + done.stderr
        for load in loads:
            count = load.count()
            soon(lambda load=load, count=count: load.count() > count + 20)
    nothing_lost(through, single_through)
    little_lost(direct, single_direct, at_most=len(before))
    after = {process.pid for process in cluster.machines.named("-m pdserver --foreground")}
    assert len(after) == len(before)
    assert not before & after
    assert cluster.is_managed()


def test_a_node_passes_on_what_it_lacks(cluster: RunningCluster) -> None:
    cluster.register("m", 3)
    cluster.register("n", 7)
    for addresses in cluster.nodes().values():
        for model, factor in (("m", 3), ("n", 7)):
            for line in (HttpLine(addresses["inference"], model, {}), GrpcLine(addresses["grpc"], model, {})):
                assert line.ask(11) == 11 * factor
                line.close()
            told = requests.get(f"{addresses['inference']}/v2/models/{model}", timeout=SOON_SECONDS).json()
            assert told["name"] == model
        assert requests.get(f"{addresses['inference']}/v2/models/none", timeout=SOON_SECONDS).status_code == 404


def test_what_can_not_be_placed_is_refused_and_told(cluster: RunningCluster) -> None:
    count = len(cluster.nodes())
    cluster.register("m", 3, copies=1)
    answer = cluster.manage("PUT", "/models/m", params={"copies": count + 1, "synchronous": "true"})
    assert answer.status_code == 503
    assert f"no node can take another copy of m/1.0 ({count} of {count + 1} are placed)" in answer.json()["message"]
    assert cluster.described("m")["copies"]["wanted"] == 1
    assert "problems" not in cluster.described("m")
    soon(lambda: len(cluster.described("m")["copies"]["nodes"]) == 1)

    gpu = cluster.pack("gpu", 3, config="deviceType: gpu\n").name
    answer = cluster.manage("POST", "/models", params={"url": gpu, "synchronous": "true"})
    assert answer.status_code == 503
    assert "GPU" in answer.json()["message"]
    assert cluster.manage("GET", "/models/gpu").status_code == 404
    answer = cluster.manage("POST", "/models", params={"url": gpu, "synchronous": "false"})
    assert answer.status_code == 202
    soon(lambda: "GPU" in str(cluster.described("gpu").get("problems")))


def test_an_archive_that_no_node_can_load_is_refused(cluster: RunningCluster) -> None:
    cluster.register("m", 3, copies=1)
    archive = cluster.pack("bad", 3, config="die: true\nstartupTimeout: 20\n")
    with asked(cluster, "m", 3) as loads:
        answer = cluster.manage("POST", "/models", params={"url": archive.name, "copies": 2, "synchronous": "true"})
        assert answer.status_code == 500, answer.text
        assert "status 9" in answer.json()["message"]
        assert cluster.manage("GET", "/models/bad").status_code == 404
    nothing_lost(*loads)


@pytest.fixture
def full_disk(cluster: RunningCluster) -> Iterator[str]:
    """A node, by its id, whose folder for archives is on a disk of its own, which is full."""
    machine = cluster.machines.head
    server = machine.server()
    assert server is not None
    line = server.cmdline()
    folder = Path(line[line.index("--pd-config") + 1]).parent / "archives"
    command = ["mount", "-t", "tmpfs", "-o", "size=128k,mode=700", "none", str(folder)]
    if os.getuid() or subprocess.run(command, capture_output=True).returncode:
        pytest.skip("a small file system can't be mounted here")
    yield machine.node
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


def test_a_full_disk_is_told_and_nothing_is_half_written(cluster: RunningCluster, full_disk: str) -> None:
    count = len(cluster.nodes())
    cluster.register("m", 3, copies=count)  # which is small
    big = cluster.pack("big", 5, size=1_000_000).name
    with asked(cluster, "m", 3) as loads:
        answer = cluster.manage("POST", "/models", params={"url": big, "copies": count, "synchronous": "true"})
        assert answer.status_code == 503, answer.text
        assert "No space left on device" in answer.json()["message"]
        assert cluster.manage("GET", "/models/big").status_code == 404
        answer = cluster.manage("POST", "/models", params={"url": big, "copies": count - 1, "synchronous": "true"})
        assert answer.status_code == 200, answer.text
        assert full_disk not in cluster.ready_on("big")
    nothing_lost(*loads)
