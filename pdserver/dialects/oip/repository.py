"""Triton's model repository extension: which models there are, and loading and unloading them.

Whoever may ask for predictions may ask for this too, so loading and unloading are refused unless the operator has set
`model_control_mode=explicit`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Protocol
from weakref import WeakValueDictionary

import msgspec

from pdserver.dialects.oip.loading import Parameters
from pdserver.dialects.oip.models import in_order, is_ready
from pdserver.engine.changes import carried
from pdserver.engine.engine import Engine
from pdserver.engine.lifecycle import VersionState
from pdserver.engine.pool import Pool
from pdserver.errors import Conflict, InvalidRequest, LoadFailed, ModelNotFound, PdError, Unavailable, VersionNotFound
from pdserver.formats.values import nearest, shown
from pdserver.store.archives import SUFFIXES

EXPLICIT = "explicit"
_STATES = {VersionState.LOADING: "LOADING", VersionState.UNLOADING: "UNLOADING"}
"""Of versions that are not ready; the others are UNAVAILABLE."""
_UNLOAD = ("unload_dependents",)


class Entry(msgspec.Struct, frozen=True, omit_defaults=True):
    """One version of the index; a model that was never loaded has a name only."""

    name: str
    version: str = ""
    state: str = ""
    """READY, LOADING, UNLOADING or UNAVAILABLE."""
    reason: str = ""


class Repository(Protocol):
    """Where models come from."""

    async def index(self) -> list[Entry]:
        """Everything that is loaded or could be."""

    async def load(self, name: str, parameters: Parameters) -> None:
        """Returns when it is ready. Raises LoadFailed, InvalidRequest."""

    async def unload(self, name: str, parameters: Parameters) -> None:
        """All versions; returns when they are gone. Raises InvalidRequest."""

    def knows(self, name: str) -> bool:
        """Whether a version of it has been loaded, or should have been, be it there or not."""


class Control:
    """The extension's verbs, as far as the operator allows them."""

    def __init__(self, repository: Repository, mode: str) -> None:
        self._repository = repository
        self._mode = mode

    async def index(self, *, ready: bool = False) -> list[Entry]:
        """All entries, or those that are ready."""
        entries = await self._repository.index()
        return [entry for entry in entries if entry.state == "READY"] if ready else entries

    async def load(self, name: str, parameters: Parameters) -> None:
        """Raises Unavailable when it is not allowed, and as Repository.load does."""
        self.check_allowed()
        await self._repository.load(name, parameters)

    async def unload(self, name: str, parameters: Parameters) -> None:
        """Raises Unavailable when it is not allowed, and as Repository.unload does."""
        self.check_allowed()
        for key, value in parameters.items():
            if key not in _UNLOAD or not isinstance(value, bool):
                raise InvalidRequest(
                    f"unload parameter '{shown(key)}' is {shown(value)}{nearest(key, _UNLOAD)}: expected "
                    "unload_dependents, true or false"
                )
        await self._repository.unload(name, parameters)

    def knows(self, name: str) -> bool:
        """As Repository has it."""
        return self._repository.knows(name)

    def check_allowed(self) -> None:
        """Raises Unavailable when loading and unloading are not."""
        if self._mode != EXPLICIT:
            raise Unavailable(
                "explicit model load / unload is not allowed if polling is enabled, or if the server loads its models "
                f"at its start alone (model_control_mode={self._mode}): set model_control_mode={EXPLICIT}"
            )


class StoreRepository:
    """The engine's models, and the archives of the model store. `names` lists these; it may block."""

    def __init__(self, engine: Engine, names: Callable[[], list[str]]) -> None:
        self.changes = engine.changes
        self._engine = engine
        self._names = names
        self._locks: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
        """By name: a model is loaded and unloaded by one call after the other."""
        self._tried: set[str] = set()
        """Models that have been loaded or unloaded, or should have been."""

    async def index(self) -> list[Entry]:
        pools = in_order(self._engine.registry.pools())
        archives = await asyncio.to_thread(self._names)
        known = {pool.spec.url for pool in pools}
        problems = self._engine.health().problems
        others = (_entry_of_archive(url, problems.get(url, "")) for url in archives if url not in known)
        return [*map(entry_of, pools), *others]

    @carried
    async def load(self, name: str, parameters: Parameters) -> None:
        """The archive of this name, or, once more, the one that the model came from: a new version in it takes over,
        the same version goes on as it is, with a worker if it has none."""
        if parameters:
            raise InvalidRequest(
                f"failed to load '{shown(name)}', load parameter '{shown(next(iter(parameters)))}': an archive of the "
                "model store is loaded with the settings in it; leave the parameters out"
            )
        async with self._lock(name):
            url = await self._archive(name)
            self._tried.add(name)
            try:
                await self._load(name, url)
            except PdError as error:
                raise LoadFailed(f"failed to load '{name}', no version is available: {error}") from None
        await self._engine.keep()  # the protocol has no words for it when this fails, but the log has

    async def _load(self, name: str, url: str) -> None:
        engine = self._engine
        try:
            spec = await engine.register(url, name=name, synchronous=True)
        except Conflict:
            pool = engine.registry.resolve(name, None)
            await engine.scale(name, None, max(1, pool.min_workers), synchronous=True)
            return
        engine.registry.set_default(spec.name, spec.version)
        for pool in list(engine.registry.model(name).versions.values()):
            if pool.spec.url == url and pool.spec.version != spec.version:
                await engine.unregister(name, pool.spec.version)

    @carried
    async def unload(self, name: str, parameters: Parameters) -> None:
        engine = self._engine
        async with self._lock(name):
            try:
                model = engine.registry.model(name)
            except ModelNotFound:
                return  # as it should be
            self._tried.add(name)
            versions = [version for version in model.versions if version != model.default_version]
            for version in [*versions, model.default_version]:
                try:
                    await engine.unregister(name, version)
                except (ModelNotFound, VersionNotFound):
                    continue  # somebody else did
        await self._engine.keep()

    def knows(self, name: str) -> bool:
        return name in self._tried

    def _lock(self, name: str) -> asyncio.Lock:
        return self._locks.setdefault(name, asyncio.Lock())

    async def _archive(self, name: str) -> str:
        """The file name. Raises LoadFailed."""
        try:
            return self._engine.registry.model(name).default.spec.url
        except ModelNotFound:
            urls = {_stem(url): url for url in await asyncio.to_thread(self._names)}
        if name not in urls:
            raise LoadFailed(
                f"failed to load '{name}', failed to poll from model repository: no archive of the model store has "
                f"this name{nearest(name, urls)}"
            )
        return urls[name]


def entry_of(pool: Pool) -> Entry:
    """A loaded version's entry."""
    spec = pool.spec
    if is_ready(pool):
        return Entry(spec.name, spec.version, "READY")
    return Entry(spec.name, spec.version, _STATES.get(pool.state, "UNAVAILABLE"), pool.last_error)


def _entry_of_archive(url: str, problem: str) -> Entry:
    """One that is not loaded; `problem` says why, if it should be."""
    return Entry(_stem(url), "", "UNAVAILABLE", problem) if problem else Entry(_stem(url))


def _stem(url: str) -> str:
    return next((url.removesuffix(suffix) for suffix in SUFFIXES if url.endswith(suffix)), url)
