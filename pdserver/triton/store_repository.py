"""The archives of the model store, as a model repository of Triton's has its models: listed, loaded and unloaded."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from weakref import WeakValueDictionary

from pdserver.dialects.oip.metadata import in_order
from pdserver.dialects.oip.repository import IndexEntry, LoadParameters
from pdserver.engine.catalogue import ServedVersion
from pdserver.engine.changes import carried
from pdserver.engine.engine import Engine
from pdserver.engine.lifecycle import VersionState
from pdserver.errors import Conflict, InvalidRequest, LoadFailed, ModelNotFound, PdError, VersionNotFound
from pdserver.formats.values import nearest, shown
from pdserver.store.model import SUFFIXES

_STATES = {VersionState.LOADING: "LOADING", VersionState.UNLOADING: "UNLOADING"}
"""Of versions that are not ready; the others are UNAVAILABLE."""


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

    async def index(self) -> list[IndexEntry]:
        served = in_order(self._engine.catalogue.versions())
        archives = await asyncio.to_thread(self._names)
        known = {each.spec.url for each in served}
        problems = self._engine.catalogue.health().problems
        others = (_entry_of_archive(url, problems.get(url, "")) for url in archives if url not in known)
        return [*map(entry_of, served), *others]

    @carried
    async def load(self, name: str, parameters: LoadParameters) -> None:
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
            workers = engine.catalogue.resolve(name, None).min_workers
            await engine.scale(name, None, max(1, workers), synchronous=True)
            return
        engine.set_default(spec.name, spec.version)
        for served in engine.catalogue.model(name).versions.values():
            if served.spec.url == url and served.spec.version != spec.version:
                await engine.unregister(name, served.spec.version)

    @carried
    async def unload(self, name: str, parameters: LoadParameters) -> None:
        engine = self._engine
        async with self._lock(name):
            try:
                model = engine.catalogue.model(name)
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

    def known(self) -> frozenset[str]:
        return frozenset(self._tried)

    def _lock(self, name: str) -> asyncio.Lock:
        return self._locks.setdefault(name, asyncio.Lock())

    async def _archive(self, name: str) -> str:
        """The file name. Raises LoadFailed."""
        try:
            return self._engine.catalogue.model(name).default.spec.url
        except ModelNotFound:
            urls = {stem(url): url for url in await asyncio.to_thread(self._names)}
        if name not in urls:
            raise LoadFailed(
                f"failed to load '{name}', failed to poll from model repository: no archive of the model store has "
                f"this name{nearest(name, urls)}"
            )
        return urls[name]


def entry_of(served: ServedVersion) -> IndexEntry:
    """A loaded version's entry."""
    spec = served.spec
    if served.is_ready:
        return IndexEntry(spec.name, spec.version, "READY")
    return IndexEntry(spec.name, spec.version, _STATES.get(served.state, "UNAVAILABLE"), served.last_error)


def _entry_of_archive(url: str, problem: str) -> IndexEntry:
    """One that is not loaded; `problem` says why, if it should be."""
    return IndexEntry(stem(url), "", "UNAVAILABLE", problem) if problem else IndexEntry(stem(url))


def stem(url: str) -> str:
    """The name of an archive's file without the suffix."""
    return next((url.removesuffix(suffix) for suffix in SUFFIXES if url.endswith(suffix)), url)
