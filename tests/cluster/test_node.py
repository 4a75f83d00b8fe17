"""A node: its server is what the last target says, and lives as long as the node does."""

from __future__ import annotations

import asyncio
import hashlib
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import aiohttp
import msgspec
import psutil
import pytest

from pdserver import __version__
from pdserver.cluster.base import Archive, CopyStatus, NodeStatus, Placed, Target
from pdserver.cluster.node import NodeAgent, NodeOptions
from pdserver.errors import Unavailable
from pdserver.peers.base import Addresses, Peers, Route
from pdserver.types import ModelRef
from tests import disks
from tests.conftest import pack_handler
from tests.running import PATIENCE_SECONDS, eventually, lives
from tests.security.certificates import authority, signed
from tests.without_paddle import without_paddle as without_paddle

pytestmark = pytest.mark.usefixtures("without_paddle")
NO_PEERS = Peers("n1", {}, ())
TOKEN = "t" * 32


class Library:
    """Packs handlers, and is the holder of their archives."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir()
        self._folder = folder
        self._paths: dict[str, Path] = {}

    def archive(self, handler: str, name: str | None = None, version: str = "1.0", **options: Any) -> Archive:
        path = pack_handler(self._folder, handler, name, version, **options)
        content = path.read_bytes()
        sha256 = hashlib.sha256(content).hexdigest()
        self._paths[sha256] = path.rename(path.with_name(f"{sha256}.pdar"))
        return Archive(sha256, path.name, len(content))

    async def piece(self, sha256: str, offset: int) -> bytes:
        return self._paths[sha256].read_bytes()[offset:]


@pytest.fixture
def library(tmp_path: Path) -> Library:
    return Library(tmp_path / "library")


def names(folder: Path) -> list[str]:
    """Of all files, the hidden ones too."""
    return sorted(path.name for path in folder.iterdir())


def age(folder: Path) -> None:
    """Its files have been there for long."""
    for file in folder.iterdir():
        os.utime(file, (0, 0))


@asynccontextmanager
async def running(folder: Path, hang_seconds: float = 30.0, **options: Any) -> AsyncIterator[NodeAgent]:
    agent = NodeAgent(folder, NodeOptions(node="n1", **options), hang_seconds)
    await agent.start()
    try:
        yield agent
    finally:
        await agent.close()


def copy(archive: Archive, name: str, version: str = "1.0", **more: Any) -> Placed:
    return Placed(ref=ModelRef(name, version), archive=archive, **more)


def target(revision: int, *copies: Placed, archives: tuple[str, ...] = ()) -> Target:
    return Target(revision, copies, NO_PEERS, frozenset(archives))


async def until(check: Callable[[], Awaitable[Any]], seconds: float = PATIENCE_SECONDS) -> Any:
    """The first true answer; fails when there is none in time."""
    deadline = time.monotonic() + seconds
    while not (found := await check()):
        assert time.monotonic() < deadline, f"not within {seconds:g} s"
        await asyncio.sleep(0.02)
    return found


async def settled(agent: NodeAgent) -> dict[str, CopyStatus]:
    """The copies, once each is ready or has a problem and none is about to go."""

    async def check() -> NodeStatus | None:
        status = await agent.status()
        wanted = {placed.ref for placed in agent.target.copies} if agent.target else set()
        done = all(copy.ready or copy.problem for copy in status.copies)
        return status if done and {copy.ref for copy in status.copies} == wanted else None

    status: NodeStatus = await until(check)
    return {str(copy.ref): copy for copy in status.copies}


async def predict(agent: NodeAgent, model: str, body: Mapping[str, Any] | None = None, token: str = "") -> Any:
    """The answer's JSON, or its status when it is an error."""
    url = (await agent.status()).addresses.inference
    headers = {"authorization": f"Bearer {token}"} if token else {}
    async with (
        aiohttp.ClientSession(url, headers=headers) as session,
        session.post(f"/predictions/{model}", json=body or {"nonce": 1}) as answer,
    ):
        return await answer.json() if answer.status == 200 else answer.status


