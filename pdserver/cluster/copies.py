"""What a node's server serves, made to be what a target says, by the server's management API."""

from __future__ import annotations

import asyncio
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from typing import NamedTuple

import psutil

from pdserver.cluster.archives import Archives
from pdserver.cluster.base import Placed
from pdserver.cluster.server_process import Refused, ServerProcess
from pdserver.errors import ArchiveUnusable, PdError, Unavailable
from pdserver.types import ModelRef

_LOADED_AT_A_TIME = 4
_AGAIN_SECONDS = 10.0
"""What can't be loaded is not tried again sooner, unless something else is wanted."""
_SERVER_SECONDS = 1.0
"""After this time, a server that has not answered is asked again, unless another one has begun."""
_NOT_THERE = 404


class Figures(NamedTuple):
    """Of a copy that is loaded."""

    memory_bytes: int
    """That its workers have for themselves."""
    sequences: bool
    contract: str = ""
    """As in `peers.base.Route`."""


class _Failure(NamedTuple):
    placed: Placed | None
    again_at: float


class _Lacking(Unavailable):
    """The node has not the archive."""


class Copies:
    """For each version, one task at most brings the server to what is wanted of it last."""

    def __init__(self, server: ServerProcess, archives: Archives) -> None:
        self._server = server
        self._archives = archives
        self._wanted: dict[ModelRef, Placed] = {}
        self._has: dict[ModelRef, Placed] = {}
        """What the server has registered."""
        self._tasks: dict[ModelRef, asyncio.Task[None]] = {}
        self._loading: dict[ModelRef, Placed] = {}
        self._interrupting: set[asyncio.Task[None]] = set()
        self._failures: dict[ModelRef, _Failure] = {}
        self._turns = asyncio.Semaphore(_LOADED_AT_A_TIME)
        self._of_name: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)
        self._moved = asyncio.Condition()
        """Told whenever what is wanted, what the server has or why it can't have it is not as before."""
        self.problems: dict[ModelRef, str] = {}
        """Why versions are not what they are to be."""
        self.figures: Mapping[ModelRef, Figures] = {}
        """As they were at the last `measure`."""

    def known(self) -> list[ModelRef]:
        """The versions that are wanted, and those that are not quite gone."""
        return sorted(self._wanted.keys() | self._tasks.keys(), key=str)

    def has(self, ref: ModelRef) -> bool:
        """Whether the server has what is wanted of the version, and not another archive or handler."""
        has, wanted = self._has.get(ref), self._wanted.get(ref)
        return has is not None and wanted is not None and not _is_loaded_anew(has, wanted)

    def sha256(self, ref: ModelRef) -> str:
        """Of the archive that the server has; "" for none."""
        return self._has[ref].archive.sha256 if ref in self._has else ""

    def is_changing(self, ref: ModelRef) -> bool:
        """Whether the version, or one that it asks, is being loaded or ended."""
        wanted = self._wanted.get(ref)
        return any(each in self._tasks for each in (ref, *(wanted.needs if wanted else ())))

    def is_other(self, ref: ModelRef) -> bool:
        """Whether the server has something else by this name than what is wanted, and is to load that."""
        has, wanted = self._has.get(ref), self._wanted.get(ref)
        return has is not None and wanted is not None and _is_loaded_anew(has, wanted)

    async def close(self) -> None:
        """The server has ended, so it serves nothing. Nothing is wanted until the next `want`."""
        tasks = [*self._tasks.values(), *self._interrupting]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for kept in (self._wanted, self._has, self._loading, self._failures, self.problems):
            kept.clear()
        self.figures = {}

    async def want(self, wanted: Iterable[Placed]) -> None:
        """Have these served and nothing else. Returns when all that is to be done is begun, and the defaults that the
        server has are set. Raises Unavailable when the server does not answer."""
        self._wanted = {placed.ref: placed for placed in wanted}
        for ref in self._wanted.keys() | self._has.keys() | self._tasks.keys():
            self._wake(ref)
        await self._tell()
        await asyncio.gather(*(self._set_default(placed) for placed in self._wanted.values()))

    async def measure(self) -> None:
        """Update `figures`. Raises Unavailable."""
        found = {}
        for ref in list(self._has):
            try:
                [described] = await self._server.manage("GET", f"/models/{ref.name}/{ref.version}")
            except Refused:
                continue  # it has just gone
            pids = [worker["pid"] for worker in described["workers"] if worker["pid"]]
            memory_bytes = await asyncio.to_thread(_own_bytes, pids)
            found[ref] = Figures(memory_bytes, described["stateful"], described.get("contract", ""))
        self.figures = found

    def _wake(self, ref: ModelRef) -> None:
        wanted = self._wanted.get(ref)
        loading = self._loading.get(ref)
        if ref not in self._tasks:
            if self._needs_work(ref, wanted):
                self.problems.pop(ref, None)  # that of an attempt before
                self._tasks[ref] = asyncio.create_task(self._work(ref))
        elif loading is not None and (wanted is None or _is_loaded_anew(loading, wanted)):
            task = asyncio.create_task(self._interrupt(ref))
            self._interrupting.add(task)
            task.add_done_callback(self._interrupting.discard)

    def _needs_work(self, ref: ModelRef, wanted: Placed | None) -> bool:
        if self._has.get(ref) == wanted:
            return False
        failure = self._failures.get(ref)
        return failure is None or failure.placed != wanted or time.monotonic() >= failure.again_at

    async def _work(self, ref: ModelRef) -> None:
        """Until the server has what is wanted, or that can't be had."""
        try:
            while (wanted := self._wanted.get(ref)) != self._has.get(ref):
                try:
                    await self._step(ref, wanted)
                    self.problems.pop(ref, None)
                except (Refused, _Lacking, ArchiveUnusable) as error:
                    if wanted == self._wanted.get(ref):
                        self.problems[ref] = str(error)
                        wait_seconds = 0.0 if isinstance(error, _Lacking) else _AGAIN_SECONDS
                        self._failures[ref] = _Failure(wanted, time.monotonic() + wait_seconds)
                        break
                except Unavailable:  # the server's fault, not the copy's
                    await asyncio.sleep(_SERVER_SECONDS)
                await self._tell()
        finally:
            del self._tasks[ref]
            if ref not in self._wanted:
                self.problems.pop(ref, None)
        await self._tell()

    async def _tell(self) -> None:
        async with self._moved:
            self._moved.notify_all()

    async def _until(self, check: Callable[[], bool]) -> None:
        async with self._moved:
            await self._moved.wait_for(check)

    async def _step(self, ref: ModelRef, wanted: Placed | None) -> None:
        has = self._has.get(ref)
        if has is not None and (wanted is None or _is_loaded_anew(has, wanted)):
            await self._end(ref)
        elif wanted is not None and has is not None:
            await self._change(has, wanted)
        elif wanted is not None:
            self._loading[ref] = wanted
            try:
                await self._until(lambda: self._wanted.get(ref) != wanted or self._has_what_it_asks(wanted))
                await self._load(wanted)
            finally:
                self._loading.pop(ref, None)
            await self._set_default(wanted)

    def _has_what_it_asks(self, placed: Placed) -> bool:
        """Raises _Lacking when that can't be had."""
        for ref in placed.needs:
            if ref in self.problems or ref not in self._wanted:
                raise _Lacking(
                    f"it asks {ref}, which is not served here: {self.problems.get(ref, 'it was not placed')}"
                )
        return all(map(self.has, placed.needs))

    async def _load(self, placed: Placed) -> None:
        ref, archive = placed.ref, placed.archive
        async with self._turns:
            if self._wanted.get(ref) != placed:
                return
            if not self._archives.has(archive):
                raise _Lacking(f"the node lacks the archive {archive.file} (sha256 {archive.sha256})")
            given = {"url": self._archives.name(archive), "sha256": archive.sha256, "model_name": ref.name}
            given |= {"handler": placed.handler} if placed.handler else {}
            given |= {} if placed.workers is None else {"initial_workers": str(placed.workers)}
            try:
                await self._server.manage("POST", "/models", **placed.settings, **given, synchronous="true")
            except Refused:
                if not await self._archives.is_sound(archive):
                    raise _Lacking(f"the archive {archive.file} was damaged on the node's disk") from None
                raise
        self._has[ref] = placed

    async def _change(self, has: Placed, wanted: Placed) -> None:
        """What a copy can take while it runs."""
        ref = wanted.ref
        changed = {name: text for name, text in wanted.settings.items() if has.settings.get(name) != text}
        changed.pop("startup_timeout", None)  # it counts for workers that a later registration starts
        if wanted.workers is not None:
            changed |= {"min_worker": str(wanted.workers), "synchronous": "true"}
        if changed:
            await self._server.manage("PUT", f"/models/{ref.name}/{ref.version}", **changed)
        self._has[ref] = wanted
        await self._set_default(wanted)

    async def _set_default(self, placed: Placed) -> None:
        ref = placed.ref
        if placed.default and ref in self._has:
            async with self._of_name[ref.name]:
                if await self._default(ref.name) != ref.version:
                    await self._server.manage("PUT", f"/models/{ref.name}/{ref.version}/set-default")

    async def _end(self, ref: ModelRef) -> None:
        """After those that ask it, unless it is to be another archive."""
        await self._until(lambda: ref in self._wanted or all(ref not in other.needs for other in self._has.values()))
        wanted = self._wanted.get(ref)
        if wanted is not None and not _is_loaded_anew(self._has[ref], wanted):  # meanwhile
            return
        async with self._of_name[ref.name]:
            await self._hand_over(ref)
        await self._delete(ref)
        self._has.pop(ref, None)

    async def _interrupt(self, ref: ModelRef) -> None:
        """A registration that has begun fails then."""
        try:
            async with self._of_name[ref.name]:
                await self._hand_over(ref)
            await self._delete(ref)
        except PdError as error:
            self.problems[ref] = str(error)

    async def _delete(self, ref: ModelRef) -> None:
        try:
            await self._server.manage("DELETE", f"/models/{ref.name}/{ref.version}")
        except Refused as error:
            if error.status != _NOT_THERE:
                raise

    async def _hand_over(self, ref: ModelRef) -> None:
        """The server ends no default version while there are others: the wanted one that was there longest is the
        default then."""
        versions = await self._versions(ref.name)
        others = [version for version in versions if version != ref.version]
        others.sort(key=lambda version: ModelRef(ref.name, version) not in self._wanted)
        if others and ref.version in versions and await self._default(ref.name) == ref.version:
            await self._server.manage("PUT", f"/models/{ref.name}/{others[0]}/set-default")

    async def _versions(self, name: str) -> list[str]:
        try:
            return [each["modelVersion"] for each in await self._server.manage("GET", f"/models/{name}/all")]
        except Refused:
            return []

    async def _default(self, name: str) -> str:
        [described] = await self._server.manage("GET", f"/models/{name}")
        return str(described["modelVersion"])


def _is_loaded_anew(has: Placed, wanted: Placed) -> bool:
    """Whether a running copy can't take the change."""
    if (has.archive, has.handler) != (wanted.archive, wanted.handler):
        return True
    return bool(has.settings.keys() - wanted.settings.keys()) or (has.workers is not None and wanted.workers is None)


def _own_bytes(pids: Iterable[int]) -> int:
    """Memory of processes that no others have, too: workers share that of the process from which they were forked."""
    total = 0
    for pid in pids:
        try:
            total += psutil.Process(pid).memory_full_info().uss
        except psutil.Error:  # it has just ended
            continue
    return total
