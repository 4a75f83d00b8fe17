"""The controller: what can be asked of the cluster as a whole."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Callable, Mapping

import msgspec

from pdserver.cluster import needs, rolling
from pdserver.cluster.base import Archive, ClusterView, Holder, Keeper, Spread, Wanted
from pdserver.cluster.fleet import Machines as Machines
from pdserver.cluster.models import Models
from pdserver.cluster.reconciler import Reconciler
from pdserver.cluster.state import State, same_model
from pdserver.cluster.views import Views
from pdserver.engine.changes import carried
from pdserver.errors import Conflict, InvalidRequest, PdError, Unavailable
from pdserver.types import ModelRef

_UNDO_SECONDS = 30.0
"""How long a change that failed waits until nothing of it is left."""
_END_SECONDS = 600.0
"""How long one waits until all nodes have ended their copies of a version. They go on after that."""
_log = logging.getLogger("pdserver.cluster")


class Controller:
    """Has the nodes serve what it was told to have served.

    All changes run one after the other, each to its end, whether its caller stays or not. What a change says is on the
    disks of all nodes before its caller is told. Without a call, it heals: copies of lost nodes are placed anew, and
    nodes that return get what they are to serve.
    """

    def __init__(
        self,
        machines: Machines,
        models: Models,
        disk: Keeper,
        *,
        version: str,
        holder: Holder | None = None,
    ) -> None:
        """`models` opens the archives of the store, and `disk` keeps the snapshot here; `version` is that of this
        pdserver. `holder` is how nodes reach `piece` of this controller; None: as it is."""
        self._models = models
        self._version = version
        self._core = Reconciler(machines, disk, holder or self, version)
        self.changes = self._core.changes
        self._running: asyncio.Task[None] | None = None
        self._upgrading = False
        self._replacing: dict[ModelRef, str] = {}
        """Why versions could not be replaced in the background."""
        self._awaited: list[str] = []
        """The digests of archives that are opened, for changes whose turn has not come."""
        self._views = Views(self._core, version, self._replacing)

    def answers_at(self, management: str, grpc_management: str = "") -> None:
        """Have the entrances know these addresses of the cluster's management API, as `EntranceView` has them."""
        self._core.management, self._core.grpc_management = management, grpc_management
        self._core.wake()

    async def run(self) -> None:
        """Recover what is to be served from the newest snapshot, then have it served until `close`. Raises ConfigError
        when there are snapshots, and none can be read."""
        self._running = asyncio.create_task(self._core.run(), name="controller")
        watching = asyncio.create_task(self._views.watch(), name="watch")
        try:
            self.changes.begin(self._finish(), "what another controller left")
            await asyncio.wait([self._running])
            if not self._running.cancelled():
                self._running.result()
        finally:
            watching.cancel()
            self._running.cancel()

    async def close(self) -> None:
        """Leave the nodes as they are. Idempotent."""
        self.changes.stop()
        if self._running is not None:
            self._running.cancel()
            await asyncio.wait([self._running])

    @carried
    async def register(
        self,
        url: str,
        *,
        name: str | None = None,
        handler: str | None = None,
        sha256: str | None = None,
        settings: Mapping[str, str] = {},
        workers: int | None = None,
        copies: int = 1,
        spread: Spread = "spread",
        synchronous: bool = False,
        replace: bool = False,
    ) -> Wanted:
        """Have an archive served by so many nodes, by so many workers each (None: as many as its settings say).

        `url` names a file of the model store, or is an allowed URL; its bytes must have the digest `sha256`. `settings`
        are parameters of the management API, as text. `synchronous`: return when all copies serve; if one can't,
        everything is as before. Else: return when it is noted, and `view` tells the rest. `replace`: the same version
        may be registered already; it serves until the new one does, one node after the other.

        Raises InvalidRequest, ModelNotFound, Forbidden, ArchiveUnusable as one server does; NodeMissing, which is an
        InvalidRequest, for a pipeline that asks a model which is not registered. Raises Conflict when the version is
        registered already. When synchronous, raises LoadFailed when a node can't load it, Unavailable when the nodes
        have no room for it; the text says which node lacks what.
        """
        if copies < 1:
            raise InvalidRequest(f"copies={copies}: expected a whole number from 1")
        await self._recovered()
        with self.changes.interruptible():
            opened = await self._models.open(url, name=name, handler=handler, sha256=sha256, settings=settings)
        wanted = Wanted(
            ref=opened.ref, url=url, archive=opened.archive, handler=handler, settings=settings,
            workers=opened.workers if workers is None else workers, copies=copies, spread=spread, gpus=opened.gpus,
            needs=opened.needs,
        )  # fmt: skip
        async with self._changing(wanted.ref, wanted.archive):
            self._core.fleet.try_again(wanted.archive)
            wanted = msgspec.structs.replace(wanted, memory_bytes=self._core.state.learned_bytes(wanted))
            before = self._core.state.find(wanted.ref)
            needs.check(self._core.state, wanted)
            if before is None or not replace:
                await self._add(wanted, synchronous=synchronous)
            elif same_model(before, wanted):
                after = msgspec.structs.replace(wanted, memory_bytes=before.memory_bytes)
                await self._change(before, after, synchronous=synchronous)
            elif synchronous:
                await rolling.replace(self._core, wanted)
            else:
                self.changes.begin(self._replace_soon(wanted), f"replace {wanted.ref}")
            _log.info("registered %s from %s: %d copies", wanted.ref, url, copies)
            return wanted

    @carried
    async def scale(
        self,
        name: str,
        version: str | None = None,
        *,
        workers: int | None = None,
        copies: int | None = None,
        spread: Spread | None = None,
        settings: Mapping[str, str] = {},
        synchronous: bool = False,
    ) -> Wanted:
        """Change what is given; None and what `settings` lacks stay as they are. `version` None: the default one.
        Raises ModelNotFound, VersionNotFound, InvalidRequest, and when synchronous as `register` does."""
        if copies is not None and copies < 1:
            raise InvalidRequest(f"copies={copies}: expected a whole number from 1")
        await self._recovered()
        async with self._changing(self._core.state.resolve(name, version).ref) as ref:
            before = self._core.state.resolve(ref.name, ref.version)
            after = msgspec.structs.replace(
                before,
                workers=before.workers if workers is None else workers,
                copies=before.copies if copies is None else copies,
                spread=spread or before.spread,
                settings={**before.settings, **settings},
            )
            if before.workers and after.workers:  # what a copy needs grows with them
                needs = before.memory_bytes * after.workers // before.workers
                after = msgspec.structs.replace(after, memory_bytes=needs)
            await self._change(before, after, synchronous=synchronous)
            return after

    @carried
    async def set_default(self, name: str, version: str) -> None:
        """Return when all nodes and entrances know it; until then, the default before serves. Each node that has a
        pipeline which asks the default version gets this one before. Raises ModelNotFound, VersionNotFound, and as
        `register` does when one of these nodes can't serve it."""
        await self._recovered()
        async with self._changing(self._core.state.resolve(name, version).ref) as ref:
            after = needs.needs(State(self._core.state.with_default(ref).wanted))
            async with rolling.brought(self._core, after):  # to the nodes that have pipelines which ask it
                await self._core.commit(lambda state: state.with_default(ref), ref)
            await self._core.followed()

    @carried
    async def unregister(self, name: str, version: str | None = None) -> None:
        """Take a version out; `version` None: the default one. Return when it is ended everywhere, after what its
        copies had taken was answered. Raises ModelNotFound, VersionNotFound, Forbidden for the default version while
        there are others, and Conflict for one that a pipeline asks."""
        await self._recovered()
        async with self._changing(self._core.state.resolve(name, version).ref) as ref:
            self._core.state.check_may_go(self._core.state.resolve(ref.name, ref.version))
            needs.check_may_go(self._core.state, ref)
            await self._core.commit(lambda state: state.without(ref), ref)
            await self._core.until(lambda: not self._core.is_left_over(ref), _END_SECONDS)
            await self._forget()

    def upgrade(self) -> AsyncIterator[str]:
        """Restart the pdserver of one node after the other, as its installation is now, with nothing lost; yields lines
        that tell how far it is. It goes on when nobody reads them. Raises Conflict while another upgrade runs,
        Unavailable when a node does not come back: then the rest stay as they are."""
        lines: asyncio.Queue[str] = asyncio.Queue()
        work = self.changes.begin(self._upgrade(lines.put_nowait), "upgrade")
        return _lines(lines, work)

    async def ready(self) -> None:
        """Until it knows what is to be served, and all nodes and entrances know of it."""
        await self._recovered()
        await self._core.until(lambda: self._core.fleet.listed)
        await self._core.shown()

    def view(self) -> ClusterView:
        """All that is known now."""
        return self._views.now()

    async def piece(self, sha256: str, offset: int) -> bytes:
        """As a `Holder`, for the nodes."""
        return await self._models.piece(sha256, offset)

    @contextlib.asynccontextmanager
    async def _changing(self, ref: ModelRef, opened: Archive | None = None) -> AsyncIterator[ModelRef]:
        """Nothing else changes meanwhile, and what was wrong with the version before counts no more. What was opened
        for it is kept until its turn comes, however long that takes."""
        core, awaited = self._core, [opened.sha256] if opened else []
        self._awaited += awaited
        async with core.lock:
            for digest in awaited:
                self._awaited.remove(digest)
            self.changes.check()
            for problems in (core.problems, core.failed, self._replacing):
                problems.pop(ref, None)
            yield ref

    async def _recovered(self) -> None:
        await self._core.until(lambda: not self._core.recovering)

    async def _add(self, wanted: Wanted, *, synchronous: bool) -> None:
        """Nobody is told of it before it serves, when that is asked for."""
        core, ref = self._core, wanted.ref
        if not synchronous:
            await core.commit(lambda state: state.with_new(wanted), ref)
            return
        core.state = core.state.with_new(wanted)
        core.pending[ref] = None
        try:
            await core.until(lambda: core.is_served(ref))
            await core.commit(lambda state: state, ref)
        except PdError:
            core.state = core.state.without(ref)
            core.state = core.state.without_extras(frozenset((extra.node, ref) for extra in core.state.extras))
            core.pending.pop(ref, None)
            await self._undone(ref)
            raise
        await core.followed()

    async def _undone(self, ref: ModelRef) -> None:
        with contextlib.suppress(PdError):
            await self._core.until(lambda: not self._core.is_left_over(ref), _UNDO_SECONDS)
        await self._forget()

    async def _change(self, before: Wanted, after: Wanted, *, synchronous: bool) -> None:
        core, ref = self._core, before.ref
        if not synchronous:
            await core.commit(lambda state: state.with_changed(after), ref)
            return
        core.pending[ref] = before
        core.state = core.state.with_changed(after)
        try:
            await core.until(lambda: core.is_served(ref))
            await core.commit(lambda state: state, ref)
        except PdError:
            core.state = core.state.with_changed(before)
            core.pending.pop(ref, None)
            core.problems.pop(ref, None)
            core.failed.pop(ref, None)
            core.wake()
            raise
        await core.followed()

    async def _replace_soon(self, wanted: Wanted) -> None:
        async with self._changing(wanted.ref, wanted.archive):
            try:
                await rolling.replace(self._core, wanted)
            except PdError as error:
                self._replacing[wanted.ref] = f"it was not replaced by {wanted.url}: {error}"
                _log.error("%s was not replaced by %s: %s", wanted.ref, wanted.url, error)

    async def _finish(self) -> None:
        """Take back the replacements in whose midst a controller has died."""
        with contextlib.suppress(Unavailable):  # this one stops, too
            await self._recovered()
            async with self._core.lock:
                for ref in dict.fromkeys(one.wanted.ref for one in self._core.state.instead):
                    await rolling.take_back(self._core, ref)

    async def _forget(self) -> None:
        """Archives that nobody needs are not kept here."""
        state = self._core.state
        needed = [*state.wanted, *(extra.wanted for extra in state.extras)]
        await self._models.forget_others(frozenset([*(one.archive.sha256 for one in needed), *self._awaited]))

    async def _upgrade(self, tell: Callable[[str], None]) -> None:
        if self._upgrading:
            raise Conflict("an upgrade is running already")
        self._upgrading = True
        try:
            await self._recovered()
            async with self._core.lock:
                await rolling.upgrade(self._core, tell)
        finally:
            self._upgrading = False


async def _lines(lines: asyncio.Queue[str], work: asyncio.Task[None]) -> AsyncIterator[str]:
    """The lines until the work ends. Raises what it raises."""
    while not (work.done() and lines.empty()):
        line = asyncio.ensure_future(lines.get())
        await asyncio.wait([line, work], return_when=asyncio.FIRST_COMPLETED)
        if line.done():
            yield line.result()
        else:
            line.cancel()
    await asyncio.shield(work)
