"""The nodes and entrances as the controller knows them: heard, told, lost and back again."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Coroutine, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, Protocol, TypeVar

import msgspec

from pdserver.cluster.archives import NoRoom
from pdserver.cluster.base import (
    Archive,
    Entrance,
    EntranceStatus,
    EntranceView,
    Holder,
    Node,
    NodeLost,
    NodeStatus,
    Placed,
    Target,
)
from pdserver.cluster.sources import Sources
from pdserver.errors import PdError, Unavailable
from pdserver.peers.base import Addresses, Peers, Route
from pdserver.types import ModelRef

LOST_SECONDS = 3.0
"""A node or an entrance that has not answered for so long is lost."""
_ANSWER_SECONDS = 5.0
"""For a status: a node that was lost and is slow is heard again, too."""
_KEEP_SECONDS = 2.0
"""For a snapshot: changes wait for it."""
_APPLY_SECONDS = 30.0
_FETCH_SECONDS, _FETCH_BYTES_PER_SECOND = 60.0, 1e6
"""An archive that takes longer than that, and slower, is fetched from somebody else: others wait for the same turn."""
_LOOK_SECONDS = 1.0
_HOLDER_LOST = "the node that has the archive is lost"
_RESTART_SECONDS = 600.0
"""For a server to answer what it took, end and start."""
_AGAIN_SECONDS = 15.0
"""After this time, a node tries again what it could not do."""
_SHOW_AGAIN_SECONDS = 1.0
_log = logging.getLogger("pdserver.cluster")
_T = TypeVar("_T")


class Entrances(NamedTuple):
    """Those that there are now."""

    there: Mapping[str, Entrance]
    """By the ids of their machines."""
    problem: str = ""
    """Why there are fewer than wanted."""


class Machines(Protocol):
    """The machines that are there now."""

    async def nodes(self) -> Mapping[str, Node]:
        """By their ids. The methods of one that has just died raise NodeLost. Asked twice a second."""

    async def entrances(self) -> Entrances:
        """Asked twice a second, too."""


class Told(msgspec.Struct, frozen=True):
    """What a node is to be told, but for the revision."""

    copies: tuple[Placed, ...]
    peers: Peers
    archives: frozenset[str]


class Contact:
    """Who is asked all the time."""

    def __init__(self, kind: str, name: str, now: float) -> None:
        self.id = name
        """Of its machine."""
        self.kind = kind
        self.heard = now
        """When it was last heard, or since when it is known."""
        self.lost = False
        self.problem = ""
        """Why it can't answer, if Ray knows it."""
        self.restarts = False
        """Whether it was told to restart. It is asked nothing meanwhile, and not lost."""
        self.busy: dict[str, asyncio.Task[None]] = {}
        """What it is being asked, by the name of the method: each at most once at a time."""


class Member(Contact):
    """A node."""

    def __init__(self, name: str, node: Node, now: float) -> None:
        super().__init__("node", name, now)
        self.node = node
        self.status: NodeStatus | None = None
        """As it was when it was last heard."""
        self.silent = False
        """Whether it did not answer the last time. It is told nothing until it does."""
        self.listed = True
        self.snapshot: tuple[int, bytes] | None = None
        """The one that it kept when it was first heard; None: not heard yet."""
        self.kept = 0
        """The revision of the last snapshot that it was given."""
        self.keeps_again = 0.0
        """When it may be given one, after it could not keep one."""
        self.target: Target | None = None
        """The last one that it took over."""
        self.told = now
        """When it did."""
        self.unfetched: dict[str, tuple[str, float]] = {}
        """Digest → why it could not have the archive, and when that was."""
        self.fetching: dict[str, asyncio.Task[None]] = {}

    @property
    def is_live(self) -> bool:
        return self.snapshot is not None and self.status is not None and not self.lost

    @property
    def is_well(self) -> bool:
        """Whether it can serve."""
        return self.is_live and self.status is not None and not self.status.problem

    @property
    def is_told(self) -> bool:
        """Whether it serves by its last target, and has not begun anew since."""
        return self.target is not None and self.status is not None and self.status.revision >= self.target.revision

    def is_to_try_again(self) -> bool:
        """Whether it could not serve something that it was told some time ago. It tries again when it is told again."""
        failed = any(copy.problem for copy in self.status.copies) if self.status else False
        return failed and asyncio.get_running_loop().time() - self.told >= _AGAIN_SECONDS

    def has(self, digest: str) -> bool:
        return self.status is not None and digest in self.status.archives

    def routes(self) -> tuple[Route, ...]:
        """By which its server passes requests on."""
        return self.target.peers.routes if self.target else ()


