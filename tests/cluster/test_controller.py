"""What the controller does with the nodes, which are fakes here, in virtual time."""

from __future__ import annotations

import asyncio
import re

import msgspec
import pytest

from pdserver.cluster.base import ModelView
from pdserver.cluster.controller import Controller
from pdserver.errors import (
    ConfigError,
    Conflict,
    Forbidden,
    InvalidRequest,
    LoadFailed,
    ModelNotFound,
    Unavailable,
    VersionNotFound,
)
from pdserver.types import ModelRef
from tests.cluster.fakes import MIB, World, now, running
from tests.cluster.virtual import run, until

FIT = ModelRef("fit", "1")


def model(controller: Controller, ref: ModelRef = FIT) -> ModelView:
    return next(each for each in controller.view().models if each.wanted.ref == ref)


def ready_on(controller: Controller, ref: ModelRef = FIT) -> list[str]:
    return [copy.node for copy in model(controller, ref).copies if copy.ready]


def test_a_model_is_registered_once_and_served_by_several() -> None:
    async def work() -> None:
        world = World()
        async with running(world) as controller:
            wanted = await controller.register("fit-1-100.pdar", copies=2, synchronous=True)
            assert wanted.ref == FIT
            [first, second] = world.serving(FIT)
            assert ready_on(controller) == [first, second]
            assert {route.nodes for routes in world.shown() for route in routes} == {(first, second)}
            assert len(world.shown()) == 5, "all nodes and the entrances know it"
            assert model(controller).wanted.default
            snapshots = {node.disk.snapshot for node in world.members.values()} | {world.disk.snapshot}
            assert len(snapshots) == 1
            with pytest.raises(Conflict, match="already registered"):
                await controller.register("fit-1-100.pdar")
            with pytest.raises(InvalidRequest, match="copies=0"):
                await controller.register("fit-2-100.pdar", copies=0)
            with pytest.raises(ModelNotFound):
                await controller.register("nothing")
        assert not world.faults

    run(work())


def test_an_archive_is_on_two_disks() -> None:
    async def work() -> None:
        world = World()
        async with running(world) as controller:
            await controller.register("fit-1-100.pdar", synchronous=True)
            keepers = [name for name, node in world.members.items() if node.archives]
            assert len(keepers) == 2
            [serves] = world.serving(FIT)
            world.members[serves].kill()
            await until(lambda: sum(bool(node.archives) for node in world.members.values() if node.up) == 2)

    run(work())


def test_what_has_no_room_is_refused_with_the_reason_and_leaves_nothing() -> None:
    async def work() -> None:
        world = World(memory_mib=1000)
        async with running(world) as controller:
            await controller.register("big-1-700.pdar", copies=2, synchronous=True)
            before = world.disk.snapshot
            # Nobody knows yet how much it needs; then there are more copies than nodes.
            with pytest.raises(Unavailable, match=r"no node can take another copy of fit/1 \(3 of 4 are placed\)"):
                await controller.register("fit-1-100.pdar", copies=4, synchronous=True)
            await controller.register("more-1-500.pdar", synchronous=True)
            with pytest.raises(Unavailable, match=r"needs 500.0 MiB of memory: n\d has 300.0 MiB of memory free; n"):
                await controller.scale("more", copies=3, synchronous=True)
            assert world.serving(FIT) == []
            assert before[0] > 0
            with pytest.raises(ModelNotFound):
                await controller.unregister("fit")

    run(work())


def test_what_an_archive_took_is_known_when_it_comes_again() -> None:
    """Also to another controller."""

    async def work() -> None:
        world = World(1, memory_mib=1000)
        async with running(world) as controller:
            await controller.register("fit-1-300.pdar", workers=1, synchronous=True)
            await until(lambda: model(controller).wanted.memory_bytes == 300 * MIB)
            await controller.unregister("fit")
        async with running(world) as controller:
            loads = world.members["n1"].loads
            with pytest.raises(Unavailable, match=r"fit/1, which needs 1.2 GiB of memory: n1 has 1000.0 MiB"):
                await controller.register("fit-1-300.pdar", workers=4, synchronous=True)
            assert world.members["n1"].loads == loads, "it was not tried"
            wanted = await controller.register("fit-1-300.pdar", workers=2, synchronous=True)
            assert wanted.memory_bytes == 600 * MIB
            other = await controller.register("fit-2-300.pdar", workers=2)
            assert other.memory_bytes == 0, "nobody knows"

    run(work())


