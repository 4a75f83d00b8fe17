"""What the cluster is to serve and where, and the snapshots of it."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Iterator, Mapping
from pathlib import Path

import msgspec

from pdarchiver.staging import staged_file
from pdserver.cluster.base import Wanted
from pdserver.engine.names import Elsewhere, Model, Names
from pdserver.errors import Conflict, Forbidden, Unavailable
from pdserver.system.folders import make_folder
from pdserver.types import ModelRef

_MOST_LEARNED = 1000
DAMAGED = b"damaged"
"""In place of a snapshot that can't be read: there was one, so that nobody takes the cluster to be a new one."""


class Extra(msgspec.Struct, frozen=True):
    """A copy that a node has, and that is not placed there (any more). It serves while the placed ones don't, and is
    ended once nobody sends requests to it."""

    node: str
    wanted: Wanted


def same_model(one: Wanted | None, other: Wanted) -> bool:
    """Whether they answer the same."""
    return one is not None and (one.ref, one.archive.sha256, one.handler) == (
        other.ref, other.archive.sha256, other.handler,
    )  # fmt: skip


class Learned(msgspec.Struct, frozen=True):
    """How much memory a copy of an archive took."""

    sha256: str
    handler: str | None
    workers: int | None
    """As many as it had; None: as many as its settings say."""
    memory_bytes: int


class State(msgspec.Struct, frozen=True):
    """What survives the controller. Each method that changes something returns another state."""

    wanted: tuple[Wanted, ...] = ()
    """In the order of their registration. Exactly one version of each name is the default."""
    placed: Mapping[str, tuple[ModelRef, ...]] = {}
    """By the ids of nodes, which versions each serves."""
    extras: tuple[Extra, ...] = ()
    instead: tuple[Extra, ...] = ()
    """Placed copies that are something else than what is wanted of the version: it is being replaced."""
    learned: tuple[Learned, ...] = ()
    """Of the archives that were served, the last ones at the end."""

    def find(self, ref: ModelRef) -> Wanted | None:
        return next((one for one in self.wanted if one.ref == ref), None)

    def resolve(self, name: str, version: str | None) -> Wanted:
        """`version` None: the default one. Raises ModelNotFound, VersionNotFound."""
        return _Names(self.wanted).resolve(name, version)

    def nodes_of(self, ref: ModelRef) -> list[str]:
        """Where it is placed."""
        return sorted(node for node, refs in self.placed.items() if ref in refs)

    def copies_on(self, node: str) -> Iterator[Wanted]:
        """What the node is to have: placed and extra copies."""
        placed = self.placed.get(node, ())
        yield from (one for one in self.wanted if one.ref in placed)
        yield from (extra.wanted for extra in self.extras if extra.node == node)

    def content(self, node: str, wanted: Wanted) -> Wanted:
        """What the node's copy of the version is to be."""
        return next((one.wanted for one in self.instead if (one.node, one.wanted.ref) == (node, wanted.ref)), wanted)

    def with_content(self, node: str, wanted: Wanted) -> State:
        """With this as the node's copy of the version."""
        others = (one for one in self.instead if (one.node, one.wanted.ref) != (node, wanted.ref))
        own = () if same_model(self.find(wanted.ref), wanted) else (Extra(node, wanted),)
        return msgspec.structs.replace(self, instead=(*others, *own))

    def with_wanted_content(self, ref: ModelRef) -> State:
        """With what is wanted of the version as all copies."""
        return msgspec.structs.replace(self, instead=tuple(one for one in self.instead if one.wanted.ref != ref))

    def with_new(self, wanted: Wanted) -> State:
        """The first version of a name becomes its default. Raises Conflict when the version is there already."""
        if self.find(wanted.ref):
            ref = wanted.ref
            raise Conflict(f"Model version {ref.version} is already registered for model {ref.name}")
        first = all(one.ref.name != wanted.ref.name for one in self.wanted)
        return msgspec.structs.replace(self, wanted=(*self.wanted, msgspec.structs.replace(wanted, default=first)))

    def with_changed(self, wanted: Wanted) -> State:
        """Another one in place of the same version, if that is still wanted."""
        changed = tuple(
            msgspec.structs.replace(wanted, default=one.default) if one.ref == wanted.ref else one
            for one in self.wanted
        )
        instead = tuple(one for one in self.instead if not same_model(wanted, one.wanted))
        return msgspec.structs.replace(self, wanted=changed, instead=instead)

    def with_learned(self, wanted: Wanted) -> State:
        """`wanted.memory_bytes` is also that of who is registered with this archive later."""
        digest, handler = wanted.archive.sha256, wanted.handler
        others = [one for one in self.learned if (one.sha256, one.handler) != (digest, handler)]
        new = Learned(digest, handler, wanted.workers, wanted.memory_bytes)
        return msgspec.structs.replace(self, learned=(*others[-_MOST_LEARNED:], new))

    def learned_bytes(self, wanted: Wanted) -> int:
        """What a copy needs, as copies of the same took it before; 0: not known."""
        digest, handler = wanted.archive.sha256, wanted.handler
        for one in self.learned:
            if (one.sha256, one.handler) == (digest, handler):
                if one.workers and wanted.workers:
                    return one.memory_bytes * wanted.workers // one.workers
                return one.memory_bytes if one.workers == wanted.workers else 0
        return 0

    def with_default(self, ref: ModelRef) -> State:
        return msgspec.structs.replace(
            self,
            wanted=tuple(
                msgspec.structs.replace(one, default=one.ref == ref) if one.ref.name == ref.name else one
                for one in self.wanted
            ),
        )

    def without(self, ref: ModelRef) -> State:
        """Its copies are extra ones from now on."""
        wanted = self.find(ref)
        if wanted is None:
            return self
        gone = tuple(Extra(node, self.content(node, wanted)) for node in self.nodes_of(ref))
        placed = {node: tuple(each for each in refs if each != ref) for node, refs in self.placed.items()}
        left = {node: refs for node, refs in placed.items() if refs}
        instead = tuple(one for one in self.instead if one.wanted.ref != ref)
        return msgspec.structs.replace(
            self,
            wanted=tuple(one for one in self.wanted if one is not wanted),
            placed=left,
            extras=(*self.extras, *gone),
            instead=instead,
        )

    def check_may_go(self, wanted: Wanted) -> None:
        """Raises Forbidden for the default version while there are others."""
        if wanted.default and sum(one.ref.name == wanted.ref.name for one in self.wanted) > 1:
            raise Forbidden(
                f"Model version {wanted.ref.version} is the default of model {wanted.ref.name}, which has others: "
                "set another default first, or unregister those"
            )

    def as_before(self, pending: Mapping[ModelRef, Wanted | None]) -> State:
        """Without the changes that have begun and are not made yet; they are of these versions, which were so before;
        None: they were not there."""
        state = self
        for ref, before in pending.items():
            if before is None:
                state = state.without(ref)
                state = state.without_extras(frozenset((extra.node, ref) for extra in state.extras))
            else:
                state = state.with_changed(before)
        return state

    def with_extra(self, extra: Extra) -> State:
        return msgspec.structs.replace(self, extras=(*self.extras, extra))

    def without_extras(self, gone: frozenset[tuple[str, ModelRef]]) -> State:
        """Without those on these nodes."""
        left = tuple(extra for extra in self.extras if (extra.node, extra.wanted.ref) not in gone)
        return self if len(left) == len(self.extras) else msgspec.structs.replace(self, extras=left)

    def placed_as(self, placed: Mapping[str, tuple[ModelRef, ...]]) -> State:
        """With other places. Copies whose place is gone become extra ones, and extra ones may be placed again."""
        placed = {node: refs for node, refs in placed.items() if refs}
        if placed == self.placed:
            return self
        taken = frozenset((node, ref) for node, refs in placed.items() for ref in refs)
        gone = tuple(
            Extra(node, self.content(node, one))
            for node, refs in self.placed.items()
            for one in self.wanted
            if one.ref in refs and (node, one.ref) not in taken
        )
        state = self.without_extras(taken)
        instead = tuple(one for one in self.instead if (one.node, one.wanted.ref) in taken)
        return msgspec.structs.replace(self, placed=placed, extras=(*state.extras, *gone), instead=instead)


