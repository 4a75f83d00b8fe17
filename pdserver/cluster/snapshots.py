"""Snapshots of the state: on the controller's own disk and on those of all nodes."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Iterable

import msgspec

from pdserver.cluster.base import Keeper
from pdserver.cluster.fleet import Fleet
from pdserver.cluster.state import State
from pdserver.errors import ConfigError, Unavailable

_log = logging.getLogger("pdserver.cluster")
FORMAT = 1
"""Of snapshots. It grows with each change by which an older version would lose what is served; that version refuses
them then. It drops fields that it does not know, which is no such change if they say how something is served."""


class Heading(msgspec.Struct, frozen=True):
    """What every version can read of a snapshot."""

    version: str
    """Of the pdserver that wrote it."""
    format: int


class Snapshot(Heading, frozen=True):
    state: State


class Snapshots:
    """Writes states, and finds the newest one."""

    def __init__(self, disk: Keeper, fleet: Fleet, version: str) -> None:
        """`version` is that of this pdserver."""
        self.state = State()
        """What the last snapshot says."""
        self.lock = asyncio.Lock()
        """Held while one is written, and until it is so."""
        self._disk = disk
        self._fleet = fleet
        self._version = version
        self._written: tuple[int, bytes] = (0, b"")
        self._found = 0
        """The revision of the one that was found last."""
        self._unreadable: set[tuple[int, bytes]] = set()
        self._is_own = False
        """Whether somebody asked this controller for a change since then."""
        self._problem = ""

    async def save(self, state: State, *, asked: bool) -> None:
        """Write it to all disks that can be reached; `asked`: somebody asked for the change. Raises Unavailable when
        there is not a single one. Call it with the lock."""
        revision = self._fleet.next_revision()
        snapshot = msgspec.json.encode(Snapshot(self._version, FORMAT, state))
        live = list(self._fleet.live())
        kept = asyncio.gather(*(self._fleet.kept_by(member, revision, snapshot) for member in live))
        try:
            await self._disk.keep(revision, snapshot)
        except Unavailable as error:
            await kept
            if not any(member.kept >= revision for member in live):
                raise
            _log.warning("the nodes alone have the snapshot: %s", error)
        await kept
        self._written = revision, snapshot
        self.state = state
        self._is_own = self._is_own or asked

    async def follow(self, state: State) -> None:
        """Save what the cluster has come to by itself."""
        async with self.lock:
            try:
                await self.save(state, asked=False)
                self._problem = ""
            except Unavailable as error:
                if str(error) != self._problem:
                    _log.error("nobody can keep a snapshot now: %s", error)
                self._problem = str(error)

    def spread(self) -> None:
        """Have all nodes that lack the last one keep it."""
        for member in self._fleet.live():
            self._fleet.keep(member, *self._written)

    async def newest(self) -> State:
        """What the newest one says that can be read, on the disk or on a node. Raises ConfigError when there are some,
        and none can be read, and when the newest one is of a later format."""
        own = await self._disk.kept()
        self._fleet.revision = max(self._fleet.revision, own[0])
        found = [own, *(member.snapshot for member in self._fleet.members.values() if member.snapshot)]
        there = [each for each in sorted(found, reverse=True) if each[1]]
        state = self._read(there)
        if there and state is None:
            raise ConfigError(
                f"none of the {len(there)} snapshots of the cluster can be read: pdserver cluster stop, then start with"
                " --no-config-snapshots, which begins without models"
            )
        if state is not None:
            with contextlib.suppress(Unavailable):  # the nodes have it
                await self._disk.keep(*self._written)
        return state or State()

    def late(self) -> State | None:
        """What a node keeps that was heard late, if that is newer than all that this controller knows."""
        found = [member.snapshot for member in self._fleet.members.values() if member.snapshot]
        newer = sorted((each for each in found if each[0] > self._found), reverse=True)
        if newer and self._is_own:
            _log.warning("a node keeps another snapshot, by revision %d: it came too late", newer[0][0])
            self._found = newer[0][0]
            return None
        try:
            return self._read(newer)
        except ConfigError as error:
            _log.error("a node keeps another snapshot, which came too late: %s", error)
            return None

    def _read(self, found: Iterable[tuple[int, bytes]]) -> State | None:
        """The first that can be read. Raises ConfigError for one of a later format, once."""
        for revision, snapshot in found:
            if (revision, snapshot) in self._unreadable:
                continue
            try:
                self._check(msgspec.json.decode(snapshot, type=Heading))
                self.state = msgspec.json.decode(snapshot, type=Snapshot).state
            except ConfigError:
                self._unreadable.add((revision, snapshot))
                raise
            except msgspec.MsgspecError as error:
                _log.error("the snapshot of revision %d can't be read: %s", revision, error)
                self._unreadable.add((revision, snapshot))
                continue
            self._found, self._written = revision, (revision, snapshot)
            return self.state
        return None

    def _check(self, heading: Heading) -> None:
        """Raises ConfigError for a later format: what an older snapshot says is not what the cluster serves."""
        if heading.format > FORMAT:
            raise ConfigError(
                f"pdserver {heading.version} has written the cluster's snapshot, in format {heading.format}; this is"
                f" pdserver {self._version}, which reads format {FORMAT}: install pdserver {heading.version} or later"
            )
