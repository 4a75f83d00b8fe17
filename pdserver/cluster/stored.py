"""The archives that the cluster is to serve: opened and checked as one server does it, and kept for the nodes."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

from pdarchiver.pipeline.graph import ModelBody, Pipeline
from pdserver.cluster.archives import Archives, read_piece
from pdserver.cluster.base import Archive, Need
from pdserver.cluster.models import Opened
from pdserver.configuration.layers import parse_parameters
from pdserver.configuration.model import ModelSpec
from pdserver.configuration.server import Config
from pdserver.engine.specs import Specs
from pdserver.errors import InvalidRequest
from pdserver.formats.values import shown
from pdserver.store.archives import Store
from pdserver.store.downloads import Downloads


class StoredModels:
    """`Models` of the model store, and of the URLs that the configuration allows."""

    def __init__(self, config: Config, folder: Path) -> None:
        """`folder` belongs to this process alone. Raises ConfigError, OSError when it can't be used."""
        self._config = config
        self._archives = Archives(folder / "kept")
        self._store = Store(
            config.model_store, folder / "run", config.archive_limits, allow_unsafe=config.allow_unsafe_models
        )
        self._downloads = Downloads(
            folder / "downloads",
            config.allowed_urls,
            max_bytes=config.max_archive_bytes,
            timeout_seconds=config.download_timeout_seconds,
        )
        self._specs = Specs(
            config.models,
            config.model_defaults,
            config.default_service_handler,
            config.sequence_headers,
            config.model_key,
        )

    def names(self) -> list[str]:
        """Of the archives of the store. Raises Unavailable when it can't be read."""
        return self._store.names()

    async def open(
        self, url: str, *, name: str | None, handler: str | None, sha256: str | None, settings: Mapping[str, str]
    ) -> Opened:
        async with self._downloads.fetched(url) as path:
            opened = await asyncio.to_thread(self._opened, url, path, name, handler, sha256, settings)
            await self._archives.fetch(opened.archive, _File(path or self._in_store(url)))
        return opened

    def _opened(
        self,
        url: str,
        path: Path | None,
        name: str | None,
        handler: str | None,
        sha256: str | None,
        settings: Mapping[str, str],
    ) -> Opened:
        """`path` is that of a download."""
        stored = self._store.open(url, path, sha256)
        try:
            file = path or self._in_store(url)
            if file.is_dir():
                raise InvalidRequest(f"{shown(url)}: a folder, and nodes get archives alone: pack it into one")
            spec = self._specs(stored, name, handler, parse_parameters(settings, "request"))
            archive = Archive(stored.digest, url.rpartition("/")[2].partition("?")[0], file.stat().st_size)
            workers = [spec]
            if stored.pipeline is not None:
                workers = [own for own, _ in self._specs.of_nodes(stored, stored.pipeline, spec).values()]
            return Opened(spec.ref, archive, _gpus(workers), _needs(stored.pipeline), None if spec.min_workers else 0)
        finally:
            self._store.release(stored)

    def _in_store(self, url: str) -> Path:
        """Where a file is that the store has opened."""
        return Path(self._config.model_store or "") / url

    async def piece(self, sha256: str, offset: int) -> bytes:
        return await self._archives.piece(sha256, offset)

    async def forget_others(self, digests: frozenset[str]) -> None:
        await self._archives.keep_only(digests)


def _gpus(specs: Iterable[ModelSpec]) -> int:
    """As many as their settings name; else one, which all workers share."""
    on_gpus = [spec for spec in specs if spec.device_type == "gpu"]
    named = {number for spec in on_gpus for number in spec.device_ids}
    return max(len(named), int(bool(on_gpus)))


def _needs(pipeline: Pipeline | None) -> tuple[Need, ...]:
    nodes = pipeline.graph.walk() if pipeline is not None else ()
    models = [node.body for _, node in nodes if isinstance(node.body, ModelBody) and node.body.name]
    return tuple(dict.fromkeys(Need(model.name, model.version) for model in models))


class _File(NamedTuple):
    """The `Holder` of one archive."""

    path: Path

    async def piece(self, sha256: str, offset: int) -> bytes:
        return await asyncio.to_thread(read_piece, self.path, offset)