def test_what_can_not_be_loaded_is_refused_and_leaves_nothing() -> None:
    async def work() -> None:
        world = World()
        world.models.broken_on.add(("n2", "fit-1-100.pdar"))
        async with running(world) as controller:
            before = world.disk.snapshot
            with pytest.raises(LoadFailed, match=r"n2: fit-1-100.pdar can't be loaded"):
                await controller.register("fit-1-100.pdar", copies=3, synchronous=True)
            assert not any(node.copies for node in world.members.values())
            assert not controller.view().models
            assert world.disk.snapshot == before
            assert not [route for routes in world.shown() for route in routes], "nobody was told of it"

    run(work())


def test_without_waiting_the_view_tells_what_is_wrong() -> None:
    async def work() -> None:
        world = World()
        world.models.broken.add("fit-1-100.pdar")
        async with running(world) as controller:
            await controller.register("fit-1-100.pdar", copies=4)
            await until(lambda: len(model(controller).copies) == 3)
            await until(lambda: all(copy.problem for copy in model(controller).copies))
            assert "3 of 4 are placed" in model(controller).problem
            world.models.broken.clear()
            await until(lambda: len(ready_on(controller)) == 3, 90)

    run(work())


def test_a_node_dies_and_returns() -> None:
    async def work() -> None:
        world = World()
        async with running(world) as controller:
            await controller.register("fit-1-100.pdar", copies=2, synchronous=True)
            dead, other = world.serving(FIT)
            world.members[dead].kill()
            began = now()
            await until(lambda: len(world.serving(FIT)) == 2)
            assert now() - began < 3.0 + 2.0 + 1.0, "3 s until it is lost, 2 s to load"
            await until(lambda: dead not in [name for routes in world.shown() for r in routes for name in r.nodes])
            assert [node.lost for node in controller.view().nodes].count(True) == 1
            loads = {name: node.loads for name, node in world.members.items()}
            world.members[dead].bring_back()
            await asyncio.sleep(30)
            assert {name: node.loads for name, node in world.members.items()} == loads, "nothing moves back"
            assert not any(node.lost for node in controller.view().nodes)
            assert other in world.serving(FIT)

    run(work())


def test_a_node_that_was_cut_off_serves_until_the_new_copy_does() -> None:
    async def work() -> None:
        world = World()
        world.load_seconds = 40
        async with running(world) as controller:
            await controller.register("fit-1-100.pdar", synchronous=True)
            [old] = world.serving(FIT)
            world.members[old].cut_off()
            await asyncio.sleep(6)
            world.members[old].bring_back()
            await until(lambda: ready_on(controller) == [old], 5)
            assert [copy.leaving for copy in model(controller).copies if copy.node == old] == [True]
            await until(lambda: world.serving(FIT) not in ([], [old]))
            await until(lambda: len(world.serving(FIT)) == 1)
            assert world.serving(FIT) != [old]
        assert not world.faults

    run(work())


def test_a_full_disk_sends_copies_elsewhere() -> None:
    async def work() -> None:
        world = World()
        async with running(world) as controller:
            await asyncio.sleep(1)
            for name in ("n1", "n2"):
                world.members[name].disk.full = True
            await controller.register("fit-1-100.pdar", synchronous=True)
            assert world.serving(FIT) == ["n3"]
            assert [node.problem for node in controller.view().nodes] == ["says: its disk is full"] * 2 + [""]
            with pytest.raises(Unavailable, match=r"n1 says: its disk is full; n2 says: its disk is full; n3 has"):
                await controller.scale("fit", copies=2, synchronous=True)
            world.disk.full = world.members["n3"].disk.full = True
            with pytest.raises(Unavailable, match="the disk is full"):
                await controller.register("fit-2-100.pdar")
            assert len(controller.view().models) == 1

    run(work())


