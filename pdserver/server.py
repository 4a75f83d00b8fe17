"""The composition root: builds the parts, opens the ports, runs, and closes everything in reverse."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import functools
import logging
import os
import signal
import socket
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, cast

import msgspec
import uvicorn
from starlette.routing import BaseRoute
from starlette.types import ASGIApp

from pdserver import grpc_ports
from pdserver.access_log import AccessLog
from pdserver.asgi import Observed, Preflight, application
from pdserver.backends.local import LocalBackend
from pdserver.codec.pool import CodecPool
from pdserver.config import Config
from pdserver.config_values import Address, ModelToLoad
from pdserver.connection import Connection, Port
from pdserver.dialects.oip import routes as oip_routes
from pdserver.dialects.oip.http import Below
from pdserver.dialects.oip.protocol import OpenInference, open_inference
from pdserver.dialects.oip.rest import OipDoor, infer_target
from pdserver.dialects.torchserve import rest as torchserve
from pdserver.dialects.torchserve import routes as torchserve_routes
from pdserver.dialects.torchserve.errors import WORDS
from pdserver.downloads import Downloads
from pdserver.engine.engine import Engine
from pdserver.engine.lifecycle import SERVING
from pdserver.environments import Environments
from pdserver.errors import ConfigError, WorkerDied
from pdserver.grpc_transport.server import GrpcServer
from pdserver.guards import Guards
from pdserver.known_heads import KnownHeads
from pdserver.management import metrics as metrics_routes
from pdserver.management.rest import Management
from pdserver.management.snapshot import Snapshots, read_last_snapshot
from pdserver.management.tokens import routes as token_routes
from pdserver.management.verbs import Verbs
from pdserver.metrics import Metrics
from pdserver.plugins import endpoint_routes, metric_sinks
from pdserver.protocol import Front, PredictionProtocol
from pdserver.run_directory import PidFile, RunDirectory, is_temporary, state_folder
from pdserver.security.listening import BACKLOG
from pdserver.security.tls import HANDSHAKE_SECONDS
from pdserver.store import Store
from pdserver.telemetry import Telemetry
from pdserver.triton.repository import ModelRepository
from pdserver.worker.environment import WorkerEnvironment

_log = logging.getLogger("pdserver.server")
_STOPPING = (
    *(signal.SIGTERM, signal.SIGINT, signal.SIGQUIT),
    *(signal.SIGPWR, signal.SIGXCPU),  # the power fails; the processor time that setrlimit(2) gives is used up
)
_LEFT_TO_THE_SYSTEM = (
    *(signal.SIGKILL, signal.SIGSEGV, signal.SIGBUS, signal.SIGFPE, signal.SIGILL, signal.SIGABRT),
    *(signal.SIGTRAP, signal.SIGSYS, signal.SIGSTOP, signal.SIGTSTP, signal.SIGTTIN, signal.SIGTTOU, signal.SIGCONT),
    *(signal.SIGCHLD, signal.SIGURG, signal.SIGWINCH, signal.SIGPIPE, signal.SIGXFSZ),
)
"""A crash, a pause, and what does not end Python anyway."""
_IGNORED = sorted(signal.valid_signals() - {*_STOPPING, signal.SIGHUP, *_LEFT_TO_THE_SYSTEM})
"""SIGUSR1 and SIGUSR2, with which other servers are told to open their logs anew, and all others that end a process."""
_AGAIN_SECONDS = 1.0
"""A signal that comes sooner than this after the first is the same one: a shell or supervisor may send it to the server
and to its whole group."""
_JOINING = ("management", "metrics")
"""They may have the address of the inference port, or of one another."""
_END_SECONDS = 1.0
_MAX_PARAMETER_BYTES = 1024 * 1024
"""What a body may have on the ports where none is a model's input."""


