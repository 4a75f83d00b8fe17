"""The core's verbs: what the dialects, the management API and the start-up can ask for."""

from __future__ import annotations

import asyncio
import contextlib
import hmac
import logging
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

import msgspec

from pdserver.backends.base import Backend
from pdserver.configuration.model import MODEL_SETTINGS, ModelSpec, PartialSettings
from pdserver.configuration.models_to_load import ModelToLoad
from pdserver.engine.catalogue import Catalogue
from pdserver.engine.changes import Changes, carried
from pdserver.engine.making import Maker
from pdserver.engine.missing import Missing
from pdserver.engine.pipeline.elsewhere import Elsewhere
from pdserver.engine.queue import Call, ask
from pdserver.engine.registry import Registry
from pdserver.engine.response_cache import ResponseCache
from pdserver.engine.served import Details, Served
from pdserver.engine.specs import Specs, check_model_name
from pdserver.engine.start import Start
from pdserver.errors import (
    Conflict,
    Forbidden,
    InvalidRequest,
    LoadFailed,
    ModelNotFound,
    PdError,
    Unavailable,
    VersionNotFound,
)
from pdserver.memory_file import MemoryFile
from pdserver.metrics.counters import Totals
from pdserver.metrics.registry import Metrics
from pdserver.store.archives import Store
from pdserver.store.downloads import Downloads
from pdserver.store.environments import Environments
from pdserver.store.model import Source, StoredModel
from pdserver.types import ModelRef, Outcome, Request, SequenceHeaders

_log = logging.getLogger("pdserver.engine")
_LATE_SECONDS = 1.0
"""A codec process reads some 100 MB of numbers in this time."""