async def ask_on(world: World, found: list[str], name: str = "fit", version: str | None = None) -> None:
    while True:
        if problem := world.ask(name, version):
            found.append(problem)
        await asyncio.sleep(0.02)


def test_a_version_is_replaced_by_another_and_nothing_is_lost() -> None:
    async def work() -> None:
        world = World()
        lost: list[str] = []
        async with running(world) as controller:
            await controller.register("fit-1-100.pdar", copies=2, synchronous=True)
            asking = asyncio.create_task(ask_on(world, lost))
            await controller.register("fit-2-100.pdar", copies=2, synchronous=True)
            with pytest.raises(Forbidden, match="is the default of model fit"):
                await controller.unregister("fit", "1")
            await controller.set_default("fit", "2")
            defaults = {
                placed.ref.version: placed.default
                for node in world.members.values() if node.target for placed in node.target.copies
            }  # fmt: skip
            assert defaults == {"1": False, "2": True}
            assert {r.ref.version for routes in world.shown() for r in routes if r.default} == {"2"}
            await controller.unregister("fit", "1")
            assert world.serving(FIT) == []
            assert len(world.serving(ModelRef("fit", "2"))) == 2
            with pytest.raises(VersionNotFound):
                await controller.set_default("fit", "1")
            await controller.unregister("fit")
            assert not any(node.copies for node in world.members.values())
            await until(lambda: not any(node.archives for node in world.members.values()))
            assert not world.models.kept
            asking.cancel()
        assert not lost
        assert not world.faults

    run(work())


@pytest.mark.parametrize("copies", [1, 2, 3])
def test_the_same_version_is_replaced_node_by_node(copies: int) -> None:
    async def work() -> None:
        world = World()
        lost: list[str] = []
        async with running(world) as controller:
            await controller.register("fit-1-100.pdar", copies=copies, synchronous=True)
            asking = asyncio.create_task(ask_on(world, lost))
            await controller.register("fit-1-110.pdar", copies=copies, replace=True, synchronous=True)
            archives = {node.copies[FIT].placed.archive.file for node in world.members.values() if node.serves(FIT)}
            assert archives == {"fit-1-110.pdar"}
            await until(lambda: len(world.serving(FIT)) == copies)
            world.models.broken.add("fit-1-120.pdar")
            with pytest.raises(LoadFailed, match=r"fit-1-120.pdar can't be loaded"):
                await controller.register("fit-1-120.pdar", copies=copies, replace=True, synchronous=True)
            await until(lambda: len(world.serving(FIT)) == copies)
            archives = {node.copies[FIT].placed.archive.file for node in world.members.values() if node.serves(FIT)}
            assert archives == {"fit-1-110.pdar"}
            await controller.register("fit-1-120.pdar", copies=copies, replace=True)
            await until(lambda: "it was not replaced by fit-1-120.pdar" in model(controller).problem)
            asking.cancel()
        assert not lost
        assert not world.faults

    run(work())


def test_scaling() -> None:
    async def work() -> None:
        world = World()
        async with running(world) as controller:
            await controller.register("fit-1-100.pdar", synchronous=True)
            loads = sum(node.loads for node in world.members.values())
            await controller.scale("fit", workers=3, settings={"batch_size": "4"}, synchronous=True)
            assert sum(node.loads for node in world.members.values()) == loads, "it is not loaded anew"
            await until(lambda: model(controller).wanted.memory_bytes == 300 * 2**20)
            await controller.scale("fit", copies=3, synchronous=True)
            assert len(world.serving(FIT)) == 3
            await controller.scale("fit", copies=1)
            await until(lambda: len(world.serving(FIT)) == 1)
            assert model(controller).wanted.settings == {"batch_size": "4"}
            with pytest.raises(ModelNotFound, match="is it fit"):
                await controller.scale("fat", copies=2)
            await controller.scale("fit", workers=0, synchronous=True)
            assert world.serving(FIT) == []
        assert not world.faults

    run(work())