class _Listener(uvicorn.Server):
    """A uvicorn server that leaves the signals to the one who runs several of them."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """uvicorn's, which would give a client a minute for TLS's first words."""
        config = self.config
        await self.lifespan.startup()
        loop = asyncio.get_running_loop()
        self.servers = [
            await loop.create_server(
                self._protocol,
                sock=sock,
                ssl=config.ssl,
                backlog=config.backlog,
                ssl_handshake_timeout=self._patience_seconds(),
            )
            for sock in sockets or []
        ]
        self.started = True

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """uvicorn's, which would hang up on those who wait at the door when it is closed."""
        doors = [sock.dup() for sock in sockets or []]
        letting_in = asyncio.create_task(self._let_in(doors))  # which begins when uvicorn has closed its own
        await super().shutdown(sockets)
        await letting_in

    async def _let_in(self, doors: list[socket.socket]) -> None:
        """Those who have come before the door is closed for good; each has one request."""
        clients: list[socket.socket] = []
        for door in doors:
            with door, contextlib.suppress(OSError):
                while True:
                    clients.append(door.accept()[0])
        loop = asyncio.get_running_loop()
        for client in clients:
            client.setblocking(False)
            with contextlib.suppress(OSError):
                _, connection = await loop.connect_accepted_socket(
                    self._protocol, client, ssl=self.config.ssl, ssl_handshake_timeout=self._patience_seconds()
                )
                connection.shutdown()

    def _protocol(self) -> Any:
        config = self.config
        return cast(Any, config.http_protocol_class)(config=config, server_state=self.server_state, app_state={})

    def _patience_seconds(self) -> float | None:
        return HANDSHAKE_SECONDS if self.config.ssl is not None else None


class Started(msgspec.Struct):
    """What came of a start."""

    addresses: dict[str, str]
    models: dict[str, int]
    """What is served, and by how many workers."""
    problems: dict[str, str]
    """What is not served, and why."""
    restored: bool
    """Whether a snapshot said what to serve."""


