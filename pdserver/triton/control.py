"""Loads and unloads the models of a repository.

A serving version whose files and configuration have not changed is left alone. When a version is loaded again, the old
one serves until its successor is ready. The highest ready version is a model's default.
"""

from __future__ import annotations

import asyncio
import contextlib
from pathlib import Path

from pdserver.dialects.oip.repository import IndexEntry, LoadParameters, Repository
from pdserver.engine.changes import carried
from pdserver.engine.engine import Engine
from pdserver.errors import ConfigError, Forbidden, InvalidRequest, LoadFailed, ModelNotFound, PdError
from pdserver.formats.values import shown
from pdserver.security.models import check_files
from pdserver.triton import overrides
from pdserver.triton.folders import DUPLICATE, Folders
from pdserver.triton.model_folder import ModelFolder
from pdserver.triton.store_repository import entry_of
from pdserver.types import ModelRef

_LOADS_AT_ONCE = 4


class _Model:
    """The versions of one name. Only the holder of the lock changes them."""

    def __init__(self) -> None:
        self.lock = asyncio.Lock()
        self.folders: dict[str, ModelFolder] = {}
        """The folders of the versions that were loaded last."""
        self.states: dict[str, IndexEntry] = {}
        """The states of versions that are not registered: loading, unloading, or why they failed."""
        self.private: list[ModelFolder] = []
        """Folders that calls have brought along and some version may still need."""