def test_a_new_controller_takes_over_what_is_served() -> None:
    async def work() -> None:
        world = World()
        lost: list[str] = []
        async with running(world) as controller:
            await controller.register("fit-1-100.pdar", copies=2, synchronous=True)
        asking = asyncio.create_task(ask_on(world, lost))
        loads = {name: node.loads for name, node in world.members.items()}
        world.disk.snapshot = (0, b"")  # it begins on another machine
        slow = world.members[world.serving(FIT)[0]]
        slow.delay_seconds = 0.8
        world.members["n3"].disk.snapshot = (1, b"{}")
        async with running(world) as controller:
            assert controller.view().recovering
            await until(lambda: not controller.view().recovering)
            await until(lambda: len(ready_on(controller)) == 2)
            await asyncio.sleep(10)
            assert {name: node.loads for name, node in world.members.items()} == loads
            asking.cancel()
        assert not lost

    run(work())


def test_a_snapshot_that_comes_late_is_still_the_newest() -> None:
    async def work() -> None:
        world = World(2)
        async with running(world) as controller:
            await controller.register("fit-1-100.pdar", copies=2, synchronous=True)
            world.members["n1"].cut_off()
            await controller.register("new-1-100.pdar", synchronous=True)
        world.disk.snapshot = (0, b"")
        world.members["n1"].bring_back()
        world.members["n2"].cut_off()
        async with running(world) as controller:
            await until(lambda: not controller.view().recovering)
            assert [each.wanted.ref.name for each in controller.view().models] == ["fit"]
            world.members["n2"].bring_back()
            await until(lambda: [each.wanted.ref.name for each in controller.view().models] == ["fit", "new"])
            await until(lambda: bool(world.serving(ModelRef("new", "1"))))

    run(work())


def test_what_was_half_done_when_the_controller_died_is_taken_back() -> None:
    async def work() -> None:
        world = World()
        async with running(world) as controller:
            await controller.register("fit-1-100.pdar", synchronous=True)
            changing = asyncio.create_task(controller.register("new-1-100.pdar", copies=2, synchronous=True))
            await until(lambda: any(ModelRef("new", "1") in node.copies for node in world.members.values()))
        assert not changing.done()
        async with running(world) as controller:
            await until(lambda: not controller.view().recovering)
            await until(lambda: all(ModelRef("new", "1") not in node.copies for node in world.members.values()))
            assert [each.wanted.ref for each in controller.view().models] == [FIT]
            assert len(world.serving(FIT)) == 1

    run(work())


def test_a_new_controller_asks_no_node_that_is_to_load_another_archive() -> None:
    """The one before died once it had written so, and before it told the node."""

    async def work() -> None:
        world = World(2)
        async with running(world) as controller:
            await controller.register("fit-1-100.pdar", copies=2, synchronous=True)
            replaced = asyncio.create_task(
                controller.register("fit-1-101.pdar", copies=2, synchronous=True, replace=True)
            )
            while b"fit-1-101" not in world.disk.snapshot[1]:  # noqa: ASYNC110 - it dies at once
                await asyncio.sleep(0.001)
        await asyncio.gather(replaced, return_exceptions=True)
        world.load_seconds = 20
        async with running(world) as controller:
            await until(lambda: not controller.view().recovering)
            await until(lambda: len(world.serving(FIT)) == 1)
            assert all(world.serving(FIT) == list(route.nodes) for routes in world.shown() for route in routes)
        assert not world.faults

    run(work())


@pytest.mark.parametrize("replace", [False, True])
def test_an_archive_is_kept_for_a_change_that_waits_for_its_turn(replace: bool) -> None:
    """Changes before it have others forgotten."""

    async def work() -> None:
        world = World()
        async with running(world) as controller:
            for url in ("fit-1-100.pdar", "old-1-100.pdar", "older-1-100.pdar"):
                await controller.register(url, synchronous=True)
            scaled = asyncio.create_task(controller.scale("fit", copies=3, synchronous=True))
            await asyncio.sleep(0.1)
            ended = [asyncio.create_task(controller.unregister("old"))]
            await asyncio.sleep(0.1)
            registered = asyncio.create_task(
                controller.register(
                    "fit-1-101.pdar" if replace else "new-1-100.pdar", synchronous=not replace, replace=replace
                )
            )
            await asyncio.sleep(0.1)
            ended.append(asyncio.create_task(controller.unregister("older")))  # before a replacement in the background
            await asyncio.gather(scaled, *ended, registered)
            url = "fit-1-101.pdar" if replace else "new-1-100.pdar"
            await until(lambda: any(each.wanted.url == url for each in controller.view().models))
            await controller.unregister("fit" if replace else "new")

    run(work())


