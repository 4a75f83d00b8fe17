"""A cluster in memory, which can be broken in all ways, and says when something was done wrong.

`FakeNode` has to pass the tests of `node_contract.py`, as the real one does.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import random
from collections.abc import AsyncIterator, Coroutine, Mapping, Sequence
from typing import Any, TypeVar

from pdserver.cluster.base import (
    PIECE_BYTES,
    Archive,
    CopyStatus,
    EntranceStatus,
    EntranceView,
    Holder,
    Need,
    Node,
    NodeLost,
    NodeStatus,
    Placed,
    Target,
)
from pdserver.cluster.controller import Controller
from pdserver.cluster.fleet import Entrances
from pdserver.cluster.models import Opened
from pdserver.errors import ModelNotFound, Unavailable
from pdserver.peers.base import Addresses, Peers, Route
from pdserver.types import ModelRef

MIB = 2**20
_T = TypeVar("_T")
GRACE_SECONDS = 1.0
"""For so long nobody sends requests to a copy before it is ended."""


def now() -> float:
    return asyncio.get_running_loop().time()


class World:
    """All that there is, and what was done wrong."""

    def __init__(self, nodes: int = 3, *, memory_mib: int = 1000, seed: int = 0) -> None:
        self.random = random.Random(seed)
        self.faults: list[str] = []
        self.models = FakeModels(self)
        self.members = {f"n{number}": FakeNode(self, f"n{number}", memory_mib) for number in range(1, nodes + 1)}
        self.entrances = {name: FakeEntrance(self) for name in list(self.members)[:2]}
        self.disk = FakeDisk()
        self.version = "1.0"
        self.installed = "1.0"
        """What nodes run after their next restart."""
        self.load_seconds = 2.0
        self.unlisted = False
        """Whether nobody can tell which machines there are."""
        self.dropped: dict[tuple[str, ModelRef], float] = {}
        """When the last one stopped to send requests to a copy."""

    def shown(self) -> list[tuple[Route, ...]]:
        """By what all who can be reached, and could be for a while, send requests."""
        nodes = [node.peers.routes for node in self.members.values() if node.peers and node.was_up(5)]
        there = [each.view for each in self.entrances.values() if now() - each.away_until > 5]
        return [*nodes, *(view.routes for view in there if view)]

    def note_routes(self, before: Sequence[Route], after: Sequence[Route]) -> None:
        there = {(node, route.ref) for route in after for node in route.nodes}
        for route in before:
            for node in route.nodes:
                if (node, route.ref) not in there:
                    self.dropped[node, route.ref] = now()

    def note_end(self, node: FakeNode, ref: ModelRef) -> None:
        """A node ends a copy because it was told to."""
        if not node.was_up(10):
            return  # it does what it has missed
        users = [user for user, copy in node.copies.items() if copy.ready and ref in copy.placed.needs]
        for user in users:
            self._note_end(node, user, f"{ref}, which {user} asks,")
        self._note_end(node, ref, str(ref))

    def _note_end(self, node: FakeNode, ref: ModelRef, what: str) -> None:
        others = [
            other for other in self.members.values() if other is not node and other.was_up(5) and other.serves(ref)
        ]
        asked = any(route.ref == ref and node.name in route.nodes for routes in self.shown() for route in routes)
        if asked and others:
            self.faults.append(f"{now():.1f}: {node.name} ends {what}, and is still asked for it")
        if others and now() - self.dropped.get((node.name, ref), -100) < GRACE_SECONDS:
            self.faults.append(f"{now():.1f}: {node.name} ends {what}, and requests may be on their way")

    def ask(self, name: str, version: str | None = None) -> str:
        """The outcome of a request to any node that is up, or to an entrance: "" or what went wrong."""
        doors = [node.peers.routes for node in self.members.values() if node.up and node.peers]
        doors += [entrance.view.routes for entrance in self.entrances.values() if entrance.view]
        for routes in doors:
            for route in routes:
                if route.ref.name == name and (route.ref.version == version if version else route.default):
                    for node in route.nodes:
                        member = self.members[node]
                        if not member.serves(route.ref) and now() - member.away_until > 6:
                            return f"{now():.1f}: {node} is asked for {route.ref}, and does not serve it"
        return ""

    def serving(self, ref: ModelRef) -> list[str]:
        return [name for name, node in self.members.items() if node.serves(ref)]


class FakeModels:
    """Archives whose name says it all: `name-version-MiB.pdar`, or `name-version-MiB-model+model.pdar` for a pipeline
    that asks these models; `model@version` is one of a version."""

    def __init__(self, world: World) -> None:
        self._world = world
        self.broken: set[str] = set()
        """Archives that no node can load."""
        self.broken_on: set[tuple[str, str]] = set()
        """Likewise, on one node."""
        self.kept: dict[str, str] = {}

    async def open(
        self, url: str, *, name: str | None, handler: str | None, sha256: str | None, settings: Mapping[str, str]
    ) -> Opened:
        await asyncio.sleep(0.01)
        if url.count("-") < 2:
            raise ModelNotFound(f"{url}: not in the model store")
        own, version = url.split("-")[:2]
        digest = hashlib.sha256(url.encode()).hexdigest()
        self.kept[digest] = url
        asked = [each.split("@") for each in url.removesuffix(".pdar").split("-")[3:] for each in each.split("+")]
        needs = tuple(Need(*each) for each in asked)
        return Opened(ModelRef(name or own, version), Archive(digest, url, len(url)), 0, needs)

    async def piece(self, sha256: str, offset: int) -> bytes:
        if sha256 not in self.kept:
            raise ModelNotFound(f"no archive has the sha256 {sha256}")
        return self.kept[sha256].encode()[offset : offset + PIECE_BYTES]

    async def forget_others(self, digests: frozenset[str]) -> None:
        self.kept = {digest: url for digest, url in self.kept.items() if digest in digests}

    def mib(self, archive: Archive) -> int:
        return int(archive.file.removesuffix(".pdar").split("-")[2])

    def why_broken(self, node: str, archive: Archive) -> str:
        bad = archive.file in self.broken or (node, archive.file) in self.broken_on
        return f"{archive.file} can't be loaded" if bad else ""


class FakeDisk:
    def __init__(self) -> None:
        self.full = False
        self.snapshot = (0, b"")

    async def keep(self, revision: int, snapshot: bytes) -> None:
        await asyncio.sleep(0.005)
        if self.full:
            raise Unavailable("the disk is full")
        if revision >= self.snapshot[0]:
            self.snapshot = (revision, snapshot)

    async def kept(self) -> tuple[int, bytes]:
        return self.snapshot


class FakeEntrance:
    def __init__(self, world: World) -> None:
        self._world = world
        self.view: EntranceView | None = None
        self.fails = False
        self.hangs = False
        """Whether it answers nothing, as when its machine can't be reached."""
        self.slow_seconds = 0.0
        """To take over what it is shown."""
        self.lives = 1
        self.shown = 0
        """How often."""
        self.away_until = -100.0

    def fail(self, fails: bool) -> None:
        self.fails, self.away_until = fails, 1e9 if fails else now()

    def begin_anew(self) -> None:
        self.view = None
        self.lives += 1

    async def _answers(self) -> None:
        await asyncio.sleep(1e9 if self.hangs else 0.05)
        if self.fails:
            raise NodeLost("the entrance is gone")

    async def status(self) -> EntranceStatus:
        await self._answers()
        return EntranceStatus(host="10.0.0.1", life=str(self.lives))

    async def show(self, view: EntranceView) -> None:
        await self._answers()
        await asyncio.sleep(self.slow_seconds)
        self.shown += 1
        if now() - self.away_until > 5:
            self._world.note_routes(self.view.routes if self.view else (), view.routes)
        self.view = view


