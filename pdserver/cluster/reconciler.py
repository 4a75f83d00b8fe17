"""The loop that has the nodes serve what is wanted, and heals."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Callable

import msgspec

from pdserver.cluster import routing
from pdserver.cluster.base import Archive, CopyStatus, EntranceView, Holder, Keeper, NodeStatus, Placed, Wanted
from pdserver.cluster.fleet import Fleet, Machines, Member, Told
from pdserver.cluster.needs import Needs, needs
from pdserver.cluster.placement import Place, place
from pdserver.cluster.rounds import Rounds
from pdserver.cluster.routing import Copy, Facts, placed_copy
from pdserver.cluster.snapshots import Snapshots
from pdserver.cluster.state import Extra, State
from pdserver.engine.changes import Changes
from pdserver.errors import LoadFailed, Unavailable
from pdserver.peers.base import Peers
from pdserver.types import ModelRef

_RECOVERY_SECONDS = 5.0
"""How long a new controller waits for nodes that do not say what they keep."""
GRACE_SECONDS = 1.5
"""Between the moment when nobody is told any more to send requests to a copy, and its end. Servers look for new routes
every half second."""
_FOLLOW_SECONDS = 0.75
"""In which servers have taken over new routes, likewise."""
_SHOW_SECONDS = 15.0
"""How long a change waits for nodes that answer, and do not take over what they are told."""
_TRIES = 3
"""On so many nodes a copy is tried that can't be served."""
_AGAIN_SECONDS = 60.0
"""After this time, a node may be tried again."""
_LEARNED = 0.1
"""By this share a copy's memory has to differ from what is known to be noted."""
_log = logging.getLogger("pdserver.cluster")


class Failed(msgspec.Struct, frozen=True):
    """A copy that a node could not serve."""

    why: str
    loading: bool
    """Whether it was there, and could not be loaded."""
    at: float


