"""All below the ports: the engine, what it stands on, and what it is to serve from the start."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Sequence
from pathlib import Path

from pdserver.backends.local import LocalBackend
from pdserver.codec.pipelines import PipelineCodec
from pdserver.codec.pool import CodecPool
from pdserver.configuration.models_to_load import ModelToLoad
from pdserver.configuration.server import Config
from pdserver.dialects.tensorflow.control import Control, NoControl
from pdserver.engine.engine import Engine
from pdserver.errors import WorkerDied
from pdserver.management.snapshot import Snapshots, read_last_snapshot
from pdserver.metrics.telemetry import Telemetry
from pdserver.store.archives import Store
from pdserver.store.downloads import Downloads
from pdserver.store.environments import Environments
from pdserver.store.run_directory import RunDirectory
from pdserver.tfserving.manager import ServedConfig
from pdserver.triton.repository import ModelRepository
from pdserver.worker.environment import WorkerEnvironment
from pdserver.worker.preloading import may_need_paddle
from pdserver.workflows.workflows import Workflows

_log = logging.getLogger("pdserver.server")


class Core:
    """`state` is the server's own folder; `stack` ends what is not ended by `close`."""

    def __init__(self, config: Config, state: Path, telemetry: Telemetry, stack: contextlib.AsyncExitStack) -> None:
        self._config = config
        self.state = state
        run_directory = RunDirectory(state)
        stack.callback(run_directory.close)
        self._backend = LocalBackend(_worker_environment(config, run_directory), telemetry.of_models)
        stack.push_async_callback(self._backend.close)
        self.codec = CodecPool()
        stack.push_async_callback(self.codec.close)
        self._store = Store(
            config.model_store, run_directory.path, config.archive_limits, allow_unsafe=config.allow_unsafe_models
        )
        self.restored = False
        """Whether a snapshot said what to serve."""
        self._first = asyncio.create_task(self._wanted())
        """What to serve from the start."""
        self._warming = asyncio.create_task(self._warm())
        downloads = Downloads(
            run_directory.path / "downloads",
            config.allowed_urls,
            max_bytes=config.max_archive_bytes,
            timeout_seconds=config.download_timeout_seconds,
        )
        self.engine = self._engine(state, downloads, telemetry)
        self.workflows = Workflows(config, self.engine, self._store, downloads, run_directory.path / "workflows")
        self.repository = ModelRepository(config, self.engine, self._store, run_directory.path)
        self.control: Control = NoControl()
        self._tensorflow: ServedConfig | None = None
        if config.tensorflow_model_config is not None:
            self.control = self._tensorflow = ServedConfig(
                config, config.tensorflow_model_config, self.engine, self._store
            )
        self._snapshots: Snapshots | None = None
        if config.config_snapshots:
            self._snapshots = Snapshots(config.snapshot_folder, self.engine.wanted)
            self.engine.on_change, self.engine.keep = self._snapshots.changed, self._snapshots.keep

    def _engine(self, state: Path, downloads: Downloads, telemetry: Telemetry) -> Engine:
        config = self._config
        environments = Environments(
            config.venv_location or state / "environments",
            for_all=config.install_py_dep_per_model,
            timeout_seconds=config.install_py_dep_timeout_seconds,
        )
        return Engine(
            self._store,
            downloads,
            self._backend,
            telemetry.metrics,
            models=config.models,
            defaults=config.model_defaults,
            sequence_headers=config.sequence_headers,
            model_key=config.model_key,
            trials=str(state / "engines"),
            default_handler=config.default_service_handler,
            environments=environments,
            unregister_timeout_seconds=config.unregister_model_timeout_seconds,
            response_cache_bytes=config.response_cache_bytes,
            elsewhere=PipelineCodec(self.codec),
        )

    async def _warm(self) -> None:
        """While the archives are opened, the nursery imports Paddle, if one of them may need it or there are none."""
        try:
            models = await asyncio.shield(self._first)
        except Exception:  # noqa: BLE001 - `load` says it
            models = ()
        if not models or await asyncio.to_thread(any, map(self._may_need_paddle, models)):
            self._backend.expect_paddle()
        try:
            await self._backend.start()
        except WorkerDied as error:  # the next worker that is wanted tries again
            if not self._backend.closed:  # else it was ended with the server, whose start was refused
                _log.error("%s", error)

    def _may_need_paddle(self, model: ModelToLoad) -> bool:
        manifest = self._store.glance(model.url)
        return manifest is None or may_need_paddle(model.handler or manifest.handler, manifest.raw, {})

    async def load(self, on_progress: Callable[[str], None]) -> None:
        """Load what is to be served from the start; `on_progress` is told of each model. Raises LoadFailed when the
        model repository can't be loaded and the operator wants the server to end then; ConfigError or Conflict when
        tensorflow_model_config can't be followed."""
        await self.repository.load()
        if self._tensorflow is not None:
            await self._tensorflow.load()
        await self.engine.load_at_start(await self._first, on_progress)
        if self._snapshots is not None:
            await self._snapshots.begin()
        self.engine.started()

    async def follow(self) -> None:
        """Load what changes in the folders that are watched, until it is cancelled."""
        followers = [self.repository.follow(), *([self._tensorflow.follow()] if self._tensorflow else [])]
        await asyncio.gather(*followers)

    async def warmed(self) -> None:
        """Until the nursery has imported what it is to, or could not be started."""
        await self._warming

    async def _wanted(self) -> Sequence[ModelToLoad]:
        """What to serve from the start. A snapshot never goes before what the operator says."""
        config = self._config
        named = config.load_models
        others = config.models or config.model_repository or config.tensorflow_model_config
        said = config.model_snapshot or named.all or named.named or others
        if config.config_snapshots and (config.restore_snapshot or not said):
            restored = await asyncio.to_thread(read_last_snapshot, config.snapshot_folder)
            if restored is not None:
                self.restored = True
                return restored
            if config.restore_snapshot:
                _log.warning("restore_snapshot: there is no snapshot in %s yet", config.snapshot_folder)
        if config.model_snapshot:
            return config.model_snapshot
        if named.all:
            return [ModelToLoad(url) for url in await asyncio.to_thread(self._store.names)]
        return named.named

    async def close(self, remaining_seconds: Callable[[], float]) -> None:
        """Answer what was accepted, as long as time remains."""
        if self._snapshots is not None:
            await self._snapshots.close()
        await self.engine.close(remaining_seconds())


def _worker_environment(config: Config, run_directory: RunDirectory) -> WorkerEnvironment:
    temporary = str(run_directory.path / "tmp")
    return WorkerEnvironment(temporary, config.worker_env_vars, config.blacklist_env_vars, config.worker_limits)
