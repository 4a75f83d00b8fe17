"""Archives spread from node to node: who has one gives it on, to a few at a time."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Sequence

import pytest

from pdserver.cluster.base import Archive, Holder
from pdserver.cluster.controller import Controller
from pdserver.cluster.sources import MOST, Sources
from pdserver.errors import ModelNotFound, Unavailable
from pdserver.types import ModelRef
from tests.cluster.fakes import FakeNode, World, now, running
from tests.cluster.virtual import run, until

FIT = ModelRef("fit", "1")
ARCHIVE = "fit-1-10.pdar"
STORE = "the store"
GIVING_SECONDS = 4.0


class Giving:
    """Has each holder of a world take its time to give an archive, and counts to how many it gives."""

    def __init__(self, world: World) -> None:
        self.now: Counter[str] = Counter()
        self.most = 0
        self.given: Counter[str] = Counter()
        self.stuck: set[str] = set()
        """Holders that do not answer."""
        self._wrap(world.models, STORE)
        for node in world.members.values():
            self._wrap(node, node.name)

    def _wrap(self, holder: Holder, name: str) -> None:
        plain = holder.piece

        async def piece(sha256: str, offset: int) -> bytes:
            self.now[name] += 1
            self.most = max(self.most, self.now[name])
            try:
                await asyncio.sleep(1e6 if name in self.stuck else GIVING_SECONDS)
                answer = await plain(sha256, offset)
            finally:
                self.now[name] -= 1
            self.given[name] += 1
            return answer

        holder.piece = piece  # type: ignore[method-assign]


async def registered(controller: Controller, copies: int) -> None:
    await controller.register(ARCHIVE, copies=copies, synchronous=True)


def test_who_has_it_gives_it_on_to_a_few_at_a_time() -> None:
    nodes = 13

    async def work() -> None:
        world = World(nodes)
        world.load_seconds = 0.1
        giving = Giving(world)
        async with running(world) as controller:
            await registered(controller, nodes)
            assert (giving.most, sum(giving.given.values())) == (MOST, nodes)
            assert len(giving.given) > nodes / 4, "many give"
            assert giving.given[STORE] < nodes / 2
            rounds = now() / GIVING_SECONDS
            assert rounds < 5, f"after three rounds, 26 could have it: {rounds}"
        assert not world.faults

    run(work())


@pytest.mark.parametrize("lost", ["killed", "cut off"])
def test_another_one_gives_it_when_a_holder_is_lost_midway(lost: str) -> None:
    async def work() -> None:
        world = World(6)
        giving = Giving(world)
        async with running(world) as controller:
            await registered(controller, 2)
            first = world.serving(FIT)[0]
            scaling = asyncio.create_task(controller.scale("fit", copies=4, synchronous=True))
            await until(lambda: giving.now[first] > 0)
            giving.stuck.add(first)  # what it has begun does not end
            world.members[first].kill() if lost == "killed" else world.members[first].cut_off()
            await scaling
            assert first not in world.serving(FIT)
            assert len(world.serving(FIT)) == 4

    run(work())


def test_a_node_that_hangs_keeps_no_holder_from_the_others() -> None:
    async def work() -> None:
        world = World(5)
        Giving(world)

        async def hang(archive: Archive, holder: Holder) -> None:
            await asyncio.sleep(1e6)

        hanging = [world.members["n1"], world.members["n2"]]
        assert len(hanging) == MOST, "as many as the store gives to"
        for node in hanging:
            node.fetch = hang  # type: ignore[method-assign]
        async with running(world) as controller:
            registering = asyncio.create_task(controller.register(ARCHIVE, copies=5, synchronous=True))
            await asyncio.sleep(1)
            for node in hanging:
                node.cut_off()
            with pytest.raises(Unavailable):  # two nodes are missing
                await registering
            await controller.register(ARCHIVE, copies=3, synchronous=True)
            assert world.serving(FIT) == ["n3", "n4", "n5"]

    run(work())


def test_a_transfer_without_an_end_is_given_up() -> None:
    async def work() -> None:
        world = World(1)
        node = world.members["n1"]
        calls = 0

        async def hang_once(archive: Archive, holder: Holder) -> None:
            nonlocal calls
            calls += 1
            if calls == 1:
                await asyncio.sleep(1e6)
            await FakeNode.fetch(node, archive, holder)

        node.fetch = hang_once  # type: ignore[method-assign]
        async with running(world) as controller:
            with pytest.raises(Unavailable, match=f"{ARCHIVE} has not come within 60 s"):
                await registered(controller, 1)
            await registered(controller, 1)
            assert world.serving(FIT) == ["n1"]

    run(work())


def test_a_turn_goes_to_the_holder_that_gives_to_the_fewest() -> None:
    async def work() -> None:
        sources = Sources()
        there = ["a", "b"]
        seen: list[str | None] = []
        go = asyncio.Event()

        async def take(holders: Callable[[], Sequence[str]]) -> None:
            async with sources.turn(holders) as holder:
                seen.append(holder)
                await go.wait()

        tasks = [asyncio.create_task(take(lambda: there)) for _ in range(5)]
        await asyncio.sleep(1)
        assert seen == ["a", "b", "a", "b"], "the fifth waits"
        there.clear()
        go.set()
        await asyncio.gather(*tasks)
        assert seen[4] is None, "nobody is left who could give it"
        there.append("a")
        async with sources.turn(lambda: there) as holder:
            assert holder == "a"

    run(work())


def test_a_turn_that_fails_or_is_given_up_is_free_again() -> None:
    async def work() -> None:
        sources = Sources()
        for _ in range(MOST + 1):
            with pytest.raises(ModelNotFound):
                async with sources.turn(lambda: ["a"]):
                    raise ModelNotFound("it is gone")
        async with sources.turn(lambda: ["a"]), sources.turn(lambda: ["a"]):

            async def wait() -> None:
                async with sources.turn(lambda: ["a"]):
                    pass

            waiting = asyncio.create_task(wait())
            await asyncio.sleep(1)
            waiting.cancel()
            await asyncio.wait([waiting])
        async with sources.turn(lambda: ["a"]) as holder:
            assert holder == "a"

    run(work())
