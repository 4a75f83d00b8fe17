"""A model that a store has opened → what serves it: a pool of workers, or a pipeline that asks several."""

from __future__ import annotations

import asyncio
import dataclasses
import itertools
import logging
from collections.abc import Callable
from functools import partial

from pdarchiver.pipeline.flow import sides
from pdarchiver.pipeline.graph import Pipeline
from pdserver.backends.base import Backend
from pdserver.configuration.model import ModelSpec, PartialSettings
from pdserver.engine.catalogue import Catalogue
from pdserver.engine.changes import Changes
from pdserver.engine.pipeline import signatures
from pdserver.engine.pipeline.elsewhere import Elsewhere
from pdserver.engine.pipeline.served import PipelineServed
from pdserver.engine.pool import Pool
from pdserver.engine.registry import Registry
from pdserver.engine.response_cache import ResponseCache
from pdserver.engine.served import Served
from pdserver.engine.specs import Specs
from pdserver.errors import LoadFailed, PdError
from pdserver.metrics.registry import Metrics
from pdserver.pipeline import fused
from pdserver.store.archives import Store
from pdserver.store.downloads import Downloads
from pdserver.store.environments import Environments
from pdserver.store.model import Source, StoredModel
from pdserver.system.devices import gpu_count

_log = logging.getLogger("pdserver.engine")


class Maker:
    """Makes what the engine registers, from what it needs itself. `specs` is to be changed by the engine."""

    def __init__(
        self,
        store: Store,
        downloads: Downloads,
        backend: Backend,
        metrics: Metrics,
        environments: Environments,
        specs: Specs,
        changes: Changes,
        catalogue: Catalogue,
        registry: Registry,
        cache: ResponseCache,
        elsewhere: Elsewhere | None,
        clock: Callable[[], float],
    ) -> None:
        self.specs = specs
        self._store = store
        self._downloads = downloads
        self._backend = backend
        self._metrics = metrics
        self._environments = environments
        self._changes = changes
        self._catalogue = catalogue
        self._registry = registry
        self._cache = cache
        self._elsewhere = elsewhere
        self._clock = clock
        self._devices = itertools.count()

    async def opened(self, source: Source, url: str, sha256: str | None) -> StoredModel:
        """Whoever asks for it releases it again, or has it `served`. Raises PdError."""
        if source is not self._store:
            return await asyncio.to_thread(source.open, url)
        async with self._downloads.fetched(url) as path:
            return await asyncio.to_thread(self._store.open, url, path, sha256)

    async def served(
        self,
        source: Source,
        stored: StoredModel,
        name: str | None,
        handler: str | None,
        settings: PartialSettings | None,
        workers: int | None,
    ) -> Served:
        """What serves the model, without workers. Nobody knows of it yet. Raises PdError, with the model released."""
        try:
            settings = settings or {}
            if workers is not None:
                settings = {**settings, "min_workers": workers}
            spec = self.specs(stored, name, handler, settings)
            spec = dataclasses.replace(spec, python=await self._python(spec, stored))
            on_change = partial(self._registry.show, spec.name)
            served: Served
            if stored.pipeline is None:
                self._changes.check()  # nothing is new once `close` ends all
                served = self._pool(source, stored, spec, on_change)
            else:
                served = await self._pipeline(source, stored, stored.pipeline, spec, on_change)
        except BaseException:
            await asyncio.to_thread(source.release, stored)
            raise
        return served

    async def _python(self, spec: ModelSpec, stored: StoredModel) -> str:
        with self._changes.interruptible():
            return await self._environments.python(spec, stored.manifest.requirements_file, stored.digest)

    def _pool(self, source: Source, stored: StoredModel, spec: ModelSpec, on_change: Callable[[], None]) -> Pool:
        record = partial(self._metrics.record, spec.ref)
        metrics = self._metrics.model(spec.ref)
        cached = spec.response_cache and not spec.sequence_batching and not spec.continuous_batching
        cache = self._cache.share(metrics) if cached else None
        prepare = partial(self._restore, source, stored, spec)
        gently = not self._catalogue.starting and any(served.is_ready for served in self._catalogue.versions())
        return Pool(
            spec, self._backend, metrics, self._next_device, record, self._clock, cache, prepare, on_change,
            loaded_at_start=self._catalogue.starting, warm_up=stored.warm_up, gently=gently,
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
        specs = self.specs.of_nodes(stored, pipeline, spec)
        for path, (own, nested) in specs.items():
            python = spec.python if nested is stored else await self._python(own, nested)
            specs[path] = (dataclasses.replace(own, python=python), nested)
        self._changes.check()  # nothing is new once `close` ends all
        pools = {path: self._pool(source, nested, own, on_change) for path, (own, nested) in specs.items()}
        return PipelineServed(
            spec, pipeline, self._metrics.model(spec.ref), pools, partial(self._registry.resolve, asker=spec.name),
            lambda body: sides(stored.nested[body.archive].manifest), self._clock, on_change,
            loaded_at_start=self._catalogue.starting, said=stored.interface, elsewhere=self._elsewhere,
        )  # fmt: skip

    async def _restore(self, source: Source, stored: StoredModel, spec: ModelSpec) -> None:
        """Unpack files of the model again if they were removed. Raises PdError when that fails."""
        if source is not self._store:
            return
        if not await asyncio.to_thread(self._store.is_whole, stored):
            _log.warning("%s: files are gone from %s: unpacking them anew", spec.ref, stored.directory)
            try:
                again = await self.opened(self._store, stored.url, stored.digest)
            except PdError as error:
                raise LoadFailed(f"files of it were removed, and can't be unpacked anew: {error}") from None
            await asyncio.to_thread(self._store.release, again)
        if spec.python:
            with self._changes.interruptible():
                await self._environments.python(spec, stored.manifest.requirements_file, stored.digest)

    def _next_device(self, spec: ModelSpec) -> int | None:
        """Round robin over the model's GPUs, or over all of this machine's."""
        if spec.device_type != "gpu":
            return None
        ids = spec.device_ids or tuple(range(gpu_count() or 1))
        return ids[next(self._devices) % len(ids)]