class Door(Contact):
    """An entrance."""

    def __init__(self, name: str, entrance: Entrance, now: float) -> None:
        super().__init__("entrance", name, now)
        self.entrance = entrance
        self.status: EntranceStatus | None = None
        """As it was when it was last heard."""
        self.shown: EntranceView | None = None
        self.unshown = ""
        """Why it could not be shown anything the last time."""
        self.again = 0.0
        """When it may be tried again."""

    @property
    def follows(self) -> bool:
        """Whether it takes over what it is shown."""
        return not (self.lost or self.unshown)


class Fleet:
    """Owns the tasks that talk to the machines. `wake` is called whenever something may have changed."""

    def __init__(self, machines: Machines, holder: Holder, wake: Callable[[], None]) -> None:
        self.members: dict[str, Member] = {}
        self.doors: dict[str, Door] = {}
        """By the ids of their machines."""
        self.entrance_problem = ""
        """Why there are fewer entrances than wanted."""
        self.revision = 0
        """The highest one that anybody knows. Each target and snapshot has a higher one than those before."""
        self.listed = False
        """Whether the machines were listed at least once."""
        self._machines = machines
        self._holder = holder
        self._sources = Sources()
        self._wake = wake
        self._listing: asyncio.Task[None] | None = None
        self._unlisted = ""
        """Why the machines could not be listed the last time."""
        self._tasks: set[asyncio.Task[None]] = set()

    def live(self) -> Iterator[Member]:
        """Those that answer, in the order of their ids."""
        return (member for _, member in sorted(self.members.items()) if member.is_live)

    def statuses(self) -> dict[str, NodeStatus]:
        return {member.id: member.status for member in self.live() if member.status}

    def addresses(self) -> dict[str, Addresses]:
        return {name: status.addresses for name, status in self.statuses().items()}

    def next_revision(self) -> int:
        self.revision += 1
        return self.revision

    def beat(self) -> None:
        """Begin to see who is there, and to ask how they are."""
        if self._listing is None or self._listing.done():
            self._listing = self._begin(self._look(), "list of the machines")
        for member in self.members.values():
            if self._is_just_lost(member):
                member.kept = 0
            if not member.restarts:
                self.do(member, "status", lambda member=member: self._hear(member))  # type: ignore[misc]
        for door in self.doors.values():
            self._is_just_lost(door)
            self.do(door, "status", lambda door=door: self._hear_door(door))  # type: ignore[misc]

    def _is_just_lost(self, contact: Member | Door) -> bool:
        """Whether it has become lost now."""
        silent_seconds = asyncio.get_running_loop().time() - contact.heard
        if contact.lost or contact.restarts or silent_seconds < LOST_SECONDS:
            return False
        contact.lost = True
        if contact.status is not None:  # else it is not up yet
            _log.warning("%s %s is lost: it has not answered for %g s", contact.kind, contact.id, LOST_SECONDS)
        self._wake()
        return True

    async def _look(self) -> None:
        """See who is there. Ray may take a while to say so."""
        try:
            nodes = await self._machines.nodes()
            entrances = await self._machines.entrances()
        except Exception as error:  # noqa: BLE001 - whatever it is, those that are known go on
            self._say(f"the machines can't be listed now: {error}", error)
        else:
            self._unlisted = ""
            self._list(nodes, entrances)

    def _say(self, words: str, error: Exception) -> None:
        """Once, until it goes well again."""
        if words != self._unlisted:
            _log.warning("%s", words, exc_info=None if isinstance(error, PdError) else error)
        self._unlisted = words

    def _list(self, nodes: Mapping[str, Node], entrances: Entrances) -> None:
        self.listed = True
        now = asyncio.get_running_loop().time()
        for name, node in nodes.items():
            member = self.members.get(name)
            if member is None:
                self.members[name] = Member(name, node, now)
            else:
                member.node = node
        for name, member in list(self.members.items()):
            member.listed = name in nodes
            if member.lost and not member.listed:
                del self.members[name]
        self.entrance_problem = entrances.problem
        doors = self.doors
        self.doors = {name: doors.get(name) or Door(name, each, now) for name, each in entrances.there.items()}
        for name, door in self.doors.items():
            door.entrance = entrances.there[name]

    def do(self, contact: Contact, what: str, work: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Begin some work with a node or an entrance, unless the same is going on already."""
        if what not in contact.busy:
            task = contact.busy[what] = self._begin(work(), f"{what} of {contact.kind} {contact.id}")
            task.add_done_callback(lambda _: contact.busy.pop(what, None))

    def _begin(self, work: Coroutine[Any, Any, None], name: str) -> asyncio.Task[None]:
        task = asyncio.get_running_loop().create_task(work, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._done)
        return task

    def _done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()):
            _log.error("%s failed: %s", task.get_name(), error, exc_info=error)
        self._wake()

    async def _hear(self, member: Member) -> None:
        before = member.target
        if member.snapshot is None:
            kept = await _asked(member, member.node.kept())
            if kept is None:
                return
            member.snapshot, member.kept = kept, kept[0]
            self.revision = max(self.revision, kept[0])
        status = await _asked(member, member.node.status())
        if status is not None and member.target is before:  # else it is from before what the node was told meanwhile
            self._heard(member, status)

    def _heard(self, member: Member, status: NodeStatus) -> None:
        if member.lost and member.status:
            _log.info("node %s is back", member.id)
        member.lost = member.silent = False
        member.problem = ""
        member.status = status
        member.heard = asyncio.get_running_loop().time()
        self.revision = max(self.revision, status.revision)

    async def _hear_door(self, door: Door) -> None:
        status = await _asked(door, door.entrance.status())
        if status is None:
            return
        if door.status is None or status.life != door.status.life:
            door.shown = None
        door.status = status
        door.lost = False
        door.problem = ""
        door.heard = asyncio.get_running_loop().time()

    async def restart(self, member: Member) -> None:
        """Have the node restart its server. Raises what the node raises, and TimeoutError."""
        member.restarts = True
        try:
            await asyncio.wait_for(member.node.restart(), _RESTART_SECONDS)
            status = await asyncio.wait_for(member.node.status(), _RESTART_SECONDS)
        finally:
            member.restarts = False
            member.heard = asyncio.get_running_loop().time()
        member.target = None
        self._heard(member, status)

    def tell(self, member: Member, told: Told) -> None:
        """Have the node take this over, unless it has."""
        target = member.target
        same = target is not None and told == Told(target.copies, target.peers, target.archives)
        if not (member.silent or member.restarts) and (not (same and member.is_told) or member.is_to_try_again()):
            self.do(member, "apply", lambda: self._apply(member, told))

    async def _apply(self, member: Member, told: Told) -> None:
        target = Target(self.next_revision(), told.copies, told.peers, told.archives)
        status = await _asked(member, member.node.apply(target), _APPLY_SECONDS)
        member.silent = status is None
        if status is not None:
            self._heard(member, status)
            if status.revision <= target.revision:  # else it left this one alone
                member.target = target
                member.told = asyncio.get_running_loop().time()

    def show(self, view: EntranceView) -> None:
        """Have all entrances take this over."""
        for door in self.doors.values():
            if door.shown != view and door.again <= asyncio.get_running_loop().time():
                self.do(door, "show", lambda door=door: self._show(door, view))  # type: ignore[misc]

    async def _show(self, door: Door, view: EntranceView) -> None:
        try:
            await asyncio.wait_for(door.entrance.show(view), _APPLY_SECONDS)
            door.shown, door.unshown = view, ""
        except (PdError, asyncio.TimeoutError) as error:
            if not door.unshown:
                _log.error("entrance %s can't be shown who serves what: %s", door.id, error or "no answer")
            door.unshown = str(error) or "it does not take over who serves what"
            door.again = asyncio.get_running_loop().time() + _SHOW_AGAIN_SECONDS

    def fetch(self, member: Member, archive: Archive) -> None:
        """Have the node fetch an archive that it lacks. After a failure, only some time later."""
        digest = archive.sha256
        failed = member.unfetched.get(digest)
        now = asyncio.get_running_loop().time()
        if (
            member.silent
            or member.has(digest)
            or digest in member.fetching
            or (failed and now - failed[1] < _AGAIN_SECONDS)
        ):
            return
        member.unfetched.pop(digest, None)
        task = member.fetching[digest] = self._begin(self._fetch(member, archive), f"{archive.file} for {member.id}")
        task.add_done_callback(lambda _: member.fetching.pop(digest, None))

    def try_again(self, archive: Archive) -> None:
        """Whatever was wrong with it before, such as a full disk, may be mended."""
        for member in self.members.values():
            member.unfetched.pop(archive.sha256, None)

    async def _fetch(self, member: Member, archive: Archive) -> None:
        """From one holder after the other, until one gives it."""
        tried: list[Holder] = []
        problem = ""
        while member.is_live:
            async with self._sources.turn(lambda: self._holders(member, archive, tried)) as holder:
                if holder is None:
                    break
                try:
                    await self._fetch_from(member, archive, holder)
                except NodeLost:
                    member.silent = True  # it, or who has the archive
                    problem = _HOLDER_LOST
                except PdError as error:
                    problem = str(error)
                    if isinstance(error, NoRoom):  # whoever gives it
                        break
                else:
                    self._fetched(member, archive)
                    return
                tried.append(holder)
        if member.is_live:
            _log.warning("node %s can't have %s: %s", member.id, archive.file, problem)
            member.unfetched[archive.sha256] = (problem, asyncio.get_running_loop().time())

    def _holders(self, member: Member, archive: Archive, tried: Sequence[Holder]) -> list[Holder]:
        """Who can give it, nodes first; nobody once the one that wants it is lost."""
        if not member.is_live:
            return []
        others: list[Holder] = [
            other.node for other in self.live() if other is not member and other.has(archive.sha256)
        ]
        return [holder for holder in (*others, self._holder) if holder not in tried]

    async def _fetch_from(self, member: Member, archive: Archive, holder: Holder) -> None:
        """Raises what the node raises, NodeLost as soon as it is lost, and Unavailable when who gives it is, or when it
        takes very long."""
        most_seconds = _FETCH_SECONDS + archive.size / _FETCH_BYTES_PER_SECOND
        deadline = asyncio.get_running_loop().time() + most_seconds
        fetching = asyncio.ensure_future(member.node.fetch(archive, holder))
        try:
            while not (await asyncio.wait([fetching], timeout=_LOOK_SECONDS))[0]:
                if member.lost:
                    raise NodeLost(f"{member.id} is lost")
                if any(other.lost and other.node is holder for other in self.members.values()):
                    raise Unavailable(_HOLDER_LOST)
                if asyncio.get_running_loop().time() > deadline:
                    raise Unavailable(f"{archive.file} has not come within {most_seconds:.0f} s")
            fetching.result()
        finally:
            fetching.cancel()

    def _fetched(self, member: Member, archive: Archive) -> None:
        if member.status and not member.has(archive.sha256):
            has = (*member.status.archives, archive.sha256)
            member.status = msgspec.structs.replace(member.status, archives=has)

    def keep(self, member: Member, revision: int, snapshot: bytes) -> None:
        """Have the node keep a snapshot, unless it has it."""
        if member.restarts:
            return
        if member.kept < revision and member.keeps_again <= asyncio.get_running_loop().time():
            self.do(member, "keep", lambda: self.kept_by(member, revision, snapshot))

    async def kept_by(self, member: Member, revision: int, snapshot: bytes) -> None:
        try:
            await asyncio.wait_for(member.node.keep(revision, snapshot), _KEEP_SECONDS)
        except (Unavailable, asyncio.TimeoutError) as error:
            _log.warning("node %s does not keep the snapshot: %s", member.id, error or "no answer")
            member.keeps_again = asyncio.get_running_loop().time() + _AGAIN_SECONDS
        else:
            member.kept = max(member.kept, revision)
            member.keeps_again = 0.0

    def is_routed(self, node: str, ref: ModelRef) -> bool:
        """Whether anybody that answers still sends requests for the version to the node."""
        return any(route.ref == ref and node in route.nodes for routes in self._all_routes() for route in routes)

    def _all_routes(self) -> Iterator[tuple[Route, ...]]:
        yield from (member.routes() for member in self.live())
        yield from (door.shown.routes for door in self.doors.values() if door.shown and door.follows)

    async def close(self) -> None:
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _asked(contact: Contact, answer: Awaitable[_T], seconds: float = _ANSWER_SECONDS) -> _T | None:
    """None: it has not answered."""
    try:
        return await asyncio.wait_for(answer, seconds)
    except (NodeLost, asyncio.TimeoutError):
        return None
    except PdError as error:
        if contact.problem != str(error):
            _log.error("%s %s can't answer: %s", contact.kind, contact.id, error)
        contact.problem = str(error)
        return None
