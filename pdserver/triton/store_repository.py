"""The archives of the model store, as a model repository of Triton's has its models: listed, loaded and unloaded."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from pdserver.dialects.oip.metadata import in_order
from pdserver.dialects.oip.repository import IndexEntry, LoadParameters
from pdserver.engine.catalogue import ServedVersion
from pdserver.engine.changes import carried
from pdserver.engine.engine import Engine
from pdserver.engine.lifecycle import VersionState
from pdserver.errors import Conflict, ModelNotFound, VersionNotFound
from pdserver.triton.archive_repository import ArchiveRepository, stem

_STATES = {VersionState.LOADING: "LOADING", VersionState.UNLOADING: "UNLOADING"}
"""Of versions that are not ready; the others are UNAVAILABLE."""


class StoreRepository(ArchiveRepository):
    """The engine's models, and the archives of the model store. `names` lists these; it may block."""

    def __init__(self, engine: Engine, names: Callable[[], list[str]]) -> None:
        super().__init__(names)
        self.changes = engine.changes
        self._engine = engine

    async def index(self) -> list[IndexEntry]:
        served = in_order(self._engine.catalogue.versions())
        archives = await asyncio.to_thread(self._names)
        known = {each.spec.url for each in served}
        problems = self._engine.catalogue.health().problems
        others = (_entry_of_archive(url, problems.get(url, "")) for url in archives if url not in known)
        return [*map(entry_of, served), *others]

    @carried
    async def load(self, name: str, parameters: LoadParameters) -> None:
        await super().load(name, parameters)
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

    def _url_of_default(self, name: str) -> str | None:
        try:
            return self._engine.catalogue.model(name).default.spec.url
        except ModelNotFound:
            return None


def entry_of(served: ServedVersion) -> IndexEntry:
    """A loaded version's entry."""
    spec = served.spec
    if served.is_ready:
        return IndexEntry(spec.name, spec.version, "READY")
    return IndexEntry(spec.name, spec.version, _STATES.get(served.state, "UNAVAILABLE"), served.last_error)


def _entry_of_archive(url: str, problem: str) -> IndexEntry:
    """One that is not loaded; `problem` says why, if it should be."""
    return IndexEntry(stem(url), "", "UNAVAILABLE", problem) if problem else IndexEntry(stem(url))
