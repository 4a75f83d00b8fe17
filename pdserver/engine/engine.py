"""The core's verbs: what the dialects, the management API and the start-up can ask for."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import hmac
import itertools
import logging
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any

import msgspec

from pdarchiver.pipeline.flow import sides
from pdarchiver.pipeline.graph import Pipeline
from pdserver.backends.base import Backend
from pdserver.configuration.model import MODEL_SETTINGS, ModelSpec, PartialSettings
from pdserver.configuration.models_to_load import ModelToLoad
from pdserver.engine.catalogue import Catalogue
from pdserver.engine.changes import Changes, carried
from pdserver.engine.claims import Claims
from pdserver.engine.pipeline import signatures
from pdserver.engine.pipeline.served import PipelineServed
from pdserver.engine.pipeline.signatures import NodeMissing
from pdserver.engine.pool import Pool
from pdserver.engine.queue import AwaitedCall, Call
from pdserver.engine.registry import Registry
from pdserver.engine.response_cache import ResponseCache
from pdserver.engine.served import Details, Served
from pdserver.engine.specs import Specs, check_model_name
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
from pdserver.pipeline import fused
from pdserver.store.archives import Store
from pdserver.store.downloads import Downloads
from pdserver.store.environments import Environments
from pdserver.store.model import Source, StoredModel
from pdserver.system.devices import gpu_count
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
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`clock` gives monotonic seconds."""
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
        self._specs = Specs(models, defaults, default_handler, sequence_headers, model_key, trials)
        self._key_lock = asyncio.Lock()
        self._environments = environments
        self._unregister_timeout_seconds = unregister_timeout_seconds
        self._clock = clock
        self._cache = ResponseCache(response_cache_bytes)
        self._stored: dict[Served, tuple[Source, StoredModel]] = {}
        self._devices = itertools.count()
        self._provisional: set[Served] = set()
        """Versions that are unregistered again if their workers can't load them."""
        self._late: dict[ModelRef, Served] = {}
        """Versions that are being unregistered, and still take requests that were read for them."""
        self._missing: dict[str, tuple[ModelToLoad, str]] = {}
        """What was wanted from the start and could not be registered, and why: by model and version, or by the archive
        or the name when these are not known."""
        metrics.gauges(lambda: (each for served in self._registry.versions() for each in served.gauges()))

    def submit(self, call: Call) -> None:
        """Have a request answered; the outcome comes by `call.settle`. Raises PdError when it is refused."""
        request = call.request
        try:
            served = self._registry.resolve(request.model, request.version)
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
        call = AwaitedCall(request, kept)
        self.submit(call)
        try:
            return await call.outcome
        finally:
            call.cancel()  # without effect once it is settled

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
        stored = await self._opened(source or self._store, url, sha256)
        try:
            if version not in (None, stored.manifest.model_version):
                raise Conflict(f"{stored.url} holds version {stored.manifest.model_version}, not {version}")
            if claim is not None:
                await claim(ModelRef(name or stored.name, stored.manifest.model_version))
        except BaseException:
            await asyncio.to_thread((source or self._store).release, stored)
            raise
        served = await self._served(source or self._store, stored, name, handler, settings, workers)
        spec = served.spec
        if replace and self._registry.has(spec.ref):
            await self._replace(served)
        else:
            await self._add(served, synchronous=synchronous)
        self._forget_missing((url, str(spec.ref), spec.name))
        self.on_change()
        return spec

    async def _opened(self, source: Source, url: str, sha256: str | None) -> StoredModel:
        if source is not self._store:
            return await asyncio.to_thread(source.open, url)
        async with self._downloads.fetched(url) as path:
            return await asyncio.to_thread(self._store.open, url, path, sha256)

    async def _served(
        self,
        source: Source,
        stored: StoredModel,
        name: str | None,
        handler: str | None,
        settings: PartialSettings | None,
        workers: int | None,
    ) -> Served:
        """What serves the model, without workers. Nobody knows of it yet."""
        try:
            spec = self._spec(stored, name, handler, settings or {}, workers)
            spec = dataclasses.replace(spec, python=await self._python(spec, stored))
            on_change = partial(self._registry.show, spec.name)
            served: Served
            if stored.pipeline is None:
                self.changes.check()  # nothing is new once `close` ends all
                served = self._pool(source, stored, spec, on_change)
            else:
                served = await self._pipeline(source, stored, stored.pipeline, spec, on_change)
        except BaseException:
            await asyncio.to_thread(source.release, stored)
            raise
        self._stored[served] = (source, stored)
        return served

    async def _python(self, spec: ModelSpec, stored: StoredModel) -> str:
        with self.changes.interruptible():
            return await self._environments.python(spec, stored.manifest.requirements_file, stored.digest)

    def _pool(self, source: Source, stored: StoredModel, spec: ModelSpec, on_change: Callable[[], None]) -> Pool:
        record = partial(self._metrics.record, spec.ref)
        metrics = self._metrics.model(spec.ref)
        cached = spec.response_cache and not spec.sequence_batching and not spec.continuous_batching
        cache = self._cache.share(metrics) if cached else None
        prepare = partial(self._restore, source, stored, spec)
        gently = not self.catalogue.starting and any(served.is_ready for served in self.catalogue.versions())
        return Pool(
            spec, self._backend, metrics, self._next_device, record, self._clock, cache, prepare, on_change,
            loaded_at_start=self.catalogue.starting, warm_up=stored.warm_up, gently=gently,
            inner={path: self._metrics.model(ref) for path, ref in fused.refs(spec).items()},
        )  # fmt: skip

    async def _pipeline(
        self,
        source: Source,
        stored: StoredModel,
        pipeline: Pipeline,
        spec: ModelSpec,
        on_change: Callable[[], None],
    ) -> PipelineServed:
        """Raises NodeMissing when a model that it asks is not registered, InvalidRequest when one does not fit."""
        signatures.check(spec.name, pipeline, stored, self._registry)
        specs = self._specs.of_nodes(stored, pipeline, spec)
        for path, (own, nested) in specs.items():
            python = spec.python if nested is stored else await self._python(own, nested)
            specs[path] = (dataclasses.replace(own, python=python), nested)
        self.changes.check()  # nothing is new once `close` ends all
        pools = {path: self._pool(source, nested, own, on_change) for path, (own, nested) in specs.items()}
        return PipelineServed(
            spec, pipeline, self._metrics.model(spec.ref), pools, self._registry.resolve,
            lambda body: sides(stored.nested[body.archive].manifest), self._clock, on_change,
            loaded_at_start=self.catalogue.starting, said=stored.interface,
        )  # fmt: skip

    async def _restore(self, source: Source, stored: StoredModel, spec: ModelSpec) -> None:
        """Unpack files of the model again if they were removed. Raises PdError when that fails."""
        if source is not self._store:
            return
        if not await asyncio.to_thread(self._store.is_whole, stored):
            _log.warning("%s: files are gone from %s: unpacking them anew", spec.ref, stored.directory)
            try:
                again = await self._opened(self._store, stored.url, stored.digest)
            except PdError as error:
                raise LoadFailed(f"files of it were removed, and can't be unpacked anew: {error}") from None
            await asyncio.to_thread(self._store.release, again)
        if spec.python:
            with self.changes.interruptible():
                await self._environments.python(spec, stored.manifest.requirements_file, stored.digest)

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

    def _forget_missing(self, keys: Iterable[str]) -> None:
        for key in keys:
            self._missing.pop(key, None)
            self.catalogue.missing.pop(key, None)

    def _spec(
        self, stored: StoredModel, name: str | None, handler: str | None, settings: PartialSettings, workers: int | None
    ) -> ModelSpec:
        if workers is not None:
            settings = {**settings, "min_workers": workers}
        return self._specs(stored, name, handler, settings)

    @carried
    async def use_key(self, *, key: bytes) -> None:
        """Use a key for encrypted models that name no file, and register what has been missing since the start.

        If a model can't be loaded with it, the key is forgotten. Raises Forbidden when another key is in use,
        InvalidRequest when this one does not fit, and what `register` raises.
        """
        async with self._key_lock:
            before = self._specs
            if before.model_key:
                if not hmac.compare_digest(before.model_key, key):
                    raise Forbidden("another key is in use: restart the server to use this one")
                return
            self._specs = msgspec.structs.replace(before, model_key=key)
            try:
                for model, _ in list(self._missing.values()):
                    await self._register_wanted(model, synchronous=True)
            except BaseException as error:
                self._specs = before
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
            keys = [key for key, (model, _) in self._missing.items() if _names(model, name, version)]
            if not keys:
                raise
            self._forget_missing(keys)
            self.on_change()
        else:
            leaving, view = self.catalogue.leaving, served.view()
            leaving[served.spec.ref] = view
            try:
                if self._registry.knows(name):
                    await self._take_late(served)
                await self._discard(served, self._unregister_timeout_seconds)
            finally:
                if leaving.get(served.spec.ref) is view:
                    del leaving[served.spec.ref]

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
            *(model for model, _ in self._missing.values() if model.version is not None),
        ]

    def _wanted(self, served: Served, *, default: bool) -> ModelToLoad:
        spec, view = served.spec, served.view()
        _, stored = self._stored[served]
        settings = {row.field: getattr(spec, row.field) for row in MODEL_SETTINGS.values() if row.parameter}
        settings |= {"min_workers": view.min_workers, "max_workers": view.max_workers}
        own_handler = stored.manifest.handler or self._specs.default_handler
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

        A broken one doesn't stop the others; the catalogue has it as missing. Of several versions of a name, the
        default is the one that is said to be, else the first of them here, whichever was unpacked first; of several
        archives of one name and version, the first is served.
        """
        defaults: dict[str, tuple[bool, int]] = {}
        claims = Claims(len(models))
        done = itertools.count(1)
        later: dict[int, NodeMissing] = {}
        """Pipelines some of whose models are not there yet."""

        async def load(place: int, model: ModelToLoad) -> None:
            try:
                await self._load(model, place, defaults, claims)
            except NodeMissing as error:
                later[place] = error
                return
            later.pop(place, None)
            on_progress(f"{next(done)} of {len(models)} models: {model.name or model.url}")

        waiting: dict[int, ModelToLoad] = dict(enumerate(models))
        while waiting:
            await asyncio.gather(*(load(place, model) for place, model in waiting.items()))
            if len(later) == len(waiting):
                break
            waiting = {place: models[place] for place in later}
        for place, error in later.items():
            self.miss(models[place], str(error))
        registered = {served.spec.ref for served in self._registry.versions()}
        for name, versions in self._specs.models.items():
            for version in versions:
                if ModelRef(name, version) not in registered:
                    _log.warning(
                        "models in config.properties has settings for %s/%s, which is not loaded", name, version
                    )

    async def _load(
        self, model: ModelToLoad, place: int, defaults: dict[str, tuple[bool, int]], claims: Claims
    ) -> None:
        """`defaults` has, by name, the rank of the version that is the default now: the lowest wins."""
        try:
            spec = await self._register_wanted(model, claim=partial(claims.claim, place))
            claims.settle(place, has_it=True)
        except NodeMissing:
            raise
        except PdError as error:
            self.miss(model, str(error))
            return
        finally:
            claims.settle(place, has_it=False)
        rank = (not model.default, place)
        try:
            served = self._registry.resolve(spec.name, spec.version)
            if rank <= defaults.setdefault(spec.name, rank):
                defaults[spec.name] = rank
                self._registry.set_default(spec.name, spec.version)
            await served.settled()
        except PdError as error:
            _log.error("%s can't be served: %s", model.url, error)

    def miss(self, model: ModelToLoad, reason: str) -> None:
        """Note what is wanted and can't be served: the catalogue has it until it is registered, or unregistered."""
        _log.error("%s can't be served: %s", model.url, reason)
        key = f"{model.name}/{model.version}" if model.version is not None else model.url
        self._missing[key] = (model, reason)
        self.catalogue.missing[key] = reason

    def dismiss(self, url: str) -> None:
        """What `miss` has noted under this URL, if it has, is not wanted any more."""
        if url in self._missing:
            self._forget_missing((url,))

    def started(self) -> None:
        """All that was wanted from the start is served, or has shown that it can't be."""
        self.catalogue.starting = False

    def stop(self) -> None:
        """The server is to end: say that it is not ready any more, but answer what comes, and register nothing. What is
        being downloaded or installed is given up. Idempotent."""
        self.changes.stop()
        self.catalogue.stopping = True
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

    def _next_device(self, spec: ModelSpec) -> int | None:
        """Round robin over the model's GPUs, or over all of this machine's."""
        if spec.device_type != "gpu":
            return None
        ids = spec.device_ids or tuple(range(gpu_count() or 1))
        return ids[next(self._devices) % len(ids)]


async def _kept() -> str:
    return ""


def _names(model: ModelToLoad, name: str, version: str | None) -> bool:
    """Whether `model` goes by this name, and has this version, if one is given."""
    return name in (model.name, model.url) and version in (None, model.version)