class Loaded:
    """A copy in a fake server."""

    def __init__(self, placed: Placed) -> None:
        self.placed = placed
        self.ready = False
        self.problem = ""
        self.work: asyncio.Task[None] | None = None


class FakeNode:
    """`up` False: nobody reaches it. What it serves goes on meanwhile."""

    def __init__(self, world: World, name: str, memory_mib: int) -> None:
        self.world = world
        self.name = name
        self.memory_mib = memory_mib
        self.up = True
        self.is_listed = True
        self.away_until = -100.0
        """When it could not be reached for the last time, or was begun anew."""
        self.delay_seconds = 0.02
        self.version = "1.0"
        self.disk = FakeDisk()
        self.archives: dict[str, Archive] = {}
        self.target: Target | None = None
        self.revision = 0
        self.peers: Peers | None = None
        self.copies: dict[ModelRef, Loaded] = {}
        self.loads = 0
        self.restarts = True
        """Whether `restart` works."""
        self.broken = ""
        """Why the pdserver that is installed can't start."""
        self.has_begun = True

    def serves(self, ref: ModelRef) -> bool:
        return self.up and ref in self.copies and self.copies[ref].ready

    def was_up(self, seconds: float) -> bool:
        return self.up and now() - self.away_until > seconds

    def kill(self) -> None:
        """The machine dies, with all that is in memory."""
        self.up, self.away_until = False, 1e9
        self._begin_anew()

    def cut_off(self) -> None:
        self.up, self.away_until = False, 1e9

    def slow_down(self, slow: bool) -> None:
        """It is lost now and then, and what it knows may be old."""
        if slow != (self.delay_seconds > 1):
            self.delay_seconds = 2.0 if slow else 0.02
            self.away_until = 1e9 if slow or not self.up else now()

    def crash(self) -> None:
        """The server dies, and its successor is told what it was told last."""
        target = self.target
        peers = self.peers
        self._begin_anew()
        self.peers = peers
        if target is not None:
            self.target, self.revision = target, target.revision
            self._serve(target)

    def bring_back(self) -> None:
        if not self.up:
            self.up = True
            self.away_until = 1e9 if self.delay_seconds > 1 else now()

    def _begin_anew(self) -> None:
        for copy in self.copies.values():
            if copy.work:
                copy.work.cancel()
        self.copies, self.target, self.revision, self.peers = {}, None, 0, None

    async def _reached(self) -> None:
        for _ in range(2):
            if not self.up:
                raise NodeLost(f"{self.name} is gone")
            if not self.has_begun:
                raise Unavailable(self.broken)
            await asyncio.sleep(self.delay_seconds * self.world.random.uniform(0.2, 1))

    async def status(self) -> NodeStatus:
        await self._reached()
        return self._status()

    def _status(self) -> NodeStatus:
        used = sum(self._bytes(copy) for copy in self.copies.values())
        return NodeStatus(
            node=self.name, host=self.name, addresses=Addresses(f"http://{self.name}", "", "", ""),
            version=self.version, revision=self.revision, memory_bytes=self.memory_mib * MIB,
            free_bytes=self.memory_mib * MIB - used, archives=tuple(sorted(self.archives)),
            problem="its disk is full" if self.disk.full else "",
            copies=tuple(
                CopyStatus(ref, copy.ready, copy.problem, self._bytes(copy), sha256=copy.placed.archive.sha256)
                for ref, copy in sorted(self.copies.items(), key=str)
            ),
        )  # fmt: skip

    def _bytes(self, copy: Loaded) -> int:
        workers = 1 if copy.placed.workers is None else copy.placed.workers
        return self.world.models.mib(copy.placed.archive) * MIB * workers if copy.ready else 0

    async def fetch(self, archive: Archive, holder: Holder) -> None:
        await self._reached()
        if archive.sha256 not in self.archives:
            content = await holder.piece(archive.sha256, 0)
            await self._reached()
            if self.disk.full:
                raise Unavailable(f"{archive.file}: can't be written: No space left on device")
            assert hashlib.sha256(content).hexdigest() == archive.sha256
            self.archives[archive.sha256] = archive

    async def piece(self, sha256: str, offset: int) -> bytes:
        await self._reached()
        if sha256 not in self.archives:
            raise ModelNotFound(f"no archive has the sha256 {sha256}")
        return self.archives[sha256].file.encode()[offset:]

    async def apply(self, target: Target) -> NodeStatus:
        await self._reached()
        if self.target is None or target.revision >= self.target.revision:
            if self.was_up(5):
                self.world.note_routes(self.peers.routes if self.peers else (), target.peers.routes)
            self.target, self.peers = target, target.peers
            self._serve(target)
            self.revision = target.revision
            kept = target.archives | {placed.archive.sha256 for placed in target.copies}
            self.archives = {digest: archive for digest, archive in self.archives.items() if digest in kept}
        return self._status()

    def _serve(self, target: Target) -> None:
        wanted = {placed.ref: placed for placed in target.copies}
        gone = [ref for ref in self.copies if ref not in wanted]
        gone.sort(key=lambda ref: -len(self.copies[ref].placed.needs))
        for ref in gone:
            self._end(ref)
        for ref, placed in wanted.items():
            copy = self.copies.get(ref)
            if copy is not None and _same(copy.placed, placed) and not copy.problem:
                loaded = copy.ready or (copy.placed.workers == 0 and copy.work is not None and copy.work.done())
                copy.placed = placed
                copy.ready = loaded and placed.workers != 0
                continue
            if copy is not None and not copy.problem:
                self._end(ref)
            self.copies[ref] = copy = Loaded(placed)
            copy.work = asyncio.get_running_loop().create_task(self._load(copy))

    def _end(self, ref: ModelRef) -> None:
        copy = self.copies.pop(ref)
        if copy.work:
            copy.work.cancel()
        if copy.ready:
            self.world.note_end(self, ref)

    async def _load(self, copy: Loaded) -> None:
        archive = copy.placed.archive
        self.loads += 1
        await asyncio.sleep(self.world.load_seconds * self.world.random.uniform(0.5, 1))
        while any(ref in self.copies and not self.copies[ref].problem for ref in self._lacked(copy)):  # noqa: ASYNC110
            await asyncio.sleep(0.1)
        if lacked := self._lacked(copy):
            copy.problem = f"it asks {lacked[0]}, which is not served here"
        elif archive.sha256 not in self.archives:
            copy.problem = f"the node lacks the archive {archive.file}"
        elif problem := self.world.models.why_broken(self.name, archive):
            copy.problem = problem
        else:
            copy.ready = copy.placed.workers != 0

    def _lacked(self, copy: Loaded) -> list[ModelRef]:
        """What it asks, and the node does not serve."""
        return [ref for ref in copy.placed.needs if not (ref in self.copies and self.copies[ref].ready)]

    async def keep(self, revision: int, snapshot: bytes) -> None:
        await self._reached()
        await self.disk.keep(revision, snapshot)

    async def kept(self) -> tuple[int, bytes]:
        await self._reached()
        return await self.disk.kept()

    async def restart(self) -> None:
        if self.has_begun:
            await self._reached()
        asked = [ref for ref in self.copies if self.serves(ref)]
        for ref in asked:
            self.world.note_end(self, ref)
        self._begin_anew()
        self.away_until = 1e9
        await asyncio.sleep(3)
        if not self.restarts:
            self.up = False
            raise NodeLost(f"{self.name} is gone")
        self.has_begun = not self.broken
        if self.broken:
            raise Unavailable(self.broken)
        self.version = self.world.installed
        self.away_until = 1e9 if self.delay_seconds > 1 else now()
        self.peers = None