class Reconciler:
    """Owns the state. The loop alone decides who serves what; changes say what is wanted, and wait for it."""

    def __init__(self, machines: Machines, disk: Keeper, holder: Holder, version: str) -> None:
        self.state = State()
        self.changes = Changes()
        self._rounds = Rounds(self.changes.check)
        self.fleet = Fleet(machines, holder, self.wake)
        self.lock = asyncio.Lock()
        """Held by each change from its beginning to its end."""
        self.management = self.grpc_management = ""
        self.recovering = True
        self.versions = {version}
        """Of pdserver: nodes with these get new copies, and those with the version of most nodes."""
        self.pending: dict[ModelRef, Wanted | None] = {}
        """What the snapshot says of versions that are being changed, until that has worked; None: nothing. Those are
        not shown to anybody either."""
        self.draining: set[str] = set()
        """Nodes that take no requests, and get no new copies."""
        self.held: set[Copy] = set()
        """Copies that take no requests."""
        self.summoned: set[Copy] = set()
        """Extra copies that are to be loaded, and to stay until they are sent away."""
        self.stock: set[tuple[str, Archive]] = set()
        """Archives that nodes are to have besides."""
        self.problems: dict[ModelRef, str] = {}
        """Why versions have fewer copies than wanted."""
        self.failed: dict[ModelRef, dict[str, Failed]] = {}
        """Where copies could not be served, by the nodes' ids."""
        self._needs: Needs = {}
        self._needs_of = self.state
        """The state that `_needs` are of."""
        self._snapshots = Snapshots(disk, self.fleet, version)
        self._unrouted: dict[Copy, float] = {}
        """Extra copies that nobody is told of any more, and since when."""

    # The loop

    def wake(self) -> None:
        self._rounds.wake()

    async def until(self, check: Callable[[], bool], seconds: float = float("inf")) -> bool:
        """Wait for this, looking after each round; False when it takes longer. Raises what `check` raises, and
        Unavailable when the controller stops."""
        return await self._rounds.until(check, seconds)

    async def run(self) -> None:
        """Recover, then work until it is cancelled. Raises ConfigError when there are snapshots, and none can be
        read."""
        beats = asyncio.create_task(self._beats(), name="beats")
        try:
            await self.until(self._has_heard_all, _RECOVERY_SECONDS)
            self.state = await self._snapshots.newest()
            self._adopt()
            self.recovering = False
            while True:
                try:
                    self._work()
                except Exception:  # noqa: BLE001 - what is served goes on
                    _log.exception("a round failed: the next one tries again")
                self._rounds.done()
                await self._rounds.begun()
        finally:
            beats.cancel()
            self.changes.stop()
            self._rounds.done()
            await self.changes.finished()
            await self.fleet.close()

    async def _beats(self) -> None:
        while True:
            self.fleet.beat()
            self.wake()
            if self.recovering:  # there are no rounds yet
                self._rounds.done()
            await self._rounds.beat()

    def _has_heard_all(self) -> bool:
        return self.fleet.listed and all(member.is_live or member.lost for member in self.fleet.members.values())

    def _adopt(self) -> None:
        """Copies that were placed after the snapshot was written are extra ones: they are placed again, or drained."""
        for node, status in self.fleet.statuses().items():
            has = [one.ref for one in self.state.copies_on(node)]
            for copy in status.copies:
                if copy.ready and copy.ref not in has and (one := self.state.find(copy.ref)):
                    self.state = self.state.with_extra(Extra(node, one))

    def _work(self) -> None:
        """One round: see what is known, decide, and begin what follows from that."""
        self.state = self._snapshots.late() or self.state
        self._learn()
        self._note_failed()
        found = place(self.places(), self.state.wanted, self.state.placed, self.needs)
        self.state, self.problems = self.state.placed_as(found.placed), dict(found.problems)
        self._end_extras()
        self._direct()
        durable = self.state.as_before(self.pending)
        if durable != self._snapshots.state and not self._snapshots.lock.locked() and not self.changes.stopped:
            self.changes.begin(self._snapshots.follow(durable), "snapshot")
        self._snapshots.spread()

    # What is known

    @property
    def needs(self) -> Needs:
        if self._needs_of is not self.state:
            self._needs, self._needs_of = needs(self.state), self.state
        return self._needs

    def facts(self) -> Facts:
        hidden = frozenset(ref for ref, before in self.pending.items() if before is None)
        nodes = {member.id: self._said(member) for member in self.fleet.live()}
        return Facts(nodes, frozenset(self.draining), frozenset(self.held), hidden)

    def _said(self, member: Member) -> NodeStatus:
        """What a node says. A copy of another archive than the one that it is to have is not ready."""
        assert member.status is not None  # noqa: S101 - it is live
        told = {placed.ref: placed for placed in member.target.copies} if member.target else None
        loaded = {copy.ref: copy.sha256 for copy in member.status.copies if copy.sha256}
        other = {
            one.ref for one in self.copies_on(member.id)
            if loaded.get(one.ref, one.archive.sha256) != one.archive.sha256
            or (told is not None and not (one.ref in told and _is_of(told[one.ref], one)))
        }  # fmt: skip
        if not other:
            return member.status
        copies = tuple(
            msgspec.structs.replace(copy, ready=copy.ready and copy.ref not in other) for copy in member.status.copies
        )
        return msgspec.structs.replace(member.status, copies=copies)

    def copies_on(self, node: str) -> list[Wanted]:
        """What the node is to have."""
        return [self.state.content(node, one) for one in self.state.copies_on(node)]

    def name(self, node: str) -> str:
        """What people call a node."""
        member = self.fleet.members.get(node)
        if member is None or member.status is None:
            return node[:8]
        host = member.status.host
        alike = [other for other in self.fleet.members.values() if other.status and other.status.host == host]
        return host if len(alike) == 1 else f"{host} ({node[:8]})"

    def places(self) -> list[Place]:
        """What the nodes have for copies. A node that is silent keeps its own until it is lost."""
        return [self._place(member) for member in self.fleet.members.values() if not member.lost]

    def _place(self, member: Member) -> Place:
        status = member.status
        if status is None:
            return Place(node=member.id, problem=self.why_closed(member))
        failed = {
            ref for ref, tries in self.failed.items()
            if member.id in tries and not (len(tries) >= _TRIES and ref in self.state.placed.get(member.id, ()))
        }  # fmt: skip
        return Place(
            node=member.id,
            name=self.name(member.id),
            memory_bytes=status.free_bytes + sum(copy.memory_bytes for copy in status.copies),
            gpus=status.gpus,
            load=status.load,
            problem=self.why_closed(member),
            loaded=frozenset(copy.ref for copy in status.copies if copy.ready),
            extras=tuple(extra.wanted for extra in self.state.extras if extra.node == member.id),
            failed=frozenset(failed),
        )

    def why_closed(self, member: Member) -> str:
        """Why a node gets no new copies, as the end of a sentence about it; "": it does."""
        status = member.status
        if member.lost or status is None:
            return f"does not answer: {member.problem}" if member.problem else "does not answer"
        if member.id in self.draining:
            return "is being upgraded"
        versions = self.versions | self._most()
        if status.version and status.version not in versions:  # without one, its server has not started
            return f"runs pdserver {status.version}, not {' or '.join(sorted(versions))}"
        return f"says: {status.problem}" if status.problem else ""

    def _most(self) -> set[str]:
        """The version of more than half of the nodes, if there is one: a controller that has begun anew with another
        one still replaces what is lost."""
        counts = Counter(status.version for status in self.fleet.statuses().values() if status.version)
        return {version for version, count in counts.items() if count > counts.total() / 2}

    def _learn(self) -> None:
        """How much memory copies need."""
        for one in self.state.wanted:
            known = [self.facts_of(node, one) for node in self.state.nodes_of(one.ref)]
            most = max((copy.memory_bytes for copy in known if copy and copy.ready), default=0)
            if most and abs(most - one.memory_bytes) > _LEARNED * one.memory_bytes:
                known_now = msgspec.structs.replace(one, memory_bytes=most)
                self.state = self.state.with_changed(known_now).with_learned(known_now)

    def facts_of(self, node: str, wanted: Wanted) -> CopyStatus | None:
        """What the node says of a copy, once it was told to serve it like this."""
        member = self.fleet.members.get(node)
        if member is None or not member.is_live or not member.is_told or member.target is None or not member.status:
            return None
        if self._placed_copy(node, wanted) not in member.target.copies:
            return None
        return next((copy for copy in member.status.copies if copy.ref == wanted.ref), None)

    def _note_failed(self) -> None:
        """Who could not serve what. That is forgotten after some time, and when the copy serves after all."""
        now = asyncio.get_running_loop().time()
        for one in self.state.wanted:
            tries = self.failed.setdefault(one.ref, {})
            for node in self.state.nodes_of(one.ref):
                if self.state.content(node, one) is not one:
                    continue
                copy = self.facts_of(node, one)
                unfetched = self.fleet.members[node].unfetched if node in self.fleet.members else {}
                if copy is not None and copy.problem:
                    tries[node] = Failed(copy.problem, True, now)
                elif copy is not None and copy.ready:
                    tries.pop(node, None)
                elif one.archive.sha256 in unfetched:
                    tries[node] = Failed(unfetched[one.archive.sha256][0], False, now)
            for node, failure in list(tries.items()):
                if now - failure.at > _AGAIN_SECONDS:
                    del tries[node]
        for ref in [ref for ref in self.failed if not self.failed[ref]]:
            del self.failed[ref]

    # What follows from it

    def _end_extras(self) -> None:
        now, facts = asyncio.get_running_loop().time(), self.facts()
        gone = routing.superfluous(self.state, facts, self.needs) - self.summoned
        unrouted = {copy: self._unrouted.get(copy, now) for copy in gone if not self.fleet.is_routed(*copy)}
        self._unrouted = unrouted
        over = {copy for copy, since in unrouted.items() if now - since >= GRACE_SECONDS}
        for extra in self.state.extras:  # a node that lost it does not load it again
            copy = (extra.node, extra.wanted.ref)
            if extra.node in facts.nodes and copy not in self.summoned and facts.copy(*copy) is None:
                over.add(copy)
        self.state = self.state.without_extras(frozenset(over))

    def _direct(self) -> None:
        told = self._to_tell()
        archives = {archive.sha256: archive for archive in self._archives()}
        for member in self.fleet.live():
            for digest in sorted(told[member.id].archives):
                self.fleet.fetch(member, archives[digest])
            self.fleet.tell(member, told[member.id])
        self.fleet.show(self._view())

    def _archives(self) -> list[Archive]:
        """All that are needed anywhere."""
        others = [extra.wanted for extra in (*self.state.extras, *self.state.instead)]
        models = [*self.state.wanted, *others]
        return [one.archive for one in models] + [archive for _, archive in self.stock]

    def _to_tell(self) -> dict[str, Told]:
        facts, addresses = self.facts(), self.fleet.addresses()
        routes = routing.routes(self.state, facts, self.needs)
        copies = {node: [self.state.content(node, one) for one in self.state.copies_on(node)] for node in addresses}
        needed = {
            node: frozenset(one.archive.sha256 for one in copies[node])
            | {archive.sha256 for other, archive in self.stock if other == node}
            for node in addresses
        }
        wanted = frozenset(one.archive.sha256 for one in self.state.wanted)
        archives = routing.archives(needed, wanted, facts)
        return {
            node: Told(
                tuple(self._placed_copy(node, one) for one in copies[node] if self._may_be_told(node, one)),
                Peers(node, addresses, routes),
                archives[node],
            )
            for node in addresses
        }

    def _placed_copy(self, node: str, wanted: Wanted) -> Placed:
        return placed_copy(wanted, [one.ref for one in self._asked_on(node, wanted)])

    def _asked_on(self, node: str, wanted: Wanted) -> list[Wanted]:
        """What a copy asks, as far as the node is to have it."""
        asked = self.needs.get(wanted.ref, ())
        return [one for one in self.copies_on(node) if one.ref in asked] if asked else []

    def _may_be_told(self, node: str, wanted: Wanted) -> bool:
        """Whether the node has the archive, or had it when it was told last; of a new copy, also those that it asks."""
        member = self.fleet.members[node]
        before = member.target.copies if member.target else ()
        had = {copy.archive for copy in before}
        new = all(wanted.ref != copy.ref for copy in before)
        there = [wanted, *(self._asked_on(node, wanted) if new else ())]
        return all(member.has(one.archive.sha256) or one.archive in had for one in there)

    def _view(self) -> EntranceView:
        routes = routing.routes(self.state, self.facts(), self.needs)
        return EntranceView(
            self.fleet.addresses(), frozenset(self.draining), routes, self.management, self.grpc_management
        )

    # What changes wait for

    async def shown(self) -> None:
        """Wait until all who answer have taken over what they are to know now; those that hang are not waited for."""
        if not await self.until(self._is_shown, _SHOW_SECONDS):
            _log.warning("not all nodes and entrances have taken over who serves what")

    async def followed(self) -> None:
        """Wait until whoever asks, wherever that is, is answered by what is known now."""
        await self.shown()
        await asyncio.sleep(_FOLLOW_SECONDS)

    def _is_shown(self) -> bool:
        told, view = self._to_tell(), self._view()
        nodes = all(
            member.target and member.is_told and member.target.peers == told[member.id].peers
            and {(copy.ref, copy.default) for copy in member.target.copies}
            == {(copy.ref, copy.default) for copy in told[member.id].copies}
            for member in self.fleet.live() if not member.restarts
        )  # fmt: skip
        return nodes and all(door.shown == view for door in self.fleet.doors.values() if door.follows)

    def check_can_serve(self, wanted: Wanted) -> None:
        """Raises LoadFailed when a node could not load it, Unavailable when there is no room for all copies."""
        placed = self.state.nodes_of(wanted.ref)
        for node, failure in self.failed.get(wanted.ref, {}).items():
            if failure.loading:
                raise LoadFailed(f"{self.name(node)}: {failure.why}")
            if node in placed:
                raise Unavailable(f"{self.name(node)}: {failure.why}")
        if problem := self.problems.get(wanted.ref):
            raise Unavailable(problem)

    def is_served(self, ref: ModelRef) -> bool:
        """Whether all copies of a version serve, and its archive is on as many disks as it should be. Raises as
        `check_can_serve`."""
        wanted = self.state.find(ref)
        if wanted is None:
            return False
        self.check_can_serve(wanted)
        nodes = self.state.nodes_of(ref)
        still = any(wanted.archive.sha256 in member.fetching for member in self.fleet.live())
        return len(nodes) >= wanted.copies and not still and all(self.is_up(node, wanted) for node in nodes)

    def is_up(self, node: str, wanted: Wanted) -> bool:
        """Whether a copy does all that it should."""
        copy = self.facts_of(node, wanted)
        if copy is None or copy.problem:
            return False
        if wanted.workers is None or copy.workers is None:
            return copy.ready or wanted.workers == 0
        return copy.workers >= wanted.workers and (copy.ready or wanted.workers == 0)

    def is_left_over(self, ref: ModelRef) -> bool:
        """Whether a node that answers still has a copy that is not placed there."""
        return any(extra.wanted.ref == ref for extra in self.state.extras) or any(
            copy.ref == ref and ref not in self.state.placed.get(node, ())
            for node, status in self.fleet.statuses().items()
            for copy in status.copies
        )

    async def commit(self, change: Callable[[State], State], ref: ModelRef) -> None:
        """Have the snapshot say what a change of this version has made of the state, then make it so. Raises
        Unavailable when nobody can keep the snapshot: then nothing has changed."""
        async with self._snapshots.lock:
            pending = {other: before for other, before in self.pending.items() if other != ref}
            await self._snapshots.save(change(self.state).as_before(pending), asked=True)
            self.state = change(self.state)
            self.pending.pop(ref, None)
        self.wake()


def _is_of(placed: Placed, one: Wanted) -> bool:
    return (placed.archive, placed.handler) == (one.archive, one.handler)