def test_a_target_is_made_so_whatever_was_before(tmp_path: Path, library: Library) -> None:
    one, two = library.archive("chaos"), library.archive("chaos", version="2.0")
    other, again = library.archive("chaos", "other"), library.archive("echo", "other")

    async def run() -> None:
        async with running(tmp_path / "node") as agent:
            empty = await agent.status()
            assert (empty.version, empty.revision, empty.copies, empty.problem) == (__version__, 0, (), "")
            assert empty.free_bytes <= empty.memory_bytes
            for archive in (one, two, other, again):
                await agent.fetch(archive, library)
            first = target(1, copy(one, "chaos", default=True), copy(other, "other", workers=2))
            assert (await agent.apply(first)).revision == 1
            copies = await settled(agent)
            assert [(ref, each.ready) for ref, each in copies.items()] == [("chaos/1.0", True), ("other/1.0", True)]
            assert (await predict(agent, "chaos"))["nonce"] == 1
            pid = (await predict(agent, "chaos"))["pid"]

            await agent.apply(first)
            await settled(agent)
            assert (await predict(agent, "chaos"))["pid"] == pid, "told the same again, it does nothing"

            await agent.apply(
                target(2, copy(one, "chaos"), copy(two, "chaos", "2.0", default=True), copy(again, "other"))
            )
            assert {ref: each.ready for ref, each in (await settled(agent)).items()} == {
                "chaos/1.0": True,
                "chaos/2.0": True,
                "other/1.0": True,
            }
            assert (await predict(agent, "chaos"))["pid"] != pid, "2.0 is the default"
            assert (await predict(agent, "chaos/1.0"))["pid"] == pid

            old = await agent.apply(first)
            assert old.revision == 2, "an older target is left alone"
            await agent.apply(target(3, copy(two, "chaos", "2.0")))
            assert [*await settled(agent)] == ["chaos/2.0"]
            assert await predict(agent, "other") == 404
            await agent.apply(target(4, archives=(one.sha256,)))
            assert await settled(agent) == {}
            age(tmp_path / "node" / "archives")

            async def others_have_gone() -> bool:
                return (await agent.status()).archives == (one.sha256,)

            await until(others_have_gone)

    asyncio.run(run())


async def _is_ready(agent: NodeAgent, ref: str) -> bool:
    return any(str(copy.ref) == ref and copy.ready for copy in (await agent.status()).copies)


def test_a_load_that_takes_long_holds_up_nothing_and_is_given_up_when_it_is_not_wanted(
    tmp_path: Path, library: Library
) -> None:
    slow, quick = library.archive("hard_to_load", "slow", config="loading: {hang: true}"), library.archive("chaos")

    async def run() -> None:
        async with running(tmp_path / "node") as agent:
            await agent.fetch(slow, library)
            await agent.fetch(quick, library)
            await agent.apply(target(1, copy(slow, "slow")))
            [loading] = (await agent.status()).copies
            assert (loading.ready, loading.problem) == (False, "")
            await agent.apply(target(2, copy(slow, "slow"), copy(quick, "chaos")))
            await until(lambda: _is_ready(agent, "chaos/1.0"))
            await agent.apply(target(3, copy(quick, "chaos")))
            assert [*await settled(agent)] == ["chaos/1.0"]

    asyncio.run(run())


def test_a_server_that_dies_is_replaced_and_serves_the_same(tmp_path: Path, library: Library) -> None:
    archive = library.archive("chaos")

    async def run() -> None:
        async with running(tmp_path / "node") as agent:
            await agent.fetch(archive, library)
            await agent.apply(target(1, copy(archive, "chaos")))
            await settled(agent)
            before, addresses = agent.server.pid, (await agent.status()).addresses
            os.kill(before, signal.SIGKILL)
            await until(lambda: _is_replaced(agent, before))
            assert (await settled(agent))["chaos/1.0"].ready
            assert (await predict(agent, "chaos"))["nonce"] == 1
            after = await agent.status()
            assert (after.addresses, after.revision) == (addresses, 1)

    asyncio.run(run())


async def _is_replaced(agent: NodeAgent, pid: int) -> bool:
    return agent.server.pid not in (0, pid) and (await agent.status()).revision > 0


def test_a_server_that_is_gone_is_no_fault_of_its_copies(tmp_path: Path, library: Library) -> None:
    async def run() -> None:
        archive = library.archive("kinds")
        async with running(tmp_path / "node") as agent:
            await agent.fetch(archive, library)
            os.kill(agent.server.pid, signal.SIGKILL)
            await agent.server.wait()
            said = await agent.apply(target(1, copy(archive, "kinds")))
            while not said.copies[0].ready:
                assert said.copies[0].problem == ""
                await asyncio.sleep(0.05)
                said = await agent.status()

    asyncio.run(asyncio.wait_for(run(), PATIENCE_SECONDS))


def test_a_server_that_hangs_is_replaced(tmp_path: Path) -> None:
    async def run() -> None:
        async with running(tmp_path / "node", hang_seconds=2) as agent:
            hanging = agent.server.pid
            os.kill(hanging, signal.SIGSTOP)
            assert "does not answer" in (await agent.status()).problem
            await until(lambda: _is_another(agent, hanging))

    asyncio.run(run())