class _Names(Names[Wanted]):
    def __init__(self, wanted: tuple[Wanted, ...]) -> None:
        super().__init__(Elsewhere())
        for one in wanted:
            if (model := self._models.get(one.ref.name)) is None:
                self._models[one.ref.name] = model = Model(one.ref.name, {one.ref.version: one}, one.ref.version)
            model.versions[one.ref.version] = one
            if one.default:
                model.set_default(one.ref.version)


class SnapshotFile:
    """A `Keeper`: the snapshot is the file `snapshot` of a folder, which is made when it is missing. Its first line has
    the revision, and a digest of all the rest."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / "snapshot"
        self._lock = asyncio.Lock()

    async def keep(self, revision: int, snapshot: bytes) -> None:
        async with self._lock:
            if revision >= (await self.kept())[0]:
                await asyncio.to_thread(self._write, revision, snapshot)

    async def kept(self) -> tuple[int, bytes]:
        """(0, DAMAGED) when the file is not as it was written."""
        try:
            first, _, snapshot = (await asyncio.to_thread(self._path.read_bytes)).partition(b"\n")
        except FileNotFoundError:
            return 0, b""
        except OSError:
            return 0, DAMAGED
        number, _, digest = first.partition(b" ")
        return (int(number), snapshot) if digest and digest == _digest(number, snapshot) else (0, DAMAGED)

    def _write(self, revision: int, snapshot: bytes) -> None:
        number = b"%d" % revision
        try:
            make_folder(self._path.parent, 0o700)
            with staged_file(self._path) as stage:
                stage.write_bytes(b"%b %b\n%b" % (number, _digest(number, snapshot), snapshot))
        except OSError as error:
            raise Unavailable(f"{self._path}: the snapshot can't be written: {error.strerror}") from None


def _digest(number: bytes, snapshot: bytes) -> bytes:
    return hashlib.sha256(b"%b\n%b" % (number, snapshot)).hexdigest().encode()