def _same(one: Placed, other: Placed) -> bool:
    return (one.archive, one.handler) == (other.archive, other.handler)


class Life:
    """That of a controller. After its end, nothing that it had begun to ask for is answered, as after a SIGKILL."""

    def __init__(self) -> None:
        self.over = False

    async def ask(self, work: Coroutine[Any, Any, _T]) -> _T:
        if self.over:
            work.close()
            await asyncio.sleep(1e9)
        task = asyncio.get_running_loop().create_task(work)
        await asyncio.wait([task])
        if self.over:
            await asyncio.sleep(1e9)
        return task.result()


class Reached:
    """A node as one controller reaches it."""

    def __init__(self, node: FakeNode, life: Life) -> None:
        self.node = node
        self._life = life

    async def status(self) -> NodeStatus:
        return await self._life.ask(self.node.status())

    async def fetch(self, archive: Archive, holder: Holder) -> None:
        await self._life.ask(self.node.fetch(archive, holder))

    async def piece(self, sha256: str, offset: int) -> bytes:
        return await self.node.piece(sha256, offset)  # asked by nodes

    async def apply(self, target: Target) -> NodeStatus:
        return await self._life.ask(self.node.apply(target))

    async def keep(self, revision: int, snapshot: bytes) -> None:
        await self._life.ask(self.node.keep(revision, snapshot))

    async def kept(self) -> tuple[int, bytes]:
        return await self._life.ask(self.node.kept())

    async def restart(self) -> None:
        await self._life.ask(self.node.restart())