async def _is_another(agent: NodeAgent, pid: int) -> bool:
    return agent.server.pid not in (0, pid) and not (await agent.status()).problem


def test_a_restart_answers_what_was_taken_and_then_serves_nothing(tmp_path: Path, library: Library) -> None:
    archive = library.archive("chaos")
    begun, go = tmp_path / "begun", tmp_path / "go"

    async def run() -> None:
        async with running(tmp_path / "node") as agent:
            await agent.fetch(archive, library)
            await agent.apply(target(1, copy(archive, "chaos")))
            await settled(agent)
            pid = agent.server.pid
            asked = asyncio.create_task(
                predict(agent, "chaos", {"op": "wait_for", "nonce": 7, "begun": str(begun), "go": str(go)})
            )
            await asyncio.to_thread(eventually, begun.exists)
            restarting = asyncio.create_task(agent.restart())
            go.touch()
            assert (await asked)["nonce"] == 7
            await restarting
            assert agent.server.pid not in (0, pid)
            status = await agent.status()
            assert (status.revision, status.copies, status.problem) == (0, (), "")
            await agent.apply(target(1, copy(archive, "chaos")))
            await settled(agent)

    asyncio.run(run())


def test_tokens_hold_and_a_copy_takes_changes_while_it_runs(tmp_path: Path, library: Library) -> None:
    archive = library.archive("chaos")

    async def run() -> None:
        tokens = {"PD_ADMIN_TOKEN": f"{TOKEN},{'u' * 32}", "PD_INFERENCE_TOKEN": "i" * 32}
        settings = {"allow_insecure": "true", "certificate_file": ""}
        everywhere: dict[str, Any] = {"listen": "0.0.0.0", "settings": settings}
        async with running(tmp_path / "node", environment=tokens, **everywhere) as agent:
            addresses = (await agent.status()).addresses
            assert [urlsplit(url).hostname for url in (addresses.inference, addresses.management)] == ["127.0.0.1"] * 2
            await agent.fetch(archive, library)
            await agent.apply(target(1, copy(archive, "chaos")))
            assert (await settled(agent))["chaos/1.0"].ready
            assert await predict(agent, "chaos") == 401
            pid = (await predict(agent, "chaos", token="i" * 32))["pid"]
            await agent.apply(target(2, copy(archive, "chaos", workers=2, settings={"batch_size": "4"})))

            async def changed() -> bool:
                [told] = await agent.server.manage("GET", "/models/chaos")
                return (told["minWorkers"], told["batchSize"], len(told["workers"])) == (2, 4, 2)

            await until(changed)
            [told] = await agent.server.manage("GET", "/models/chaos")
            assert pid in [worker["pid"] for worker in told["workers"]], "it runs on"

    asyncio.run(run())


def test_a_server_that_cannot_start_is_told_and_tried_again(tmp_path: Path) -> None:
    certificate = tmp_path / "certificate.pem"

    async def run() -> None:
        settings = {"certificate_file": str(certificate)}
        async with running(tmp_path / "node", settings=settings) as agent:
            status = await agent.status()
            assert "the server does not start" in status.problem
            assert "certificate_file" in status.problem
            with pytest.raises(Unavailable, match="certificate_file"):
                await agent.restart()

    asyncio.run(run())


def test_a_worker_that_dies_is_no_problem_of_its_copy(tmp_path: Path, library: Library) -> None:
    archive = library.archive("chaos")

    async def run() -> None:
        async with running(tmp_path / "node") as agent:
            await agent.fetch(archive, library)
            await agent.apply(target(1, copy(archive, "chaos")))
            assert (await settled(agent))["chaos/1.0"].ready
            told: list[CopyStatus] = []
            before: set[int] = set()

            async def other_workers() -> bool:
                told.extend((await agent.status()).copies)
                return told[-1].ready and before.isdisjoint(await workers(agent, "chaos"))

            async def seen_without_one() -> bool:
                nonlocal before
                before = await workers(agent, "chaos")
                for pid in before:
                    os.kill(pid, signal.SIGKILL)
                await until(other_workers)
                return not all(copy.ready for copy in told)

            await until(seen_without_one)  # the server waits a little longer each time
            assert {copy.problem for copy in told} == {""}

    asyncio.run(run())


async def workers(agent: NodeAgent, name: str) -> set[int]:
    [described] = await agent.server.manage("GET", f"/models/{name}")
    return {worker["pid"] for worker in described["workers"] if worker["status"] == "READY"}


