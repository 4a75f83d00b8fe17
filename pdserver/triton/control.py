"""Loads and unloads the models of a repository.

A serving version whose files and configuration have not changed is left alone. When a version is loaded again, the old
one serves until its successor is ready. The highest ready version is a model's default.

An ensemble serves while the models of its steps do. A call that loads it loads them first. When one of them is loaded
or unloaded later, the ensembles that use it are looked at again.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType

from pdserver.dialects.oip.repository import IndexEntry, LoadParameters, Repository
from pdserver.engine.changes import carried
from pdserver.engine.engine import Engine
from pdserver.errors import ConfigError, Forbidden, InvalidRequest, LoadFailed, ModelNotFound, PdError, VersionNotFound
from pdserver.formats.values import shown
from pdserver.security.models import check_files
from pdserver.triton import overrides
from pdserver.triton.ensembles import LATEST, Member, Members, models_of
from pdserver.triton.folders import DUPLICATE, Folders
from pdserver.triton.model_folder import ModelFolder
from pdserver.triton.store_repository import entry_of
from pdserver.types import ModelRef

_log = logging.getLogger("pdserver.triton")
_LOADS_AT_ONCE = 4
_NOTHING: Mapping[str, str] = MappingProxyType({})


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
        self.ensemble: ModelFolder | None = None
        """Of an ensemble that is wanted, whether it can be served now or not."""


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
        self._asked: set[str] = set()
        """Names that calls have loaded."""
        self._needed: set[str] = set()
        """Names that were loaded for an ensemble."""
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
            await self._others.load(name, parameters)
            self._asked.add(name)
            return await self._look_again(name)
        try:
            if given.files:
                folder = await asyncio.to_thread(overrides.write, name, given, self._private, self._folders.store)
            else:
                folder = await asyncio.to_thread(self._folders.find, name, given.config)
        except LoadFailed as error:
            raise self.unreadable(name, str(error)) from None
        self._asked.add(name)
        await self._take_in(folder, await self._load_models(folder, (name,)))

    async def _load_models(self, folder: ModelFolder, chain: tuple[str, ...]) -> dict[str, str]:
        """Load the models of an ensemble's steps, and of theirs. `chain` are the ensembles on the way to it, and it.
        Returns those that can't be loaded, and why."""
        if not folder.is_ensemble:
            return {}
        names = list(dict.fromkeys(name for name, _ in models_of(folder.config)))
        problems = await asyncio.gather(*(self._load_model(name, chain) for name in names))
        return {name: problem for name, problem in zip(names, problems, strict=True) if problem}

    async def _load_model(self, name: str, chain: tuple[str, ...]) -> str:
        """Returns why it can't be loaded, or ""."""
        if name in chain:
            return f"circular dependency between ensembles: {' -> '.join((*chain, name))}"
        served = self._is_served(name)
        try:
            if name in self._models and self._models[name].private:
                return ""  # what a call has brought is meant
            if name in await asyncio.to_thread(self._folders.models):
                folder = await asyncio.to_thread(self._folders.find, name)
                await self._take_in(folder, await self._load_models(folder, (*chain, name)))
            elif not served:
                await self._others.load(name, {})
        except PdError as error:
            return str(error)
        if not served:
            self._needed.add(name)
        return ""

    def _is_served(self, name: str) -> bool:
        with contextlib.suppress(ModelNotFound):
            return self._engine.catalogue.model(name).default.is_ready
        return False

    def unreadable(self, name: str, reason: str) -> LoadFailed:
        """The error for a folder that is no model. The index shows it from now on."""
        self._models.setdefault(name, _Model()).states[""] = IndexEntry(name, "", "UNAVAILABLE", reason)
        return LoadFailed(f"failed to load '{name}', {reason}")

    async def admit(self, folder: ModelFolder) -> None:
        """Load a model whose folder has been read. Raises LoadFailed."""
        await self.changes.carry(self._take_in(folder), f"load {folder.name}")

    async def _take_in(
        self, folder: ModelFolder, missing: Mapping[str, str] = _NOTHING, *, again: bool = False
    ) -> None:
        """`missing` are models of an ensemble that can't be loaded, and why. `again`: it was wanted before, and nothing
        is done if it is not any more."""
        name = folder.name
        model = self._models.setdefault(name, _Model())
        async with model.lock:
            if again and model.ensemble is not folder:
                return
            before = dict(model.folders)
            model.states.pop("", None)
            model.ensemble = folder if folder.is_ensemble else None
            if folder.private and folder not in model.private:
                model.private.append(folder)
            loads = (self._load(model, folder, version, missing) for version in folder.versions)
            results = await asyncio.gather(*loads)
            failures = {version: reason for version, reason in zip(folder.versions, results, strict=True) if reason}
            if len(failures) < len(folder.versions):
                await self._settle(model, folder)
            await self._forget_private(model)
            changed = model.folders != before
        if changed:
            await self._look_again(name)
        if failures:
            reasons = "; ".join(
                f"version {version} is at UNAVAILABLE state: {reason}" for version, reason in failures.items()
            )
            raise LoadFailed(f"failed to load '{name}', {reasons}")

    async def _load(self, model: _Model, folder: ModelFolder, version: str, missing: Mapping[str, str]) -> str:
        """Make one version serve what its folder contains now. Returns why it can't, or ""."""
        name = folder.name
        before = model.folders.get(version) if self._serves(ModelRef(name, version)) else None
        try:
            if folder.is_ensemble:
                folder = replace(folder, members=self._members(folder, missing))
                before = before if before and before.members == folder.members else None
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
            if folder.is_ensemble and folder == model.folders.get(version):  # it is its models that have changed
                await self._end(model, name, version)
            model.states[version] = IndexEntry(name, version, "UNAVAILABLE", reason)
            return reason
        model.states.pop(version, None)
        model.folders[version] = folder
        return ""

    def _members(self, folder: ModelFolder, missing: Mapping[str, str]) -> Members:
        """The models of an ensemble's steps, as they are served now. Raises LoadFailed."""
        members: dict[tuple[str, int], Member] = {}
        for name, version in models_of(folder.config):
            at = f"ensemble '{folder.name}' depends on '{shown(name)}'"
            try:
                served = self._engine.catalogue.resolve(name, None if version == LATEST else str(version))
            except VersionNotFound:
                raise LoadFailed(f"{at} whose required version {version} is not loaded") from None
            except ModelNotFound:
                served = None
            if served is None or served.interface is None:
                why = f". Model '{name}' loading failed with error: {missing[name]}" if name in missing else ""
                raise LoadFailed(f"{at} which has no loaded version{why}")
            spec, interface = served.spec, served.interface
            most = spec.batch_size if interface.batched else 0
            members[name, version] = Member(interface, most, bool(spec.sequence_batching))
        return members

    async def _look_again(self, name: str) -> None:
        """After a change of a model: load the ensembles that use it, or end those that can't be served any more."""
        for model in list(self._models.values()):
            folder = model.ensemble
            if folder is not None and name in dict(models_of(folder.config)):
                try:
                    await self._take_in(folder, again=True)
                except PdError as error:
                    _log.error("%s", error)

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
        needed = [*model.folders.values(), model.ensemble]
        for folder in [folder for folder in model.private if folder not in needed]:
            model.private.remove(folder)
            await asyncio.to_thread(overrides.discard, folder)

    @carried
    async def unload(self, name: str, parameters: LoadParameters) -> None:
        """Unload all versions. Returns when their requests are answered.

        Ensembles that use the model can't be served without it. With `unload_dependents`, models that were loaded for
        this one alone are unloaded, too.
        """
        model = self._models.get(name)
        self._asked.discard(name)
        self._needed.discard(name)
        if model is None:
            await self._others.unload(name, parameters)
            return await self._look_again(name)
        folder, model.ensemble = model.ensemble, None
        async with model.lock:
            versions = list(model.folders)
            with contextlib.suppress(ModelNotFound):
                default = self._engine.catalogue.model(name).default_version
                versions.sort(key=lambda version: version == default)  # the default is unloaded last
            for version in versions:
                await self._end(model, name, version)
            await self._forget_private(model)
        await self._look_again(name)
        if folder is not None and parameters.get("unload_dependents"):
            for other in dict(models_of(folder.config)):
                if other in self._needed and other not in self._asked and not self._is_used(other):
                    await self.unload(other, parameters)

    def _is_used(self, name: str) -> bool:
        folders = [model.ensemble for model in self._models.values() if model.ensemble is not None]
        return any(name in dict(models_of(folder.config)) for folder in folders)

    def known(self) -> frozenset[str]:
        tried = (name for name, model in self._models.items() if any(model.states))
        return self._others.known().union(tried)  # the version "" stands for a folder that was no model
