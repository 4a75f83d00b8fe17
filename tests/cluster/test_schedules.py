"""The controller among machines that break at random: whatever happens, the cluster comes to what it was told."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import AsyncIterator

import msgspec
import pytest

from pdserver.cluster.base import ClusterView
from pdserver.cluster.controller import Controller
from pdserver.cluster.needs import needs
from pdserver.cluster.placement import need_bytes
from pdserver.cluster.state import State
from pdserver.errors import PdError
from tests.cluster.fakes import MIB, World, now, running
from tests.cluster.virtual import run

_SETTLE_SECONDS = 200.0
_NAMES = ("a", "b", "c", "p")
_ASKED = ("a", "b", "a+b", "a@1")
"""By p, a pipeline."""
Expected = dict[str, tuple[str, int]]
"""name/version → its archive, and how many copies."""


class Chaos:
    """Changes one after the other, while machines break."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.world = World(self.random.choice([1, 2, 3, 4]), memory_mib=1000, seed=seed)
        self.world.load_seconds = self.random.choice([0.5, 3.0])
        self.world.models.broken = {"a-2-50.pdar"}
        self.may_be: list[Expected] = [{}]
        """What may be wanted now: more than one thing while it isn't known whether a change was made."""
        self.controller: Controller | None = None
        self.log: list[str] = []

    def say(self, words: str) -> None:
        self.log.append(f"{now():6.1f} {words}")

    # Changes

    async def change(self) -> None:
        controller = self.controller
        verb = self.random.choice(
            ["register"] * 4 + ["scale", "unregister", "unregister", "default", "replace", "upgrade"]
        )
        if controller is None:
            return
        before = list(self.may_be)
        self.say(verb)
        with contextlib.suppress(PdError):
            await getattr(self, verb)(controller, before)

    def target(self) -> tuple[str, str]:
        return self.random.choice(_NAMES), self.random.choice("12")

    def maybe(self, before: list[Expected], key: str, value: tuple[str, int] | None) -> list[Expected]:
        """What is wanted once a change of one version is made."""
        return [{**{k: v for k, v in each.items() if k != key}, **({key: value} if value else {})} for each in before]

    async def register(self, controller: Controller, before: list[Expected], *, replace: bool = False) -> None:
        name, version = self.target()
        mib, copies = self.random.choice([50, 300, 600]), self.random.randint(1, 3)
        asked = f"-{self.random.choice(_ASKED)}" if name == "p" else ""
        url = f"{name}-{version}-{mib}{asked}.pdar"
        after = self.maybe(before, f"{name}/{version}", (url, copies))
        self.may_be = before + after
        synchronous = self.random.random() < 0.7 or replace
        try:
            await controller.register(url, copies=copies, synchronous=synchronous, replace=replace)
        except PdError as error:
            self.say(f"  {url} x{copies}: {error}")
            if self.controller is controller:
                self.may_be = before
            raise
        self.say(f"  {url} x{copies} is registered")
        self.may_be = after

    async def replace(self, controller: Controller, before: list[Expected]) -> None:
        await self.register(controller, before, replace=True)

    async def scale(self, controller: Controller, before: list[Expected]) -> None:
        name, version = self.target()
        key, copies = f"{name}/{version}", self.random.randint(1, 3)
        after = [{k: (v[0], copies) if k == key else v for k, v in each.items()} for each in before]
        self.may_be = before + after
        try:
            await controller.scale(name, version, copies=copies, synchronous=self.random.random() < 0.5)
        except PdError as error:
            self.say(f"  {key} x{copies}: {error}")
            if self.controller is controller:
                self.may_be = before
            raise
        self.say(f"  {key} x{copies}")
        self.may_be = after

    async def unregister(self, controller: Controller, before: list[Expected]) -> None:
        name, version = self.target()
        self.may_be = before + self.maybe(before, f"{name}/{version}", None)
        try:
            await controller.unregister(name, version)
        except PdError as error:
            self.say(f"  {name}/{version}: {error}")
            if self.controller is controller:
                self.may_be = before
            raise
        self.say(f"  {name}/{version} is gone")
        self.may_be = self.maybe(before, f"{name}/{version}", None)

    async def default(self, controller: Controller, before: list[Expected]) -> None:
        await controller.set_default(*self.target())

    async def upgrade(self, controller: Controller, before: list[Expected]) -> None:
        async for line in controller.upgrade():
            self.say(f"  {line}")

    # Faults

    async def break_machines(self) -> None:
        while True:
            await asyncio.sleep(self.random.expovariate(1 / 6))
            node = self.random.choice(list(self.world.members.values()))
            often = ["back", "empty", "quick"] * 2
            fault = self.random.choice(["kill", "cut off", "full", "crash", "slow", "entrance", *often])
            self.say(f"{fault} {node.name}")
            if fault == "kill":
                node.kill()
            elif fault == "cut off":
                node.cut_off()
            elif fault == "back":
                node.bring_back()
            elif fault in ("full", "empty"):
                node.disk.full = fault == "full"
            elif fault in ("slow", "quick"):
                node.slow_down(fault == "slow")
            elif fault == "entrance":
                entrance = self.random.choice(list(self.world.entrances.values()))
                entrance.fail(not entrance.fails)
                if self.random.random() < 0.3:
                    entrance.begin_anew()
            elif fault == "crash":  # of the node's server alone
                node.crash()

    async def mend(self) -> None:
        self.say("mended")
        for node in self.world.members.values():
            node.bring_back()
            node.disk.full = False
            node.slow_down(False)
        for entrance in self.world.entrances.values():
            if entrance.fails:
                entrance.fail(False)

    async def live(self) -> None:
        """Some controllers, one after the other."""
        breaking = asyncio.create_task(self.break_machines())
        for _ in range(self.random.choice([1, 2, 3])):
            async with self._controlled():
                end = now() + self.random.uniform(20, 120)
                while now() < end:
                    with contextlib.suppress(asyncio.TimeoutError):
                        await asyncio.wait_for(self.change(), max(0.0, end - now()))
                    await asyncio.sleep(self.random.expovariate(1 / 2))
            self.say("the controller is killed")
            self.may_be = [each for n, each in enumerate(self.may_be) if each not in self.may_be[:n]]
        breaking.cancel()
        await self.mend()
        async with self._controlled():
            await self.settle()

    @contextlib.asynccontextmanager
    async def _controlled(self) -> AsyncIterator[None]:
        async with running(self.world) as controller:
            self.controller = controller
            yield
            self.controller = None

    # What has to be true in the end

    async def settle(self) -> None:
        assert self.controller is not None
        end = now() + _SETTLE_SECONDS
        while problems := self.wrong(self.controller.view()):
            assert now() < end, "\n".join([*self.log, *problems])
            await asyncio.sleep(1)
        assert not self.world.faults, "\n".join([*self.log, *self.world.faults])

    def wrong(self, view: ClusterView) -> list[str]:
        problems = []
        wanted = {str(m.wanted.ref): (m.wanted.archive.file, m.wanted.copies) for m in view.models}
        if wanted not in self.may_be:
            problems.append(f"wanted is {wanted}, expected {self.may_be}")
        for model in view.models:
            problems += self.wrong_with(view, str(model.wanted.ref))
        there = {(name, str(ref)) for name, node in self.world.members.items() for ref in node.copies}
        told = {(copy.node, str(model.wanted.ref)) for model in view.models for copy in model.copies}
        if there != told:
            problems.append(f"there are {there ^ told} too many or too few")
        for name in {model.wanted.ref.name for model in view.models}:
            defaults = [model for model in view.models if model.wanted.ref.name == name and model.wanted.default]
            if len(defaults) != 1:
                problems.append(f"{name} has {len(defaults)} defaults")
        for routes in self.world.shown():
            if routes != view.routes:
                problems.append(f"not everybody knows the routes: {routes}")
        snapshots = {self.world.disk.snapshot, *(node.disk.snapshot for node in self.world.members.values())}
        states = {msgspec.json.encode(msgspec.json.decode(each[1] or b"{}", type=State)) for each in snapshots}
        if len(states) != 1:
            problems.append("the snapshots differ")
        return problems

    def wrong_with(self, view: ClusterView, ref: str) -> list[str]:
        [model] = [model for model in view.models if str(model.wanted.ref) == ref]
        wanted = model.wanted
        asked = needs(State(tuple(each.wanted for each in view.models))).get(wanted.ref, ())
        broken = any(
            each.wanted.archive.file in self.world.models.broken
            for each in view.models
            if each.wanted.ref in (wanted.ref, *asked)
        )
        placed = [copy for copy in model.copies if not copy.leaving]
        problems = []
        if not broken:  # else what served before stands in
            problems += [f"{ref}: an extra copy on {copy.node}" for copy in model.copies if copy.leaving]
            problems += [f"{ref}: not ready on {copy.node}" for copy in placed if not copy.ready]
        for name in (copy.node for copy in placed):
            has = self.world.members[name].copies.get(wanted.ref)
            if has is None or has.placed.archive != wanted.archive:
                problems.append(f"{ref}: {name} serves another archive")
            if not set(asked) <= set(self.world.members[name].copies):
                problems.append(f"{ref}: {name} lacks what it asks")
        keepers = sum(wanted.archive.sha256 in node.archives for node in self.world.members.values())
        if keepers < min(2, len(self.world.members)):
            problems.append(f"{ref}: {keepers} nodes keep its archive")
        if len(placed) < wanted.copies and not broken:
            if not model.problem:
                problems.append(f"{ref}: {len(placed)} of {wanted.copies} copies, and no reason")
            for node in view.nodes:
                free = node.status.free_bytes if node.status else 0
                there = self.world.members[node.node].copies
                lacked = [ref for ref in asked if ref not in there]
                more = [each.wanted for each in view.models if each.wanted.ref in lacked]
                room = free - MIB >= sum(map(need_bytes, [wanted, *more])) and not node.problem
                if room and node.node not in [copy.node for copy in placed]:
                    problems.append(f"{ref}: {node.node} has room for it")
        return problems


def live(seeds: range) -> None:
    for seed in seeds:
        run(Chaos(seed).live())


@pytest.mark.parametrize("first", [0, 8, 16])
def test_whatever_happens_the_cluster_comes_to_what_it_was_told(first: int) -> None:
    live(range(first, first + 8))


@pytest.mark.soak
@pytest.mark.parametrize("first", range(24, 424, 40))
def test_whatever_else_happens(first: int) -> None:
    live(range(first, first + 40))