def test_pdserver_is_upgraded_node_by_node_and_nothing_is_lost() -> None:
    async def work() -> None:
        world = World()
        lost: list[str] = []
        async with running(world) as controller:
            await controller.register("fit-1-100.pdar", synchronous=True)
            await controller.register("two-1-100.pdar", copies=2, synchronous=True)
            asking = [asyncio.create_task(ask_on(world, lost, name)) for name in ("fit", "two")]
            world.installed = "2.0"
            lines = [line async for line in controller.upgrade()]
            assert {node.version for node in world.members.values()} == {"2.0"}
            assert "n1 (1 of 3): it takes no new requests" in lines
            assert lines[-1] == "n3 (3 of 3): it serves again, with pdserver 2.0 instead of 1.0"
            assert len(world.serving(FIT)) == 1
            assert len(world.serving(ModelRef("two", "1"))) == 2
            for task in asking:
                task.cancel()
        assert not lost
        assert not world.faults
        world.version = "2.0"
        async with running(world) as controller:
            await controller.register("new-1-100.pdar", copies=3, synchronous=True)

    run(work())


def test_an_upgrade_waits_for_who_is_to_serve_meanwhile() -> None:
    """Whoever restarts is the only one that serves, since the other node's server has just died."""

    async def work() -> None:
        world = World(2)
        world.load_seconds = 20
        async with running(world) as controller:
            await controller.register("fit-1-100.pdar", copies=2, synchronous=True)
            async for line in controller.upgrade():
                if line == "n1 (1 of 2): it takes no new requests":
                    world.members["n2"].crash()
                elif line == "n1 (1 of 2): it restarts":
                    assert world.serving(FIT) == ["n1", "n2"]
        assert not world.faults

    run(work())


def test_an_upgrade_leaves_no_model_alone_that_is_loaded_meanwhile() -> None:
    async def work() -> None:
        world = World(2)
        world.load_seconds = 1
        async with running(world) as controller:
            await controller.register("fit-1-100.pdar", copies=2)
            await until(lambda: all(FIT in node.copies for node in world.members.values()))
            world.load_seconds = 20
            world.members["n2"].crash()  # n1 is the first that has loaded it
            assert not world.serving(FIT)
            async for line in controller.upgrade():
                if line == "n1 (1 of 2): it restarts":
                    assert world.serving(FIT) == ["n1", "n2"]
        assert not world.faults

    run(work())


def test_an_upgrade_ends_where_a_node_does_not_come_back() -> None:
    async def work() -> None:
        world = World()
        async with running(world) as controller:
            await controller.register("fit-1-100.pdar", copies=2, synchronous=True)
            world.installed = "2.0"
            world.members["n2"].restarts = False
            with pytest.raises(Unavailable, match="n2 did not come back: the rest stay as they are"):
                [line async for line in controller.upgrade()]
            assert world.members["n3"].version == "1.0"
            await until(lambda: len(world.serving(FIT)) == 2)
            assert not any(node.draining for node in controller.view().nodes)

    run(work())