class Shown:
    """An entrance as one controller reaches it."""

    def __init__(self, entrance: FakeEntrance, life: Life) -> None:
        self._entrance = entrance
        self._life = life

    async def status(self) -> EntranceStatus:
        return await self._life.ask(self._entrance.status())

    async def show(self, view: EntranceView) -> None:
        await self._life.ask(self._entrance.show(view))


class View:
    """`Machines` and the disk of one controller."""

    def __init__(self, world: World) -> None:
        self.life = Life()
        self._world = world
        self._nodes: dict[str, Reached] = {}
        self._entrances = {name: Shown(each, self.life) for name, each in world.entrances.items()}

    async def nodes(self) -> Mapping[str, Node]:
        if self._world.unlisted:
            raise RuntimeError("nobody has foreseen this")
        there = {name: node for name, node in self._world.members.items() if node.is_listed}
        return {name: self._nodes.setdefault(name, Reached(node, self.life)) for name, node in there.items()}

    async def entrances(self) -> Entrances:
        return Entrances(dict(self._entrances))

    async def keep(self, revision: int, snapshot: bytes) -> None:
        await self.life.ask(self._world.disk.keep(revision, snapshot))

    async def kept(self) -> tuple[int, bytes]:
        return await self._world.disk.kept()


def new_controller(world: World) -> tuple[Controller, Life]:
    view = View(world)
    return Controller(view, world.models, view, version=world.version), view.life


@contextlib.asynccontextmanager
async def running(world: World) -> AsyncIterator[Controller]:
    """A controller that works, and is killed at the end."""
    controller, life = new_controller(world)
    task = asyncio.get_running_loop().create_task(controller.run())
    await asyncio.sleep(0)
    try:
        yield controller
        if task.done():
            task.result()
    finally:
        life.over = True
        task.cancel()
