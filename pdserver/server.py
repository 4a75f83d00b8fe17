"""The composition root: builds the parts, opens the ports, runs, and closes everything in reverse."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import logging
import signal
import socket
import time
from collections.abc import Callable, Iterator, Sequence
from types import FrameType
from typing import Any, cast

import msgspec
import uvicorn
from starlette.types import ASGIApp

from pdserver import grpc_ports
from pdserver.access_log import AccessLog
from pdserver.asgi import Observed, application
from pdserver.backends.local import LocalBackend
from pdserver.config import Config
from pdserver.config_values import Address, ModelToLoad
from pdserver.dialects.oip import routes as oip_routes
from pdserver.dialects.oip.http import Below
from pdserver.dialects.oip.protocol import OpenInference, open_inference
from pdserver.dialects.oip.rest import OipDoor
from pdserver.dialects.torchserve import rest as torchserve
from pdserver.dialects.torchserve import routes as torchserve_routes
from pdserver.downloads import Downloads
from pdserver.engine.engine import Engine
from pdserver.environments import Environments
from pdserver.errors import ConfigError, WorkerDied
from pdserver.grpc_server import GrpcServer
from pdserver.management import metrics as metrics_routes
from pdserver.management.rest import Management
from pdserver.management.snapshot import Snapshots, read_last_snapshot
from pdserver.management.verbs import Verbs
from pdserver.metrics import Metrics
from pdserver.plugins import endpoint_routes, metric_sinks
from pdserver.protocol import Front, PredictionProtocol
from pdserver.run_directory import PidFile, RunDirectory, home
from pdserver.store import Store
from pdserver.telemetry import Telemetry
from pdserver.triton.repository import ModelRepository

_log = logging.getLogger("pdserver.server")
_BACKLOG = 2048
_END_SECONDS = 1.0


class _Listener(uvicorn.Server):
    """A uvicorn server that leaves the signals to the one who runs several of them."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