class ModelControl:
    """A Repository of the models in `folders`. It passes calls for other names to `others`.

    Files that a call brings along are kept in the folder `private`. With `allow_unsafe`, such models may do more than
    compute.
    """

    def __init__(
        self, engine: Engine, folders: Folders, others: Repository, private: Path, *, allow_unsafe: bool
    ) -> None:
        self.changes = engine.changes
        self._engine = engine
        self._folders = folders
        self._others = others
        self._private = private
        self._allow_unsafe = allow_unsafe
        self._models: dict[str, _Model] = {}
        self._loads = asyncio.Semaphore(_LOADS_AT_ONCE)

    async def index(self) -> list[IndexEntry]:
        """All models and their states. Raises Unavailable if the repository can't be read."""
        models = await asyncio.to_thread(self._folders.models)
        names = {*models, *self._models}
        own = [entry for name in sorted(names) for entry in self._entries(name, twice=len(models.get(name, ())) > 1)]
        return own + [entry for entry in await self._others.index() if entry.name not in names]

    def _entries(self, name: str, *, twice: bool) -> list[IndexEntry]:
        found: dict[str, IndexEntry] = dict(self._models[name].states) if name in self._models else {}
        problem = found.pop("", IndexEntry(name))
        try:
            served = self._engine.catalogue.model(name).versions
            found |= {version: entry_of(each) for version, each in served.items()}
        except ModelNotFound:
            if twice:
                return [IndexEntry(name, "", "UNAVAILABLE", DUPLICATE)]
        return [found[version] for version in sorted(found, key=lambda version: (len(version), version))] or [problem]

    @carried
    async def load(self, name: str, parameters: LoadParameters) -> None:
        """Load the versions that the model's configuration asks for, and unload the others.

        Raises LoadFailed, with what failed and why, if not all of them serve then; InvalidRequest, ConfigError for the
        parameters; Forbidden for files that may not come over the network.
        """
        try:
            given = overrides.parse(name, parameters)
            if given.files and not self._allow_unsafe:
                await asyncio.to_thread(check_files, given.files)
        except (InvalidRequest, ConfigError, Forbidden) as error:
            raise type(error)(f"failed to load '{shown(name)}', {error}") from None
        if not given.files and given.config is None and name not in await asyncio.to_thread(self._folders.models):
            return await self._others.load(name, parameters)
        try:
            if given.files:
                folder = await asyncio.to_thread(overrides.write, name, given, self._private)
            else:
                folder = await asyncio.to_thread(self._folders.find, name, given.config)
        except LoadFailed as error:
            raise self.unreadable(name, str(error)) from None
        await self._take_in(folder)

    def unreadable(self, name: str, reason: str) -> LoadFailed:
        """The error for a folder that is no model. The index shows it from now on."""
        self._models.setdefault(name, _Model()).states[""] = IndexEntry(name, "", "UNAVAILABLE", reason)
        return LoadFailed(f"failed to load '{name}', {reason}")

    async def admit(self, folder: ModelFolder) -> None:
        """Load a model whose folder has been read. Raises LoadFailed."""
        await self.changes.carry(self._take_in(folder), f"load {folder.name}")

    async def _take_in(self, folder: ModelFolder) -> None:
        name = folder.name
        model = self._models.setdefault(name, _Model())
        async with model.lock:
            model.states.pop("", None)
            if folder.private:
                model.private.append(folder)
            results = await asyncio.gather(*(self._load(model, folder, version) for version in folder.versions))
            failures = {version: reason for version, reason in zip(folder.versions, results, strict=True) if reason}
            if len(failures) < len(folder.versions):
                await self._settle(model, folder)
            await self._forget_private(model)
        if failures:
            reasons = "; ".join(
                f"version {version} is at UNAVAILABLE state: {reason}" for version, reason in failures.items()
            )
            raise LoadFailed(f"failed to load '{name}', {reasons}")

    async def _load(self, model: _Model, folder: ModelFolder, version: str) -> str:
        """Make one version serve what its folder contains now. Returns why it can't, or ""."""
        name = folder.name
        before = model.folders.get(version) if self._serves(ModelRef(name, version)) else None
        try:
            workers = folder.workers_alone(before, version) if before else None
            if workers is None:
                model.states[version] = IndexEntry(name, version, "LOADING")
                async with self._loads:
                    await self._engine.register(folder.url(version), source=folder, synchronous=True, replace=True)
            else:
                serving = self._engine.catalogue.resolve(name, version).spec
                self._engine.change_manifest(serving.ref, folder.described(serving.manifest))
                if workers:
                    await self._engine.scale(name, version, workers, synchronous=True)
        except PdError as error:
            reason = folder.told(error)
            model.states[version] = IndexEntry(name, version, "UNAVAILABLE", reason)
            return reason
        model.states.pop(version, None)
        model.folders[version] = folder
        return ""

    def _serves(self, ref: ModelRef) -> bool:
        catalogue = self._engine.catalogue
        return catalogue.has(ref) and catalogue.resolve(ref.name, ref.version).is_ready

    async def _settle(self, model: _Model, folder: ModelFolder) -> None:
        """Make the highest version the default, and unload those that are not wanted."""
        catalogue = self._engine.catalogue
        serving = [version for version in folder.versions if catalogue.has(ModelRef(folder.name, version))]
        if serving:
            self._engine.set_default(folder.name, max(serving, key=int))
        for version in model.folders.keys() - folder.versions.keys():
            await self._end(model, folder.name, version)

    async def _end(self, model: _Model, name: str, version: str) -> None:
        model.states[version] = IndexEntry(name, version, "UNLOADING")
        with contextlib.suppress(PdError):  # somebody else has unloaded it
            await self._engine.unregister(name, version)
        model.states[version] = IndexEntry(name, version, "UNAVAILABLE", "unloaded")
        model.folders.pop(version, None)

    async def _forget_private(self, model: _Model) -> None:
        for folder in [folder for folder in model.private if folder not in model.folders.values()]:
            model.private.remove(folder)
            await asyncio.to_thread(overrides.discard, folder)

    @carried
    async def unload(self, name: str, parameters: LoadParameters) -> None:
        """Unload all versions. Returns when their requests are answered."""
        model = self._models.get(name)
        if model is None:
            return await self._others.unload(name, parameters)
        async with model.lock:
            versions = list(model.folders)
            with contextlib.suppress(ModelNotFound):
                default = self._engine.catalogue.model(name).default_version
                versions.sort(key=lambda version: version == default)  # the default is unloaded last
            for version in versions:
                await self._end(model, name, version)
            await self._forget_private(model)

    def knows(self, name: str) -> bool:
        tried = self._models[name].states if name in self._models else ()
        return any(tried) or self._others.knows(name)  # "" stands for a folder that was no model