@pytest.mark.parametrize("silent_seconds", [10, 1000])
def test_an_upgrade_waits_for_a_node_that_falls_silent_while_it_loads(silent_seconds: float) -> None:
    """As on a machine that is busy with all that begins there; not for ever."""

    async def work() -> None:
        world = World(2)
        async with running(world) as controller:
            await controller.register("fit-1-100.pdar", copies=2, synchronous=True)
            node = world.members["n1"]
            world.installed = "2.0"

            async def falls_silent() -> None:
                await until(lambda: node.version == "2.0" and node.target is not None and FIT in node.copies)
                assert not node.serves(FIT), "it loads"
                node.cut_off()
                await asyncio.sleep(silent_seconds)
                node.bring_back()

            silent = asyncio.create_task(falls_silent())
            if silent_seconds < 60:
                lines = [line async for line in controller.upgrade()]
                assert lines[-1] == "n2 (2 of 2): it serves again, with pdserver 2.0 instead of 1.0"
                await silent
            else:
                with pytest.raises(Unavailable, match="n1 did not come back: it does not answer; the rest stay"):
                    [line async for line in controller.upgrade()]
                assert not silent.done()
                silent.cancel()
        assert not world.faults

    run(work())


def test_an_upgrade_ends_where_pdserver_can_not_start_and_goes_on_once_it_can() -> None:
    """What can't start is tried first then: it relieves the others."""

    async def work() -> None:
        world = World(2)
        async with running(world) as controller:
            await controller.register("fit-1-100.pdar", synchronous=True)
            broken, other = world.members["n1"], world.members["n2"]
            broken.broken = "pdserver does not start there: SyntaxError"
            world.installed = "2.0"
            with pytest.raises(Unavailable, match=f"n1 did not come back: {broken.broken}; the rest stay"):
                [line async for line in controller.upgrade()]
            await until(lambda: controller.view().nodes[0].problem == f"does not answer: {broken.broken}")
            assert [node.unable for node in controller.view().nodes] == [True, False]
            assert (other.version, world.serving(FIT)) == ("1.0", ["n2"])
            broken.broken = ""
            lines = [line async for line in controller.upgrade()]
            assert lines[0] == "n1 (1 of 2): it restarts"
            assert not controller.view().nodes[0].unable
            assert {node.version for node in world.members.values()} == {"2.0"}
            await until(lambda: len(world.serving(FIT)) == 1)
        assert not world.faults

    run(work())


def test_an_upgrade_is_refused_where_a_model_would_have_nobody() -> None:
    async def work() -> None:
        world = World(1)
        async with running(world) as controller:
            await controller.register("fit-1-100.pdar", synchronous=True)
            with pytest.raises(Unavailable, match="n1 alone serves fit/1, and no node can take another copy"):
                [line async for line in controller.upgrade()]
            assert world.serving(FIT) == ["n1"]
            assert world.members["n1"].loads == 1

    run(work())


def test_another_pdserver_gets_no_new_copies() -> None:
    async def work() -> None:
        world = World(2)
        world.members["n2"].version = "0.9"
        async with running(world) as controller:
            with pytest.raises(Unavailable, match=r"n1 has a copy; n2 runs pdserver 0.9, not 1.0"):
                await controller.register("fit-1-100.pdar", copies=2, synchronous=True)
            assert [node.problem for node in controller.view().nodes] == ["", "runs pdserver 0.9, not 1.0"]

    run(work())


def test_a_controller_of_another_version_than_all_nodes_still_replaces_what_is_lost() -> None:
    async def work() -> None:
        world = World()
        world.version = "2.0"
        world.members["n3"].version = "0.9"
        async with running(world) as controller:
            await controller.register("fit-1-100.pdar", synchronous=True)
            [serving] = world.serving(FIT)
            assert [node.problem for node in controller.view().nodes] == ["", "", "runs pdserver 0.9, not 1.0 or 2.0"]
            world.members["n3"].version = "1.0"
            world.members[serving].kill()
            await until(lambda: len(world.serving(FIT)) == 1)

    run(work())


def test_a_snapshot_of_a_later_format_is_refused_and_stays() -> None:
    async def work() -> None:
        world = World()
        async with running(world) as controller:
            await controller.register("fit-1-100.pdar", synchronous=True)
        revision, snapshot = world.disk.snapshot
        assert msgspec.json.decode(snapshot)["version"] == "1.0"
        later = revision + 1, msgspec.json.encode({"version": "2.0", "format": 2, "models": {}})
        world.disk.snapshot = world.members["n2"].disk.snapshot = later
        with pytest.raises(ConfigError, match=r"pdserver 2\.0 has written .*this is pdserver 1\.0"):
            async with running(world):
                await asyncio.sleep(30)
        assert world.disk.snapshot == later
        assert len(world.serving(FIT)) == 1

    run(work())