class Server:
    """One server, from its configuration."""

    def __init__(self, config: Config) -> None:
        self._config = config
        self._stop = asyncio.Event()
        self._stop_signals = 0
        self._listeners: list[_Listener] = []
        self._grpc: GrpcServer | None = None
        self._engine: Engine | None = None
        self.addresses: dict[str, str] = {}
        """What listens where, with the real port where 0 was asked for: inference, management, metrics → URL,
        grpc_inference, grpc_management → host:port."""

    async def run(self, on_ready: Callable[[dict[str, str]], None]) -> None:
        """Serve until SIGTERM, SIGINT or SIGHUP. `on_ready` is told what is not served, and why, once the rest is.

        Raises ConfigError when a port can't be opened, Conflict when this server runs already.
        """
        config = self._config
        async with contextlib.AsyncExitStack() as stack:
            pid_file = PidFile(config.management_address.host, config.management_address.port)
            pid_file.acquire()
            stack.callback(pid_file.release)
            telemetry = Telemetry(config, metric_sinks())
            stack.push_async_callback(telemetry.close)
            metrics = telemetry.metrics
            sockets = self._bind(stack)
            run_directory = RunDirectory()
            stack.callback(run_directory.close)
            self._handle_signals()
            backend = LocalBackend(config.blacklist_env_vars)
            stack.push_async_callback(backend.close)
            warming = asyncio.create_task(_warm(backend))
            store = Store(config.model_store, run_directory.path, config.archive_limits)
            downloads = Downloads(
                run_directory.path / "downloads",
                config.allowed_urls,
                max_bytes=config.max_archive_bytes,
                timeout_seconds=config.download_timeout_seconds,
            )
            self._engine = engine = Engine(
                store,
                downloads,
                backend,
                metrics,
                models=config.models,
                defaults=config.model_defaults,
                default_handler=config.default_service_handler,
                environments=Environments(
                    config.venv_location or home() / "environments",
                    for_all=config.install_py_dep_per_model,
                    timeout_seconds=config.install_py_dep_timeout_seconds,
                ),
                unregister_timeout_seconds=config.unregister_model_timeout_seconds,
                response_cache_bytes=config.response_cache_bytes,
            )
            access = None
            if config.access_log:
                access = AccessLog(json=config.log_format == "json", each=config.log_config is not None)
                stack.callback(access.close)
            models = ModelRepository(config, engine, store, run_directory.path)
            snapshots = Snapshots(config.snapshot_folder, engine.wanted) if config.config_snapshots else None
            protocol = open_inference(config, engine, models.repository)
            stack.callback(protocol.regions.close)
            verbs = Verbs(engine)
            if config.enable_grpc:
                self._grpc = GrpcServer(access)
                stack.push_async_callback(self._grpc.stop, 0)
                await grpc_ports.serve(self._grpc, config, protocol, verbs, sockets)
            serving = [
                asyncio.create_task(listener.serve(sockets=[sock]))
                for listener, sock in self._listen(engine, protocol, verbs, metrics, access, sockets)
            ]
            telemetry.start()
            following: asyncio.Task[None] | None = None
            try:
                await self._until_stopped(self._load(engine, store, models, snapshots))
                following = asyncio.create_task(models.follow())
                await warming
                if not self._stop.is_set():
                    on_ready(engine.health().problems)
                await self._stop.wait()
            finally:
                if following is not None:
                    following.cancel()
                await self._end(serving, engine, snapshots)

    async def _end(self, serving: list[asyncio.Task[None]], engine: Engine, snapshots: Snapshots | None) -> None:
        """Take no more in, answer what was accepted, and tell those for whom there is no time left."""
        drain_seconds = _drain_seconds(self._config)
        deadline = time.monotonic() + drain_seconds
        engine.stop()
        for listener in self._listeners:
            listener.should_exit = True
        if self._grpc is not None:
            serving.append(asyncio.create_task(self._grpc.stop(drain_seconds)))
        await asyncio.gather(*serving)
        if snapshots is not None:
            await snapshots.close()
        await engine.close(max(0.0, deadline - time.monotonic()) if self._stop_signals < 2 else 0.0)

    def _bind(self, stack: contextlib.AsyncExitStack) -> dict[str, socket.socket]:
        """All ports, before anything else is begun."""
        config = self._config
        wanted = {"inference": config.inference_address, "management": config.management_address}
        if config.oip_address is not None:
            wanted["oip"] = config.oip_address
        if config.enable_metrics_api:
            wanted["metrics"] = config.metrics_address
        sockets = {}
        for name, address in wanted.items():
            sockets[name] = sock = _bind(f"{name}_address={address}", address)
            self.addresses[name] = str(Address(address.host, sock.getsockname()[1]))
        for name, address in grpc_ports.addresses(config).items():
            sockets[name] = sock = _bind(grpc_ports.setting(name, address), address)
            self.addresses[name] = Address(address.host, sock.getsockname()[1]).host_and_port
        for sock in sockets.values():
            stack.callback(sock.close)
        return sockets

    def _listen(
        self,
        engine: Engine,
        protocol: OpenInference,
        verbs: Verbs,
        metrics: Metrics,
        access: AccessLog | None,
        sockets: dict[str, socket.socket],
    ) -> Iterator[tuple[_Listener, socket.socket]]:
        config = self._config
        oip_door = OipDoor(protocol)
        front = Front(
            doors=torchserve.doors(engine.only_model) | {b"v2": oip_door},
            other_door=torchserve.OTHER_DOOR,
            submit=engine.submit,
            max_request_bytes=config.max_request_bytes,
            statuses=metrics.http_responses,
            access=access,
        )
        fronts = {
            "inference": front,
            "oip": msgspec.structs.replace(front, doors={b"v2": oip_door}, other_door=oip_door),
        }
        oip = oip_routes.application(protocol)
        management = Management(verbs, enable_model_api=config.enable_model_api)
        added = endpoint_routes(engine)
        apps = {
            "inference": application([*torchserve_routes.routes(engine), Below("/v2", oip), *added["inference"]]),
            "oip": oip,
            "management": application([*management.routes(), *added["management"]]),
            "metrics": application([*metrics_routes.routes(metrics), *added["metrics"]]),
        }
        for name in [name for name in apps if name in sockets]:
            http: Any = functools.partial(PredictionProtocol, fronts[name]) if name in fronts else "httptools"
            observed = Observed(apps[name], metrics.http_responses, access)
            listener = _listener(observed, http, _drain_seconds(config))
            self._listeners.append(listener)
            yield listener, sockets[name]

    async def _load(self, engine: Engine, store: Store, models: ModelRepository, snapshots: Snapshots | None) -> None:
        await models.load()
        await engine.load_at_start(await self._wanted(store))
        if snapshots is not None:
            await snapshots.save("startup")
            engine.registry.on_change = snapshots.changed

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
        stopped = asyncio.ensure_future(self._stop.wait())
        await asyncio.wait([task, stopped], return_when=asyncio.FIRST_COMPLETED)
        for pending in (task, stopped):
            if not pending.done():
                pending.cancel()
        if task.done():
            task.result()

    def _handle_signals(self) -> None:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            loop.add_signal_handler(number, self._signalled, number)

    def _signalled(self, number: int, _: FrameType | None = None) -> None:
        self._stop_signals += 1
        if self._stop_signals == 1:
            _log.info("%s: stopping; what was accepted is answered first", signal.Signals(number).name)
            self._stop.set()
        else:
            _log.warning("%s again: ending at once", signal.Signals(number).name)
            for listener in self._listeners:
                listener.force_exit = True
            if self._grpc is not None:
                self._grpc.hurry()
            if self._engine is not None:
                self._engine.hurry()


async def _warm(backend: LocalBackend) -> None:
    """The nursery imports Paddle while the archives are opened."""
    try:
        await backend.start()
    except WorkerDied as error:  # the next worker that is wanted tries again
        _log.error("%s", error)


def _drain_seconds(config: Config) -> float:
    """Of the time to stop, what accepted requests have: a little is left for the rest."""
    return max(config.stop_timeout_seconds - _END_SECONDS, config.stop_timeout_seconds / 2)


def _listener(app: ASGIApp, protocol: Any, drain_seconds: float) -> _Listener:
    return _Listener(
        uvicorn.Config(
            cast(Any, app),
            http=protocol,
            ws="none",
            lifespan="off",
            log_config=None,
            access_log=False,
            proxy_headers=False,
            server_header=False,
            backlog=_BACKLOG,
            timeout_graceful_shutdown=max(1, int(drain_seconds)),
        )
    )


def _bind(setting: str, address: Address) -> socket.socket:
    try:
        family, kind, protocol, _, where = socket.getaddrinfo(address.host, address.port, type=socket.SOCK_STREAM)[0]
    except socket.gaierror as error:
        raise ConfigError(f"{setting}: {error.strerror}: name an address of this machine") from None
    sock = socket.socket(family, kind, protocol)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        sock.bind(where)
        sock.listen(_BACKLOG)
    except OSError as error:
        sock.close()
        raise ConfigError(f"{setting}: {error.strerror}: stop what uses it, or choose another port") from None
    sock.setblocking(False)
    return sock
