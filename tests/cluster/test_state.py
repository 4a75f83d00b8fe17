"""Snapshots of what the cluster is to serve."""

from __future__ import annotations

import asyncio
from pathlib import Path

import msgspec
import pytest

from pdserver.cluster.base import Archive, Wanted
from pdserver.cluster.state import DAMAGED, Extra, SnapshotFile, State
from pdserver.errors import ConfigError, Forbidden, Unavailable
from pdserver.types import ModelRef
from tests.cluster.fakes import World, new_controller, running
from tests.cluster.virtual import run

ONE, TWO = ModelRef("fit", "1"), ModelRef("fit", "2")


def wish(ref: ModelRef, file: str = "fit.pdar") -> Wanted:
    return Wanted(ref=ref, url=file, archive=Archive(file * 8, file, 10), settings={"batch_size": "4"})


def test_a_snapshot_says_all() -> None:
    state = State().with_new(wish(ONE)).with_new(wish(TWO)).placed_as({"n1": (ONE, TWO), "n2": (ONE,)})
    state = state.with_extra(Extra("n3", wish(ONE))).with_content("n2", wish(ONE, "other.pdar"))
    assert msgspec.json.decode(msgspec.json.encode(state), type=State) == state


def test_one_version_is_the_default() -> None:
    state = State().with_new(wish(ONE)).with_new(wish(TWO))
    assert [one.default for one in state.wanted] == [True, False]
    state = state.with_default(TWO).with_changed(wish(TWO))
    assert [one.default for one in state.wanted] == [False, True]
    with pytest.raises(Forbidden):
        state.check_may_go(state.resolve("fit", None))
    state.check_may_go(state.resolve("fit", "1"))


def test_copies_that_lose_their_place_are_extra_ones() -> None:
    state = State().with_new(wish(ONE)).placed_as({"n1": (ONE,), "n2": (ONE,)})
    moved = state.placed_as({"n2": (ONE,)})
    assert [extra.node for extra in moved.extras] == ["n1"]
    assert moved.placed_as({"n1": (ONE,), "n2": (ONE,)}) == state
    gone = moved.without(ONE)
    assert (gone.wanted, gone.placed) == ((), {})
    assert sorted(extra.node for extra in gone.extras) == ["n1", "n2"]


def test_what_is_not_made_yet_is_in_no_snapshot() -> None:
    state = State().with_new(wish(ONE)).placed_as({"n1": (ONE,)})
    more = state.with_new(wish(TWO)).placed_as({"n1": (ONE, TWO), "n2": (TWO,)})
    assert more.as_before({TWO: None}) == state
    wider = state.with_changed(msgspec.structs.replace(wish(ONE), copies=2))
    assert wider.as_before({ONE: wish(ONE)}) == state


def test_a_snapshot_file_has_the_newest(tmp_path: Path) -> None:
    async def work() -> None:
        disk = SnapshotFile(tmp_path / "cluster")
        assert await disk.kept() == (0, b"")
        await disk.keep(2, b"two\nlines")
        await disk.keep(1, b"one")
        assert await SnapshotFile(tmp_path / "cluster").kept() == (2, b"two\nlines")

    asyncio.run(work())


def test_a_damaged_snapshot_is_not_taken_for_a_good_one_nor_for_none(tmp_path: Path) -> None:
    async def work() -> None:
        disk, file = SnapshotFile(tmp_path), tmp_path / "snapshot"
        await disk.keep(12, b'{"wanted": []}')
        good = file.read_bytes()
        flipped = [good[:at] + bytes([good[at] ^ 1]) + good[at + 1 :] for at in range(len(good))]
        for damaged in (*flipped, *(good[:end] for end in range(len(good))), b"nonsense"):
            file.write_bytes(damaged)
            assert await disk.kept() == (0, DAMAGED), damaged
        await disk.keep(3, b"{}")
        assert await disk.kept() == (3, b"{}")

    asyncio.run(work())


def test_a_snapshot_that_can_not_be_written_leaves_the_one_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def work() -> None:
        disk = SnapshotFile(tmp_path)
        await disk.keep(1, b"one")

        def full(*_: object) -> int:
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(Path, "write_bytes", full)
        with pytest.raises(Unavailable, match="the snapshot can't be written: No space left on device"):
            await disk.keep(2, b"two")
        assert await disk.kept() == (1, b"one")

    asyncio.run(work())
    assert [path.name for path in tmp_path.iterdir()] == ["snapshot"]


def test_a_controller_takes_the_newest_that_can_be_read_and_does_not_begin_with_none() -> None:
    async def work() -> None:
        world = World()
        async with running(world) as controller:
            await controller.register("fit-1-100.pdar", copies=2, synchronous=True)
        revision = world.disk.snapshot[0]
        kept, world.disk.snapshot = world.disk.snapshot, (0, DAMAGED)
        async with running(world):
            await asyncio.sleep(10)
            assert world.disk.snapshot == kept
        world.disk.snapshot = (revision + 1, b"not JSON")
        world.members["n1"].disk.snapshot = (revision + 2, b"not JSON")
        async with running(world) as controller:
            await asyncio.sleep(10)
            assert len(controller.view().models) == 1
            await controller.scale("fit", copies=3, synchronous=True)
            revision = world.disk.snapshot[0]
        for keeper in (world.disk, *(node.disk for node in world.members.values())):
            keeper.snapshot = (revision + 2, DAMAGED)
        with pytest.raises(
            ConfigError, match=r"none of the 4 snapshots of the cluster can be read.*--no-config-snapshots"
        ):
            await new_controller(world)[0].run()
        assert len(world.serving(ONE)) == 3, "nothing that is served is touched"

    run(work())
