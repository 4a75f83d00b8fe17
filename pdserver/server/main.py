"""The composition root: builds the parts, opens the ports, runs, and closes everything in reverse."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import time
from collections.abc import Callable, Coroutine
from typing import Any

import msgspec

from pdserver import __version__
from pdserver.configuration.server import Config
from pdserver.dialects.oip.protocol import open_inference
from pdserver.dialects.oip.shared_memory import Regions
from pdserver.dialects.rpc import Service
from pdserver.engine.engine import Engine
from pdserver.front_ends.answering import seen_first
from pdserver.front_ends.catalogue import Shown
from pdserver.front_ends.processes import FrontEnds
from pdserver.management.grpc import Management
from pdserver.management.verbs import Verbs
from pdserver.metrics.shared import FrontEndGauges
from pdserver.metrics.telemetry import Telemetry
from pdserver.plugins import metric_sinks
from pdserver.security.guards import Guards
from pdserver.server.core import Core
from pdserver.server.dialects import spoken
from pdserver.server.front_ends import front_ends
from pdserver.server.http_ports import routes_of_ports
from pdserver.server.ports import Ports
from pdserver.server.signals import StopSignals
from pdserver.server.status import StatusSocket
from pdserver.server.transports import Counts, Listener, Transports
from pdserver.store.run_directory import PidFile, is_temporary, state_folder
from pdserver.system import shared_page
from pdserver.system.event_loop import spare_the_collector
from pdserver.system.shared_page import SharedPage
from pdserver.system.supervisor import Supervisor

_log = logging.getLogger("pdserver.server")
_END_SECONDS = 1.0
_RESTARTS = "accepts no clients now: another process takes its place; the log says how the last one ended"


class Started(msgspec.Struct):
    """What came of a start."""

    version: str
    """Of the server."""
    addresses: dict[str, str]
    models: dict[str, int]
    """What is served, and by how many workers."""
    engines: dict[str, str]
    """What runs it, where that is known."""
    problems: dict[str, str]
    """What is not served or does not run, and why."""
    front_ends: list[FrontEndGauges]
    """Empty if there is only this process."""
    logs: str
    """The folder."""
    restored: bool
    """Whether a snapshot said what to serve."""


class Server:
    """One server, from its configuration."""

    def __init__(self, config: Config) -> None:
        self._config = config
        self._signals = StopSignals(self._hurry)
        self._supervisor = Supervisor(config.notify_socket, config.watchdog_seconds)
        self._listeners: list[Listener] = []
        self._core: Core | None = None
        self._page: SharedPage | None = None
        self._front_ends: FrontEnds | None = None
        """With the page that they share with this process; None: this process serves all ports itself."""
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
        async with contextlib.AsyncExitStack() as stack:
            if config.front_ends > 1:
                self._page = shared_page.make(config.front_ends + 1)
                stack.callback(os.close, self._page.fd)
            guards = Guards(config, state, self._page)
            calming = asyncio.create_task(self._supervisor.keep_calm())
            stack.callback(calming.cancel)
            pid_file = PidFile.of(state, config.management_address)
            pid_file.acquire(config.management_address)
            stack.callback(pid_file.release)
            telemetry = Telemetry(config, metric_sinks(), self._page)
            stack.push_async_callback(telemetry.close)
            ports = Ports(config, stack)
            self.addresses |= ports.addresses
            if guards.token_file is not None:
                self.addresses["tokens"] = str(guards.token_file)
            if is_temporary(state):
                _log.warning("no home can be written: %s is used, which may be cleaned; set state_location", state)
            core = self._core = Core(config, state, telemetry, stack)
            status = StatusSocket(pid_file.socket, lambda: msgspec.to_builtins(self._started(core)))
            await status.open()
            stack.callback(status.close)
            await self._listen(core, telemetry, guards, ports, stack)
            telemetry.start()
            await self._serve(core, on_ready, on_progress)

    async def _listen(
        self, core: Core, telemetry: Telemetry, guards: Guards, ports: Ports, stack: contextlib.AsyncExitStack
    ) -> None:
        """Answer on all ports, in all dialects."""
        config, engine, metrics = self._config, core.engine, telemetry.metrics
        regions = Regions(enabled=config.allow_client_shm)
        stack.callback(regions.close)
        repository = core.repository.repository
        protocol = open_inference(config, engine, repository, regions, core.codec)
        dialects = spoken(config, protocol, core.control, details=guards.keyring is None)
        shown = Shown(engine.catalogue, repository, core.control, regions) if self._page is not None else None
        seen = shown.by_all if shown is not None else None
        counts = Counts(metrics.http_responses, metrics.forwarded)
        transports = Transports(config, engine, dialects, guards, counts, stack, seen)
        self._listeners = transports.listeners
        await transports.serve_grpc(ports.sockets, [self._management(engine, shown)])
        peers, http = transports.peers, transports.http_ports
        routes = routes_of_ports(config, dialects, engine, Verbs(engine), core.workflows, metrics, guards, peers)
        for name, other in ports.joined.items():
            routes[other] += routes.pop(name)
        if self._page is not None and shown is not None:
            self._front_ends = front_ends(config, core, shown, metrics, self._page, ports, dialects, routes, http)
            stack.push_async_callback(self._front_ends.close)
            self._listeners.append(self._front_ends)
            self._front_ends.start()
        for name in [name for name in routes if name in ports.sockets]:
            transports.serve_http(name, routes[name], routes[name], ports.sockets[name])
        watching = asyncio.create_task(guards.watch())
        stack.callback(watching.cancel)

    def _management(self, engine: Engine, shown: Shown | None) -> Service:
        """Management over gRPC. What it answers holds at all front ends."""
        service = Management(Verbs(engine), enable_model_api=self._config.enable_model_api).service()
        return service if shown is None else seen_first(service, shown.by_all)

    async def _serve(self, core: Core, on_ready: Callable[[Started], None], on_progress: Callable[[str], None]) -> None:
        """Load the models, and serve until a signal to stop; then answer what was accepted."""
        following: asyncio.Task[None] | None = None
        try:
            await self._until_stopped(core.load(on_progress))
            following = asyncio.create_task(core.follow())
            await core.warmed()
            if self._front_ends is not None:
                await self._until_stopped(self._front_ends.ready())
            spare_the_collector()
            if not self._signals.stopped.is_set():
                started = self._started(core)
                on_ready(started)
                self._supervisor.tell("READY=1", f"STATUS={len(started.models)} served")
            await self._signals.stopped.wait()
        finally:
            if following is not None:
                following.cancel()
            await self._end(core)

    async def _end(self, core: Core) -> None:
        """Take no more in, answer what was accepted, and tell those for whom there is no time left."""
        self._supervisor.tell("STOPPING=1")
        drain_seconds = _drain_seconds(self._config)
        deadline = time.monotonic() + drain_seconds

        def remaining_seconds() -> float:
            return 0.0 if self._signals.hurried else max(0.0, deadline - time.monotonic())

        core.engine.stop()
        await asyncio.gather(*(listener.stop(drain_seconds) for listener in self._listeners))
        await core.close(remaining_seconds)

    def _hurry(self) -> None:
        for listener in self._listeners:
            listener.hurry()
        if self._core is not None:
            self._core.engine.hurry()

    def _started(self, core: Core) -> Started:
        problems = dict(core.engine.catalogue.health().problems)
        served = {str(each.spec.ref): each for each in core.engine.catalogue.versions()}
        models = {ref: each.serving for ref, each in served.items() if each.serving or ref not in problems}
        engines = {ref: engine for ref in models if (engine := served[ref].engine)}
        front_ends = self._front_ends.gauges() if self._front_ends is not None else []
        problems |= {f"front end {each.number}": _RESTARTS for each in front_ends if not each.alive}
        logs = str(self._config.log_location)
        return Started(__version__, self.addresses, models, engines, problems, front_ends, logs, core.restored)

    async def _until_stopped(self, work: Coroutine[Any, Any, None]) -> None:
        """Do the work, and give it up at a signal to stop."""
        task = asyncio.ensure_future(work)
        stopped = asyncio.ensure_future(self._signals.stopped.wait())
        await asyncio.wait([task, stopped], return_when=asyncio.FIRST_COMPLETED)
        for pending in (task, stopped):
            if not pending.done():
                pending.cancel()
        if task.done():
            task.result()


def _drain_seconds(config: Config) -> float:
    """Of the time to stop, what accepted requests have: a little is left for the rest."""
    return max(config.stop_timeout_seconds - _END_SECONDS, config.stop_timeout_seconds / 2)