class Server:
    """One server, from its configuration."""

    def __init__(self, config: Config) -> None:
        self._config = config
        self._stop = asyncio.Event()
        self._stopped_at = 0.0
        self._hurried = False
        self._listeners: list[_Listener] = []
        self._grpc: GrpcServer | None = None
        self._engine: Engine | None = None
        self._restored = False
        self._joined: dict[str, str] = {}
        """Ports that have the same address as another, with that one."""
        self.addresses: dict[str, str] = {}
        """What listens where, with the real port where 0 was asked for: inference, management, metrics → URLs,
        grpc_inference, grpc_management → host:port; and where the tokens are, if there are any."""

    async def run(self, on_ready: Callable[[Started], None], on_progress: Callable[[str], None]) -> None:
        """Serve until one of the signals `_STOPPING`. `on_progress` is told of each model that is loaded at the start,
        `on_ready` what came of it once all are.

        Raises ConfigError when a port can't be opened, Conflict when this server runs already.
        """
        config = self._config
        self._handle_signals()
        state = state_folder(config.state_location, config.xdg_state_home)
        guards = Guards(config, state)
        async with contextlib.AsyncExitStack() as stack:
            pid_file = PidFile.of(state, config.management_address)
            pid_file.acquire(config.management_address)
            stack.callback(pid_file.release)
            telemetry = Telemetry(config, metric_sinks())
            stack.push_async_callback(telemetry.close)
            metrics = telemetry.metrics
            sockets = self._bind(stack)
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
                sequence_headers=config.sequence_headers,
                default_handler=config.default_service_handler,
                environments=Environments(
                    config.venv_location or state / "environments",
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
            if snapshots is not None:
                engine.registry.on_change, engine.keep = snapshots.changed, snapshots.keep
            codec = CodecPool()
            stack.push_async_callback(codec.close)
            protocol = open_inference(config, engine, models.repository, codec)
            stack.callback(protocol.regions.close)
            verbs = Verbs(engine)
            if config.enable_grpc:
                self._grpc = grpc_ports.make(access, guards)
                stack.push_async_callback(self._grpc.stop, 0)
                await grpc_ports.serve(self._grpc, config, protocol, verbs, guards, sockets)
            serving = [
                asyncio.create_task(listener.serve(sockets=listened))
                for listener, listened in self._listen(engine, protocol, verbs, metrics, access, guards, sockets)
            ]
            watching = asyncio.create_task(guards.watch())
            stack.callback(watching.cancel)
            telemetry.start()
            following: asyncio.Task[None] | None = None
            try:
                await self._until_stopped(self._load(engine, store, models, snapshots, on_progress))
                following = asyncio.create_task(models.follow())
                await warming
                if not self._stop.is_set():
                    on_ready(self._started(engine))
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
        await engine.close(max(0.0, deadline - time.monotonic()) if not self._hurried else 0.0)

    def _bind(self, stack: contextlib.AsyncExitStack) -> dict[str, list[socket.socket]]:
        """All ports, before anything else is begun."""
        sockets: dict[str, list[socket.socket]] = {}
        listening: dict[Address, str] = {}
        for key, address in self._config.addresses.items():
            name = key.removesuffix("_address")
            if name in _JOINING and address.port and address in listening:
                self._joined[name] = listening[address]
                self.addresses[name] = self.addresses[listening[address]]
                continue
            if name in ("inference", *_JOINING):
                listening[address] = name
            grpc = "grpc" in name
            sockets[name] = _bind(grpc_ports.setting(name, address) if grpc else f"{key}={address}", address)
            for sock in sockets[name]:
                stack.callback(sock.close)
            bound = [_where(sock, tls=address.tls) for sock in sockets[name]]
            self.addresses[name] = " ".join(each.host_and_port if grpc else str(each) for each in bound)
        return sockets

    def _listen(
        self,
        engine: Engine,
        protocol: OpenInference,
        verbs: Verbs,
        metrics: Metrics,
        access: AccessLog | None,
        guards: Guards,
        sockets: dict[str, list[socket.socket]],
    ) -> Iterator[tuple[_Listener, list[socket.socket]]]:
        config = self._config
        oip_door = OipDoor(protocol, torchserve.open_inference_door(protocol.codec, infer_target))
        shared: dict[str, Any] = {
            "max_connections": guards.max_connections,
            "slow_client_seconds": config.slow_client_timeout_seconds,
            "idle_seconds": config.idle_timeout_seconds,
            "receiving": guards.receiving,
            "statuses": metrics.http_responses,
            "access": access,
        }
        details = guards.keyring is None
        keys = token_routes(guards.keyring) if guards.keyring is not None else []
        added = endpoint_routes(engine)
        oip = oip_routes.application(protocol)
        management = Management(verbs, enable_model_api=config.enable_model_api)
        routes: dict[str, list[BaseRoute]] = {
            "inference": [*torchserve_routes.routes(engine, details=details), Below("/v2", oip), *added["inference"]],
            "oip": oip.routes,
            "management": [*management.routes(), *keys, *added["management"]],
            "metrics": [*metrics_routes.routes(metrics, guards.metrics), *added["metrics"]],
        }
        for name, other in self._joined.items():
            routes[other] += routes.pop(name)
        port_guards = {name: guards.of(name, routes[name]) for name in routes}
        front = Front(
            **shared,
            guard=port_guards["inference"],
            max_request_bytes=config.max_request_bytes,
            doors={**torchserve.doors(protocol.codec, engine.only_model), b"v2": oip_door},
            other_door=torchserve.other_door(protocol.codec),
            submit=engine.submit,
        )
        fronts = {
            "inference": front,
            "oip": msgspec.structs.replace(
                front, guard=port_guards["oip"], doors={b"v2": oip_door}, other_door=oip_door, heads=KnownHeads()
            ),
        }
        for name in [name for name in routes if name in sockets]:
            http: Any
            if name in fronts:
                http = functools.partial(PredictionProtocol, fronts[name])
            else:
                port = Port(**shared, guard=port_guards[name], max_request_bytes=_MAX_PARAMETER_BYTES)
                http = functools.partial(Connection, port)
            inner = oip if name == "oip" else application(routes[name], WORDS)
            app: ASGIApp = Observed(inner, metrics.http_responses, access)
            listener = _listener(app, http, guards, config.addresses[f"{name}_address"].tls, config)
            self._listeners.append(listener)
            yield listener, sockets[name]

    def _started(self, engine: Engine) -> Started:
        served = {
            str(pool.spec.ref): sum(slot.state in SERVING for slot in pool.slots) for pool in engine.registry.pools()
        }
        return Started(self.addresses, served, engine.health().problems, self._restored)

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
        stopped = asyncio.ensure_future(self._stop.wait())
        await asyncio.wait([task, stopped], return_when=asyncio.FIRST_COMPLETED)
        for pending in (task, stopped):
            if not pending.done():
                pending.cancel()
        if task.done():
            task.result()

    def _handle_signals(self) -> None:
        """No signal but SIGKILL and those of a crash ends the server before it has answered what it accepted."""
        loop = asyncio.get_running_loop()
        hangs_up = _has_terminal() and signal.getsignal(signal.SIGHUP) != signal.SIG_IGN  # as nohup(1) leaves it
        for number in (*_STOPPING, signal.SIGHUP) if hangs_up else _STOPPING:
            loop.add_signal_handler(number, self._signalled, number)
        for number in _IGNORED if hangs_up else (*_IGNORED, signal.SIGHUP):
            loop.add_signal_handler(number, _log.info, "%s: ignored", signal.strsignal(number))

    def _signalled(self, number: int) -> None:
        if not self._stop.is_set():
            _log.info("%s: stopping; what was accepted is answered first", signal.Signals(number).name)
            self._stopped_at = time.monotonic()
            self._stop.set()
        elif time.monotonic() - self._stopped_at >= _AGAIN_SECONDS:
            self._hurried = True
            _log.warning("%s again: ending at once", signal.Signals(number).name)
            for listener in self._listeners:
                listener.force_exit = True
            if self._grpc is not None:
                self._grpc.hurry()
            if self._engine is not None:
                self._engine.hurry()


def _has_terminal() -> bool:
    """Whether there is one to lose: that is what SIGHUP says then. Else it asks a server to read its files anew, which
    this one does without: tokens, certificates and logs."""
    try:
        os.close(os.open("/dev/tty", os.O_RDWR | os.O_NOCTTY))
    except OSError:
        return False
    return True


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


def _listener(app: ASGIApp, protocol: Any, guards: Guards, tls: bool, config: Config) -> _Listener:
    certificate = guards.certificate if tls else None
    context = certificate.context if certificate else None
    return _Listener(
        uvicorn.Config(
            cast(Any, Preflight(app) if guards.cors.origin else app),
            http=protocol,
            ws="none",
            lifespan="off",
            log_config=None,
            access_log=False,
            proxy_headers=False,
            server_header=False,
            headers=guards.cors.response_headers(),
            ssl_context_factory=(lambda *_: context) if context else None,
            backlog=BACKLOG,
            timeout_graceful_shutdown=max(1, int(_drain_seconds(config))),
        )
    )


def _where(sock: socket.socket, *, tls: bool) -> Address:
    host, port = sock.getsockname()[:2]
    return Address(host, port, tls)


def _bind(setting: str, address: Address) -> list[socket.socket]:
    """A socket for each address that the host has; all of them have the same port."""
    hosts = ("127.0.0.1", "::1") if address.host.lower() == "localhost" else (address.host,)
    try:
        found = [each for host in hosts for each in socket.getaddrinfo(host, address.port, type=socket.SOCK_STREAM)]
    except socket.gaierror as error:
        raise ConfigError(f"{setting}: {error.strerror}: name an address of this machine") from None
    sockets: list[socket.socket] = []
    port = address.port
    for family, kind, protocol, _, where in dict.fromkeys(found):
        try:
            sock = _listening(family, kind, protocol, (where[0], port, *where[2:]))
        except OSError as error:
            if sockets and error.errno in (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT):
                continue  # there is no IPv6 here
            for other in sockets:
                other.close()
            raise ConfigError(f"{setting}: {error.strerror}: stop what uses it, or choose another port") from None
        port = sock.getsockname()[1]
        sockets.append(sock)
    return sockets


def _listening(family: int, kind: int, protocol: int, where: Any) -> socket.socket:
    """Raises OSError."""
    sock = socket.socket(family, kind, protocol)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind(where)
        sock.listen(BACKLOG)
    except OSError:
        sock.close()
        raise
    sock.setblocking(False)
    return sock
