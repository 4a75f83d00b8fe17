"""The composition root: builds the parts, opens the ports, runs, and closes everything in reverse."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol

import msgspec

from pdserver.backends.local import LocalBackend
from pdserver.codec.pool import CodecPool
from pdserver.configuration.server import Config
from pdserver.configuration.values import ModelToLoad
from pdserver.dialects.oip.protocol import open_inference
from pdserver.engine.engine import Engine
from pdserver.errors import WorkerDied
from pdserver.logs.access import AccessLog
from pdserver.management.snapshot import Snapshots, read_last_snapshot
from pdserver.management.verbs import Verbs
from pdserver.metrics.registry import Metrics
from pdserver.metrics.telemetry import Telemetry
from pdserver.plugins import metric_sinks
from pdserver.security.guards import Guards
from pdserver.server import grpc_ports, http_ports
from pdserver.server.dialects import spoken
from pdserver.server.ports import Ports
from pdserver.server.signals import StopSignals
from pdserver.server.status import StatusSocket
from pdserver.store.archives import Store
from pdserver.store.downloads import Downloads
from pdserver.store.environments import Environments
from pdserver.store.run_directory import PidFile, RunDirectory, is_temporary, state_folder
from pdserver.triton.repository import ModelRepository
from pdserver.worker.environment import WorkerEnvironment

_log = logging.getLogger("pdserver.server")
_END_SECONDS = 1.0


class Listener(Protocol):
    """One port, or several that are closed together."""

    async def stop(self, grace_seconds: float) -> None:
        """Take no more in, and answer what was accepted, within this time."""

    def hurry(self) -> None:
        """No time is left."""


class Started(msgspec.Struct):
    """What came of a start."""

    addresses: dict[str, str]
    models: dict[str, int]
    """What is served, and by how many workers."""
    problems: dict[str, str]
    """What is not served, and why."""
    logs: str
    """The folder."""
    restored: bool
    """Whether a snapshot said what to serve."""


class Server:
    """One server, from its configuration."""

    def __init__(self, config: Config) -> None:
        self._config = config
        self._signals = StopSignals(self._hurry)
        self._listeners: list[Listener] = []
        self._engine: Engine | None = None
        self._restored = False
        self.addresses: dict[str, str] = {}
        """What listens where, with the real port where 0 was asked for: inference, management, metrics → URLs,
        grpc_inference, grpc_management → host:port; and where the tokens are, if there are any."""

    async def run(self, on_ready: Callable[[Started], None], on_progress: Callable[[str], None]) -> None:
        """Serve until a signal to stop. `on_progress` is told of each model that is loaded at the start,
        `on_ready` what came of it once all are.

        Raises ConfigError when a port can't be opened, Conflict when this server runs already.
        """
        config = self._config
        state = state_folder(config.state_location, config.xdg_state_home)
        guards = Guards(config, state)
        async with contextlib.AsyncExitStack() as stack:
            pid_file = PidFile.of(state, config.management_address)
            pid_file.acquire(config.management_address)
            stack.callback(pid_file.release)
            telemetry = Telemetry(config, metric_sinks())
            stack.push_async_callback(telemetry.close)
            metrics = telemetry.metrics
            ports = Ports(config, stack)
            self.addresses |= ports.addresses
            if guards.token_file is not None:
                self.addresses["tokens"] = str(guards.token_file)
            run_directory = RunDirectory(state)
            stack.callback(run_directory.close)
            if is_temporary(state):
                _log.warning("no home can be written: %s is used, which may be cleaned; set state_location", state)
            backend = LocalBackend(_worker_environment(config, run_directory), telemetry.of_models)
            stack.push_async_callback(backend.close)
            warming = asyncio.create_task(_warm(backend))
            store = Store(
                config.model_store,
                run_directory.path,
                config.archive_limits,
                allow_unsafe=config.allow_unsafe_models,
            )
            self._engine = engine = _engine(config, state, run_directory, store, backend, metrics)
            status = StatusSocket(pid_file.socket, lambda: msgspec.to_builtins(self._started(engine)))
            await status.open()
            stack.callback(status.close)
            access = None
            if config.access_log:
                access = AccessLog(
                    json=config.log_format == "json",
                    each=config.log_config is not None,
                    probes=config.access_log_probes,
                )
                stack.callback(access.close)
            models = ModelRepository(config, engine, store, run_directory.path)
            snapshots = Snapshots(config.snapshot_folder, engine.wanted) if config.config_snapshots else None
            if snapshots is not None:
                engine.on_change, engine.keep = snapshots.changed, snapshots.keep
            codec = CodecPool()
            stack.push_async_callback(codec.close)
            protocol = open_inference(config, engine, models.repository, codec)
            stack.callback(protocol.regions.close)
            verbs = Verbs(engine)
            dialects = spoken(config, protocol, details=guards.keyring is None)
            if config.enable_grpc:
                grpc = grpc_ports.make(access, guards)
                self._listeners.append(grpc)
                stack.push_async_callback(grpc.stop, 0)
                await grpc_ports.serve(grpc, config, dialects, engine, verbs, guards, ports.sockets)
            for http in http_ports.listeners(config, dialects, engine, verbs, metrics, access, guards, ports):
                self._listeners.append(http)
                http.serve()
            watching = asyncio.create_task(guards.watch())
            stack.callback(watching.cancel)
            telemetry.start()
            following: asyncio.Task[None] | None = None
            try:
                await self._until_stopped(self._load(engine, store, models, snapshots, on_progress))
                following = asyncio.create_task(models.follow())
                await warming
                if not self._signals.stopped.is_set():
                    on_ready(self._started(engine))
                await self._signals.stopped.wait()
            finally:
                if following is not None:
                    following.cancel()
                await self._end(engine, snapshots)

    async def _end(self, engine: Engine, snapshots: Snapshots | None) -> None:
        """Take no more in, answer what was accepted, and tell those for whom there is no time left."""
        drain_seconds = _drain_seconds(self._config)
        deadline = time.monotonic() + drain_seconds
        engine.stop()
        await asyncio.gather(*(listener.stop(drain_seconds) for listener in self._listeners))
        if snapshots is not None:
            await snapshots.close()
        await engine.close(max(0.0, deadline - time.monotonic()) if not self._signals.hurried else 0.0)

    def _hurry(self) -> None:
        for listener in self._listeners:
            listener.hurry()
        if self._engine is not None:
            self._engine.hurry()

    def _started(self, engine: Engine) -> Started:
        problems = engine.catalogue.health().problems
        workers = {str(served.spec.ref): served.serving for served in engine.catalogue.versions()}
        served = {ref: count for ref, count in workers.items() if count or ref not in problems}
        return Started(self.addresses, served, problems, str(self._config.log_location), self._restored)

    async def _load(
        self,
        engine: Engine,
        store: Store,
        models: ModelRepository,
        snapshots: Snapshots | None,
        on_progress: Callable[[str], None],
    ) -> None:
        await models.load()
        await engine.load_at_start(await self._wanted(store), on_progress)
        if snapshots is not None:
            await snapshots.begin()
        engine.started()

    async def _wanted(self, store: Store) -> Sequence[ModelToLoad]:
        """What to serve from the start. A snapshot never goes before what the operator says."""
        config = self._config
        said = (
            config.model_snapshot
            or config.load_models.all
            or config.load_models.named
            or config.models
            or config.model_repository
        )
        if config.config_snapshots and (config.restore_snapshot or not said):
            restored = await asyncio.to_thread(read_last_snapshot, config.snapshot_folder)
            if restored is not None:
                self._restored = True
                return restored
            if config.restore_snapshot:
                _log.warning("restore_snapshot: there is no snapshot in %s yet", config.snapshot_folder)
        if config.model_snapshot:
            return config.model_snapshot
        if config.load_models.all:
            return [ModelToLoad(url) for url in await asyncio.to_thread(store.names)]
        return config.load_models.named

    async def _until_stopped(self, work: Any) -> None:
        task = asyncio.ensure_future(work)
        stopped = asyncio.ensure_future(self._signals.stopped.wait())
        await asyncio.wait([task, stopped], return_when=asyncio.FIRST_COMPLETED)
        for pending in (task, stopped):
            if not pending.done():
                pending.cancel()
        if task.done():
            task.result()


def _engine(
    config: Config, state: Path, run_directory: RunDirectory, store: Store, backend: LocalBackend, metrics: Metrics
) -> Engine:
    downloads = Downloads(
        run_directory.path / "downloads",
        config.allowed_urls,
        max_bytes=config.max_archive_bytes,
        timeout_seconds=config.download_timeout_seconds,
    )
    environments = Environments(
        config.venv_location or state / "environments",
        for_all=config.install_py_dep_per_model,
        timeout_seconds=config.install_py_dep_timeout_seconds,
    )
    return Engine(
        store,
        downloads,
        backend,
        metrics,
        models=config.models,
        defaults=config.model_defaults,
        sequence_headers=config.sequence_headers,
        default_handler=config.default_service_handler,
        environments=environments,
        unregister_timeout_seconds=config.unregister_model_timeout_seconds,
        response_cache_bytes=config.response_cache_bytes,
    )


def _worker_environment(config: Config, run_directory: RunDirectory) -> WorkerEnvironment:
    temporary = str(run_directory.path / "tmp")
    return WorkerEnvironment(temporary, config.worker_env_vars, config.blacklist_env_vars, config.worker_limits)


async def _warm(backend: LocalBackend) -> None:
    """The nursery imports Paddle while the archives are opened."""
    try:
        await backend.start()
    except WorkerDied as error:  # the next worker that is wanted tries again
        if not backend.closed:  # else it was ended with the server, whose start was refused
            _log.error("%s", error)


def _drain_seconds(config: Config) -> float:
    """Of the time to stop, what accepted requests have: a little is left for the rest."""
    return max(config.stop_timeout_seconds - _END_SECONDS, config.stop_timeout_seconds / 2)
