"""An engine on the virtual clock: its store, its downloads and its environments count what is in use."""

from __future__ import annotations

import asyncio
import contextlib
import re
from collections.abc import AsyncIterator, Callable, Coroutine
from pathlib import Path
from typing import Any

from pdarchiver.manifest import Manifest
from pdserver.configuration.model import ModelSpec
from pdserver.engine.engine import Engine
from pdserver.management.verbs import Verbs
from pdserver.metrics.registry import Metrics
from pdserver.store.model import StoredModel, WarmUp
from pdserver.triton.store_repository import StoreRepository
from pdserver.types import ModelRef, Part, Request
from tests.engine.virtual import FakeBackend, Oracle, SeenCall, T, VirtualLoop

SETTINGS = {"startup_timeout_seconds": 2.0, "response_timeout_seconds": 60.0}


class FakeStore:
    """`a-1.pdar` holds version 1 of the model a, if it is sound."""

    def __init__(self) -> None:
        self.used = 0
        """How many archives are open."""
        self.newer: dict[str, str] = {}
        """Archive → the version that is in it now."""
        self.warm_up: WarmUp | None = None

    def open(self, url: str, path: Path | None = None, sha256: str | None = None) -> StoredModel:
        name, version = url.removesuffix(".pdar").split("-")
        manifest = Manifest(model_name=name, model_version=self.newer.get(url, version))
        self.used += 1
        return StoredModel(url, Path("/nowhere"), "digest", manifest, {}, {}, warm_up=self.warm_up)

    def is_whole(self, model: StoredModel) -> bool:
        return True

    def release(self, model: StoredModel) -> None:
        self.used -= 1

    def names(self) -> list[str]:
        return ["a.pdar"]


class FakeDownloads:
    @contextlib.asynccontextmanager
    async def fetched(self, url: str) -> AsyncIterator[Path | None]:
        await asyncio.sleep(0.01)
        try:
            yield None
        finally:
            await asyncio.sleep(0.01)

    def close(self) -> None:
        """Nothing is on its way."""


class FakeEnvironments:
    async def python(self, *_: object) -> str:
        await asyncio.sleep(0.02)
        return ""


class EngineWorld:
    """`run` and `advance` as World has them."""

    def __init__(self, store: Any = None) -> None:
        self.loop = VirtualLoop()
        self.store: Any = store or FakeStore()
        self.metrics = Metrics()
        names: dict[str, Any] = dict.fromkeys(("url", "directory", "handler"), "")
        spec = ModelSpec(name="a", version="1", manifest={}, model_config={}, min_workers=1, max_workers=1, **names)
        self.oracle = Oracle(spec, self.loop.time)
        self.backend = FakeBackend(self.oracle)
        self.engine: Engine = self.run(self._engine())
        self.engine.keep = self._keep
        self.repository = StoreRepository(self.engine, self.store.names)
        self.verbs = Verbs(self.engine)

    async def _engine(self) -> Engine:
        downloads: Any = FakeDownloads()
        environments: Any = FakeEnvironments()
        return Engine(
            self.store,
            downloads,
            self.backend,
            self.metrics,
            models={},
            defaults=SETTINGS,
            default_handler="h",
            environments=environments,
            unregister_timeout_seconds=10.0,
            response_cache_bytes=0,
            clock=self.loop.time,
        )

    async def _keep(self) -> str:
        for _ in range(5):  # the change is made, and its caller can still leave
            await asyncio.sleep(0)
        return ""

    def run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        return self.loop.run_until_complete(coroutine)

    def advance(self, seconds: float) -> None:
        self.run(asyncio.sleep(seconds))

    async def register(self, url: str, workers: int = 1, **how: Any) -> None:
        how.setdefault("synchronous", True)
        await self.engine.register(url, workers=workers, **how)

    def submit(self, model: str, version: str | None = None) -> SeenCall:
        """A request that keeps a worker busy for a while."""
        request = Request(model, version, str(len(self.oracle.calls)), [Part("body", "", b"")])
        call = self.oracle.calls[request.id] = SeenCall(request, self.loop.time)

        async def put() -> None:
            self.engine.submit(call)

        self.run(put())
        return call

    # What there is

    def served(self) -> dict[str, int]:
        """Version → workers wanted; the default has a star."""
        return {
            f"{served.spec.ref}{'*' * (served is model.default)}": served.min_workers
            for model in self.engine.catalogue
            for served in model.versions.values()
        }

    def series(self) -> set[str]:
        """The versions of which there are metrics."""
        text = self.metrics.render()[0].decode()
        return {
            str(ModelRef(*found))
            for found in re.findall(r'pd_requests_total\{model_name="(.*?)",model_version="(.*?)"', text)
        }

    def check(self, *, whole: bool = True) -> None:
        """Nothing is there but what belongs to what is served, all of it; `whole`: the workers are."""
        served = self.served()
        registered = self.engine._registry.versions()
        assert [each.view() for each in registered] == list(self.engine.catalogue.versions()), "it was not shown"
        assert self.store.used == len(served)
        assert self.series() <= {ref.rstrip("*") for ref in served}
        if whole:
            assert len(self.backend.alive) == sum(served.values())
            assert all(each.serving == each.min_workers for each in self.engine.catalogue.versions())
        wanted = {f"{model.name}/{model.version}{'*' * model.default}" for model in self.engine.wanted()}
        assert wanted == served.keys()

    def close(self) -> None:
        """All that is left can be taken out, and nothing stays."""
        for ref in sorted(self.served(), key=lambda ref: ref.endswith("*")):
            self.run(self.engine.unregister(*ref.rstrip("*").split("/")))
        assert self.store.used == 0
        assert not self.backend.alive
        assert self.series() == set()
        assert len(asyncio.all_tasks(self.loop)) == 0
        self.loop.close()


Change = Callable[[EngineWorld], Coroutine[Any, Any, object]]