def test_what_a_later_version_adds_to_a_snapshot_is_dropped() -> None:
    async def work() -> None:
        world = World()
        async with running(world) as controller:
            await controller.register("fit-1-100.pdar", synchronous=True)
        revision, snapshot = world.disk.snapshot
        said = msgspec.json.decode(snapshot)
        said["later"] = said["state"]["later"] = said["state"]["wanted"][0]["later"] = "later"
        world.disk.snapshot = revision + 1, msgspec.json.encode({**said, "version": "2.0"})
        async with running(world) as controller:
            await until(lambda: [each.wanted.ref for each in controller.view().models] == [FIT])

    run(work())


def test_why_a_server_did_not_start_is_told() -> None:
    async def work() -> None:
        world = World(2)
        world.members["n2"].version, world.members["n2"].disk.full = "", True
        async with running(world) as controller:
            with pytest.raises(Unavailable, match=r"n2 says: its disk is full"):
                await controller.register("fit-1-100.pdar", copies=2, synchronous=True)

    run(work())


def test_an_entrance_that_is_gone_holds_nothing_up() -> None:
    async def work() -> None:
        world = World()
        first, second = world.entrances.values()
        async with running(world) as controller:
            await controller.register("fit-1-100.pdar", synchronous=True)
            first.fail(True)
            began = now()
            await controller.unregister("fit")
            assert now() - began < 10
            assert second.view is not None
            assert second.view.routes == ()
            first.fail(False)
            await until(lambda: first.view is not None and not first.view.routes)
            controller.answers_at("http://127.0.0.1:8081")
            await until(lambda: all(each.view and each.view.management for each in (first, second)))

    run(work())


def test_a_change_waits_for_all_entrances_that_answer() -> None:
    async def work() -> None:
        world = World()
        first, second = world.entrances.values()
        async with running(world) as controller:
            await controller.register("fit-1-100.pdar", synchronous=True)
            second.slow_seconds = 8.0
            await controller.register("two-1-100.pdar", synchronous=True)
            assert first.view == second.view, "a slow one is waited for"
            second.slow_seconds = 0.0
            second.hangs = True
            began = now()
            await controller.register("three-1-100.pdar", synchronous=True)
            assert now() - began < 10, "one that does not answer is lost"
            [lost] = [door.node for door in controller.view().entrances if door.lost]
            assert world.entrances[lost] is second

    run(work())


def test_an_entrance_that_began_anew_is_shown_all_again() -> None:
    async def work() -> None:
        world = World()
        first, second = world.entrances.values()
        async with running(world) as controller:
            await controller.register("fit-1-100.pdar", synchronous=True)
            times = second.shown
            first.begin_anew()
            await until(lambda: first.view is not None and first.view == second.view)
            assert second.shown == times, "the other one is left alone"

    run(work())


def test_machines_that_can_not_be_listed_for_a_while_go_on() -> None:
    async def work() -> None:
        world = World()
        async with running(world) as controller:
            await controller.register("fit-1-100.pdar", copies=2, synchronous=True)
            world.unlisted = True
            await asyncio.sleep(30)
            await controller.register("two-1-100.pdar", copies=3, synchronous=True)
        async with running(world) as controller:
            await asyncio.sleep(30)
            world.unlisted = False
            await until(lambda: len(ready_on(controller)) == 2)
        assert sum(node.loads for node in world.members.values()) == 5, "nothing was loaded anew"

    run(work())


def test_a_change_goes_on_when_its_caller_leaves() -> None:
    async def work() -> None:
        world = World()
        async with running(world) as controller:
            caller = asyncio.create_task(controller.register("fit-1-100.pdar", synchronous=True))
            await asyncio.sleep(1)
            caller.cancel()
            await until(lambda: bool(world.serving(FIT)))
            await controller.register("two-1-100.pdar", synchronous=True)
            assert re.fullmatch(r"fit two", " ".join(each.wanted.ref.name for each in controller.view().models))

    run(work())