class Engine:
    """Owns the registry, and writes the catalogue. Every change goes through here, as a task of the engine's own.

    A caller may leave because its client did or its deadline passed: the change goes on to its end. Changes of the same
    version may overlap. Each takes effect at one moment, and a caller who still waits for workers gets a Conflict when
    another change has taken them away.
    """

    def __init__(
        self,
        store: Store,
        downloads: Downloads,
        backend: Backend,
        metrics: Metrics,
        *,
        models: Mapping[str, Mapping[str, PartialSettings]],
        defaults: PartialSettings,
        sequence_headers: SequenceHeaders = SequenceHeaders(),  # noqa: B008 (frozen)
        model_key: bytes = b"",
        trials: str = "",
        default_handler: str,
        environments: Environments,
        unregister_timeout_seconds: float,
        response_cache_bytes: int,
        elsewhere: Elsewhere | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`elsewhere` does for pipelines what takes long. `clock` gives monotonic seconds."""
        self.catalogue = Catalogue()
        self.changes = Changes()
        self.on_change: Callable[[], None] = lambda: None
        """Called after every change of what `wanted` gives."""
        self.keep: Callable[[], Awaitable[str]] = _kept
        """Wait until a snapshot of what is served is on the disk, if there are any. Returns why it is not, or ""."""
        self._registry = Registry(self.catalogue, lambda: self.on_change())
        self._store = store
        self._downloads = downloads
        self._backend = backend
        self._metrics = metrics
        specs = Specs(models, defaults, default_handler, sequence_headers, model_key, trials)
        self._maker = Maker(
            store, downloads, backend, metrics, environments, specs, self.changes, self.catalogue, self._registry,
            ResponseCache(response_cache_bytes), elsewhere, clock,
        )  # fmt: skip
        self._key_lock = asyncio.Lock()
        self._unregister_timeout_seconds = unregister_timeout_seconds
        self._stored: dict[Served, tuple[Source, StoredModel]] = {}
        self._provisional: set[Served] = set()
        """Versions that are unregistered again if their workers can't load them."""
        self._late: dict[ModelRef, Served] = {}
        """Versions that are being unregistered, and still take requests that were read for them."""
        self._missing = Missing(self.catalogue)
        metrics.gauges(lambda: (each for served in self._registry.versions() for each in served.gauges()))

    def submit(self, call: Call) -> None:
        """Have a request answered; the outcome comes by `call.settle`. Raises PdError when it is refused."""
        request = call.request
        try:
            served = self._registry.asked(request.model, request.version)
        except VersionNotFound:
            late = self._late.get(ModelRef(request.model, request.version or ""))
            if late is None:
                raise
            served = late
        served.submit(call)

    def statistics(self, ref: ModelRef) -> Totals:
        """What a version has done since it was loaded. Raises ModelNotFound or VersionNotFound."""
        return self._registry.resolve(ref.name, ref.version).statistics()

    def details(self, ref: ModelRef) -> Details:
        """What operators see of a version, beside what the catalogue has. Raises ModelNotFound or VersionNotFound."""
        return self._registry.resolve(ref.name, ref.version).details()

    async def ask(self, request: Request, kept: Sequence[MemoryFile] = ()) -> Outcome:
        """`submit`, and wait for the outcome. Cancelling it gives the request up. `kept` are the request's files."""
        return await ask(self.submit, request, kept)

    @carried
    async def register(
        self,
        url: str,
        *,
        source: Source | None = None,
        name: str | None = None,
        version: str | None = None,
        handler: str | None = None,
        sha256: str | None = None,
        settings: PartialSettings | None = None,
        workers: int | None = None,
        synchronous: bool = False,
        replace: bool = False,
        claim: Callable[[ModelRef], Awaitable[None]] | None = None,
    ) -> ModelSpec:
        """Open a model, an archive unless another `source` has it, and start workers for it (`workers`; None: as many
        as its settings say).

        `url` names a file of the store, or is an allowed URL; its bytes must have the digest `sha256`. `synchronous`:
        return when the workers are ready, and unregister the version if they can't load it. `replace`: the same version
        may be registered already. It serves until the workers of the new one are ready, and is then unregistered.
        `claim` is called once name and version are known, and may raise Conflict.

        Raises InvalidRequest, Forbidden, ArchiveUnusable, LoadFailed, Unavailable. Raises Conflict when the version is
        registered already, is another one than `version`, or is unregistered before its workers are ready.
        """
        self.changes.check()
        if name is not None:
            check_model_name(name)
        source = source or self._store
        stored = await self._maker.opened(source, url, sha256)
        try:
            if version not in (None, stored.manifest.model_version):
                raise Conflict(f"{stored.url} holds version {stored.manifest.model_version}, not {version}")
            if claim is not None:
                await claim(ModelRef(name or stored.name, stored.manifest.model_version))
        except BaseException:
            await asyncio.to_thread(source.release, stored)
            raise
        served = await self._maker.served(source, stored, name, handler, settings, workers)
        self._stored[served] = (source, stored)
        spec = served.spec
        if replace and self._registry.has(spec.ref):
            await self._replace(served)
        else:
            await self._add(served, synchronous=synchronous)
        self._missing.forget((url, str(spec.ref), spec.name))
        self.on_change()
        return spec

    async def _add(self, served: Served, *, synchronous: bool) -> None:
        spec = served.spec
        try:
            self._registry.add(served)
        except PdError:
            await self._discard(served, drain_seconds=0)
            raise
        if synchronous:
            self._provisional.add(served)
        digest = self._stored[served][1].digest
        _log.info("registered %s from %s (sha256 %s), %d workers", spec.ref, spec.url, digest, spec.min_workers)
        self._warn_of_replaced_files(served)
        served.scale(spec.min_workers)
        if synchronous:
            try:
                await served.settled()
            except PdError:
                if self._registry.drop(served):  # else who has taken it out ends it
                    await self._discard(served, drain_seconds=0)
                raise
            finally:
                self._provisional.discard(served)

    def _warn_of_replaced_files(self, served: Served) -> None:
        """Warn of versions whose file is another archive now: a restart would not find them."""
        _, stored = self._stored[served]
        for other in self._registry.versions():
            source, before = self._stored[other]
            if source is self._store and before.url == stored.url and before.digest != stored.digest:
                _log.warning(
                    "%s was registered from %s, which holds %s now: a restart will miss it; keep each version"
                    " in a file of its own",
                    other.spec.ref, stored.url, served.spec.ref,
                )  # fmt: skip

    async def _replace(self, served: Served) -> None:
        """Replace what serves the same version by this, once its workers are ready."""
        ref = served.spec.ref
        served.scale(served.min_workers)
        try:
            await served.settled()
        except BaseException:
            await self._discard(served, drain_seconds=0)
            raise
        for own in (ref, *served.node_refs):
            self._metrics.model(own).begin()
        replaced = self._registry.put(served)
        _log.info("replaced %s by what %s has now", ref, served.spec.url)
        if replaced is not None:
            self.changes.begin(self._discard(replaced, self._unregister_timeout_seconds), f"end of {ref}")

    @carried
    async def use_key(self, *, key: bytes) -> None:
        """Use a key for encrypted models that name no file, and register what has been missing since the start.

        If a model can't be loaded with it, the key is forgotten. Raises Forbidden when another key is in use,
        InvalidRequest when this one does not fit, and what `register` raises.
        """
        async with self._key_lock:
            before = self._maker.specs
            if before.model_key:
                if not hmac.compare_digest(before.model_key, key):
                    raise Forbidden("another key is in use: restart the server to use this one")
                return
            self._maker.specs = msgspec.structs.replace(before, model_key=key)
            try:
                for model in list(self._missing):
                    await self._register_wanted(model, synchronous=True)
            except BaseException as error:
                self._maker.specs = before
                if isinstance(error, LoadFailed):
                    raise InvalidRequest(f"this key is not the models': {error}") from None
                raise

    async def _register_wanted(
        self,
        model: ModelToLoad,
        *,
        synchronous: bool = False,
        claim: Callable[[ModelRef], Awaitable[None]] | None = None,
    ) -> ModelSpec:
        """`register` what is wanted from the start."""
        return await self.register(
            model.url,
            name=model.name,
            version=model.version,
            handler=model.handler,
            sha256=model.sha256,
            settings=model.settings,
            synchronous=synchronous,
            claim=claim,
        )

    @carried
    async def unregister(self, name: str, version: str | None = None) -> None:
        """Take a version out and end its workers, after what they have was answered.

        One that could not be served from the start is not wanted any more. Raises ModelNotFound, VersionNotFound, and
        Forbidden for the default version while there are others.
        """
        try:
            served = self._registry.remove(name, version)
        except (ModelNotFound, VersionNotFound):
            keys = self._missing.named(name, version)
            if not keys:
                raise
            self._missing.forget(keys)
            self.on_change()
        else:
            leaving, view = self.catalogue.leaving, served.view()
            leaving[served.spec.ref] = view
            self.catalogue.on_change()
            try:
                if self._registry.knows(name):
                    await self._take_late(served)
                await self._discard(served, self._unregister_timeout_seconds)
            finally:
                if leaving.get(served.spec.ref) is view:
                    del leaving[served.spec.ref]
                    self.catalogue.on_change()

    async def _take_late(self, served: Served) -> None:
        """Requests that name no version are read for the default one, and large ones take a while. Those that were read
        for what is no default any more are taken for some time."""
        ref = served.spec.ref
        self._late[ref] = served
        with contextlib.suppress(Unavailable), self.changes.interruptible():
            await asyncio.sleep(_LATE_SECONDS)
        if self._late.get(ref) is served:
            del self._late[ref]

    async def _discard(self, served: Served, drain_seconds: float) -> None:
        await served.close(drain_seconds)
        source, stored = self._stored.pop(served)
        ref = served.spec.ref
        if all(other.spec.ref != ref for other in self._stored):  # else they are its successor's
            for own in (ref, *served.node_refs):
                self._metrics.forget(own)
        await asyncio.to_thread(source.release, stored)

    @carried
    async def scale(
        self,
        name: str,
        version: str | None,
        min_workers: int,
        max_workers: int | None = None,
        *,
        settings: PartialSettings | None = None,
        synchronous: bool = False,
    ) -> None:
        """Want so many workers, and `change` the settings; `max_workers`, when given, is the version's limit from now.
        Synchronous: when it is so. Raises InvalidRequest, LoadFailed, and Conflict when the version is unregistered
        before its workers are ready."""
        if max_workers is not None and max_workers < min_workers:
            raise InvalidRequest("max_worker cannot be less than min_worker.")
        served = self._registry.resolve(name, version)
        served.scale(min_workers, max_workers)
        served.change(settings or {})
        self.on_change()
        if synchronous:
            await served.settled()

    def change(self, name: str, version: str | None, settings: PartialSettings) -> None:
        """Give a version that runs another batch size, batch delay or response timeout, from its next batch on."""
        self._registry.resolve(name, version).change(settings)
        self.on_change()

    def change_manifest(self, ref: ModelRef, manifest: Mapping[str, Any]) -> None:
        """Give a version that runs another manifest, in which nothing that its workers read is different."""
        self._registry.resolve(ref.name, ref.version).change_manifest(manifest)
        self.on_change()

    def set_default(self, name: str, version: str) -> None:
        """At once. Raises ModelNotFound, VersionNotFound."""
        self._registry.set_default(name, version)

    def wanted(self) -> list[ModelToLoad]:
        """What `load_at_start` would have to be given for the same models to be served."""
        return [
            *(
                self._wanted(served, default=served is model.default)
                for model in self._registry
                for served in model.versions.values()
                if served not in self._provisional and self._stored[served][0] is self._store
            ),
            *(model for model in self._missing if model.version is not None),
        ]

    def _wanted(self, served: Served, *, default: bool) -> ModelToLoad:
        spec, view = served.spec, served.view()
        _, stored = self._stored[served]
        settings = {row.field: getattr(spec, row.field) for row in MODEL_SETTINGS.values() if row.parameter}
        settings |= {"min_workers": view.min_workers, "max_workers": view.max_workers}
        own_handler = stored.manifest.handler or self._maker.specs.default_handler
        return ModelToLoad(
            url=spec.url,
            name=spec.name,
            version=spec.version,
            handler=None if spec.handler == own_handler else spec.handler,
            settings={field: value for field, value in settings.items() if value is not None},
            sha256=stored.pin,
            default=default,
        )

    async def load_at_start(
        self, models: Sequence[ModelToLoad], on_progress: Callable[[str], None] = lambda _: None
    ) -> None:
        """Register them, side by side, and wait until each serves or has shown that it can't; `on_progress` is told of
        each.

        A broken one doesn't stop the others; the catalogue has it as missing. Which becomes the default: see `Start`.
        """
        await Start(models, self._register_wanted, self._registry, self._missing).run(on_progress)
        registered = {served.spec.ref for served in self._registry.versions()}
        for name, versions in self._maker.specs.models.items():
            for version in versions:
                if ModelRef(name, version) not in registered:
                    _log.warning(
                        "models in config.properties has settings for %s/%s, which is not loaded", name, version
                    )

    def miss(self, model: ModelToLoad, reason: str) -> None:
        """Note what is wanted and can't be served: the catalogue has it until it is registered, or unregistered."""
        self._missing.add(model, reason)

    def dismiss(self, url: str) -> None:
        """What `miss` has noted under this URL, if it has, is not wanted any more."""
        self._missing.forget((url,))

    def started(self) -> None:
        """All that was wanted from the start is served, or has shown that it can't be."""
        self.catalogue.starting = False
        self.catalogue.on_change()

    def stop(self) -> None:
        """The server is to end: say that it is not ready any more, but answer what comes, and register nothing. What is
        being downloaded or installed is given up. Idempotent."""
        self.changes.stop()
        self.catalogue.stopping = True
        self.catalogue.on_change()
        self._downloads.close()

    def hurry(self) -> None:
        """Have `close` wait for nothing more."""
        for served in self._stored:
            served.hurry()

    async def close(self, drain_seconds: float) -> None:
        """End everything, after what was accepted is answered or the time is over. Idempotent."""
        self.stop()
        # Those that are being registered or unregistered, too.
        await asyncio.gather(*(served.close(drain_seconds) for served in list(self._stored)))
        await self.changes.finished()
        await self._backend.close()


async def _kept() -> str:
    return ""
