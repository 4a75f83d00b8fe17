"""Triton's model repository extension for a cluster: what one server loads and unloads, the controller does."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Sequence

from pdserver.cluster.base import ClusterView, ModelView
from pdserver.cluster.controller import Controller
from pdserver.cluster.describe import problems_of, status_of
from pdserver.dialects.codec import Given, Result, Work
from pdserver.dialects.oip.repository import IndexEntry, LoadParameters
from pdserver.errors import Conflict, ModelNotFound, PdError, VersionNotFound
from pdserver.formats.values import listed, shown
from pdserver.memory_file import Buffer, MemoryFile
from pdserver.triton.archive_repository import ArchiveRepository, refuse, stem

_STATES = {"READY": "READY", "DEGRADED": "READY", "LOADING": "LOADING"}
"""Of versions, by how the cluster describes them; the others are UNAVAILABLE."""
_GONE = (ModelNotFound, VersionNotFound)
"""When somebody else has unregistered a version meanwhile."""


class ClusterRepository(ArchiveRepository):
    """A `Repository`: the models of the cluster, and the archives of its store. `names` lists these; it may block."""

    def __init__(self, controller: Controller, names: Callable[[], list[str]]) -> None:
        super().__init__(names)
        self._controller = controller

    async def index(self) -> list[IndexEntry]:
        view = self._controller.view()
        served = sorted(view.models, key=lambda model: (model.wanted.ref.name, model.wanted.ref.version))
        urls = {model.wanted.url for model in served}
        others = [url for url in await asyncio.to_thread(self._names) if url not in urls]
        return [*map(_entry, served), *(IndexEntry(stem(url)) for url in others)]

    async def _load(self, name: str, url: str) -> None:
        """What is there already is waited for. Versions that a pipeline asks by their number stay."""
        controller = self._controller
        try:
            ref = (await controller.register(url, name=name, synchronous=True)).ref
        except Conflict:
            for model in self._versions(name):
                if model.wanted.default and not any(copy.ready for copy in model.copies):
                    workers = 1 if model.wanted.workers == 0 else None
                    await controller.scale(name, workers=workers, synchronous=True)
            return
        try:
            await controller.set_default(ref.name, ref.version)
        except PdError:  # a node of a pipeline that asks the default version can't serve it
            with contextlib.suppress(PdError):
                await controller.unregister(ref.name, ref.version)
            raise
        for model in self._versions(name):
            if model.wanted.url == url and model.wanted.ref != ref:
                with contextlib.suppress(Conflict, *_GONE):
                    await controller.unregister(name, model.wanted.ref.version)

    async def unload(self, name: str, parameters: LoadParameters) -> None:
        async with self._lock(name):
            versions = sorted(self._versions(name), key=lambda model: model.wanted.default)
            if asking := {str(user) for model in versions for user in model.asked_by}:
                raise Conflict(f"{shown(name)} is asked by {listed(sorted(asking))}: unload that first")
            if versions:
                self._tried.add(name)
            for model in versions:
                with contextlib.suppress(*_GONE):
                    await self._controller.unregister(name, model.wanted.ref.version)

    def _versions(self, name: str) -> Sequence[ModelView]:
        view: ClusterView = self._controller.view()
        return [model for model in view.models if model.wanted.ref.name == name]

    def _url_of_default(self, name: str) -> str | None:
        return next((model.wanted.url for model in self._versions(name) if model.wanted.default), None)


class NoFiles:
    """A `Codec` for calls that load a model: those that are large bring files, which a cluster does not take."""

    async def run(
        self, work: Work[Given, Result], given: Given, files: Sequence[MemoryFile], weight: int = 0
    ) -> tuple[Result, list[MemoryFile]]:
        refuse("", "file")

    async def filed(self, pieces: Sequence[Buffer]) -> MemoryFile:
        refuse("", "file")


def _entry(model: ModelView) -> IndexEntry:
    ref = model.wanted.ref
    state = _STATES.get(status_of(model), "UNAVAILABLE")
    reason = "" if state == "READY" else next(iter(problems_of(model)), "")
    return IndexEntry(ref.name, ref.version, state, reason)