def test_a_snapshot_is_kept_for_the_controller(tmp_path: Path) -> None:
    async def run() -> None:
        agent = NodeAgent(tmp_path / "node", NodeOptions(node="n1"))
        assert await agent.kept() == (0, b"")
        await agent.keep(3, b"three")
        await agent.keep(2, b"two")
        assert await NodeAgent(tmp_path / "node", NodeOptions(node="n1")).kept() == (3, b"three")

    asyncio.run(run())


def test_a_node_that_begins_anew_passes_requests_on_before_it_is_told(tmp_path: Path) -> None:
    """As its last server did, but not by what another node or cluster has left."""
    nowhere = Addresses("http://127.0.0.1:1", "", "", "")
    peers = Peers("n1", {"n2": nowhere}, (Route(ModelRef("chaos", "1.0"), ("n2",), True),))

    async def run() -> None:
        async with running(tmp_path / "node") as agent:
            await agent.keep(1, b"")
            await agent.apply(Target(1, (), peers))
        async with running(tmp_path / "node") as agent:
            assert await predict(agent, "chaos") == 503, "the other node can't be reached"
        async with running(tmp_path / "node", cluster="another") as agent:
            assert await predict(agent, "chaos") == 404
            await agent.apply(Target(1, (), msgspec.structs.replace(peers, node="n3")))
        async with running(tmp_path / "node", cluster="another") as agent:
            assert await predict(agent, "chaos") == 404

    asyncio.run(run())


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    with disks.small(tmp_path / "disk", 2) as folder:
        yield folder


def test_a_full_disk_is_told_and_the_node_serves_on(tmp_path: Path, small_disk: Path, library: Library) -> None:
    served, other = library.archive("chaos"), library.archive("echo")
    archives = tmp_path / "node" / "archives"
    archives.parent.mkdir()
    archives.symlink_to(small_disk)

    async def run() -> None:
        async with running(tmp_path / "node") as agent:
            await agent.fetch(served, library)
            await agent.apply(target(1, copy(served, "chaos")))
            await settled(agent)
            filling = small_disk / "filling"
            filling.write_bytes(b"x" * shutil.disk_usage(small_disk).free)
            with pytest.raises(Unavailable, match="No space left on device"):
                await agent.fetch(other, library)
            status = await agent.status()
            assert "No space left on device" in status.problem
            assert status.archives == (served.sha256,)
            assert names(small_disk) == [f"{served.sha256}.pdar", "filling"]
            assert (await predict(agent, "chaos"))["nonce"] == 1
            filling.unlink()
            assert (await agent.status()).problem == ""
            await agent.fetch(other, library)
            await agent.apply(target(2, copy(served, "chaos"), copy(other, "echo")))
            assert (await settled(agent))["echo/1.0"].ready

    asyncio.run(run())


AGENT = """
import asyncio, sys
from pathlib import Path
from pdserver.cluster.node import NodeAgent, NodeOptions
async def run():
    agent = NodeAgent(Path(sys.argv[1]), NodeOptions(node="n1"))
    await agent.start()
    print(agent.server.pid, flush=True)
    await asyncio.Event().wait()
asyncio.run(run())
"""


def test_the_server_ends_with_the_node_even_if_that_is_killed(tmp_path: Path) -> None:
    command = [sys.executable, "-c", AGENT, str(tmp_path / "node")]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        server = psutil.Process(int(process.stdout.readline()))
        family = [server, *server.children(recursive=True)]
        assert all(map(lives, family))
        process.kill()
    eventually(lambda: not any(map(lives, family)))


def test_the_others_are_told_of_tls(tmp_path: Path, library: Library) -> None:
    """The node itself is one of the clients that the server asks for a certificate."""
    ca = authority(tmp_path / "ca")
    pair = signed(ca, tmp_path / "ca", "node")
    files = {"certificate_file": pair.certificate, "private_key_file": pair.key, "client_ca_file": ca.certificate}
    settings = {key: str(path) for key, path in files.items()}
    archive = library.archive("chaos", "m")

    async def work() -> None:
        environment = {f"PD_{scope}_TOKEN": TOKEN for scope in ("INFERENCE", "MANAGEMENT")}
        async with running(tmp_path / "n1", settings=settings, environment=environment, listen="0.0.0.0") as agent:
            addresses = (await agent.status()).addresses
            assert addresses.inference.startswith("https://127.0.0.1:")
            assert addresses.grpc.startswith("grpcs://127.0.0.1:")
            await agent.fetch(archive, library)
            await agent.apply(target(1, copy(archive, "m")))
            assert (await settled(agent))["m/1.0"].ready

    asyncio.run(work())
