"""The program of a front-end process: the listeners of the ports for predictions, on an engine in another process."""

from __future__ import annotations

import asyncio
import contextlib
import faulthandler
import logging
import os
import socket
import sys
from pathlib import Path

from pdserver.codec.pool import CodecPool
from pdserver.configuration.passing import decoded
from pdserver.dialects.oip.protocol import open_inference
from pdserver.errors import PdError
from pdserver.front_ends.forwarded import ForwardedCounts
from pdserver.front_ends.messages import Begin, FromMain, Hurry, Ready, Stop
from pdserver.front_ends.passing import Passing
from pdserver.front_ends.process import SHOW_STACK
from pdserver.front_ends.remote import RemoteEngine
from pdserver.logs.forwarding import forward
from pdserver.metrics.shared import beat, own_statuses
from pdserver.security.guards import Guards
from pdserver.server.dialects import spoken
from pdserver.server.transports import Counts, Listener, Transports
from pdserver.system import signals
from pdserver.system.event_loop import run, spare_the_collector
from pdserver.system.shared_page import SharedPage

_log = logging.getLogger("pdserver.front_ends")


class FrontEndServer:
    """It serves from `Begin` to `Stop`, and ends at once with the main process."""

    def __init__(self, sock: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        self._begun: asyncio.Future[Begin] = loop.create_future()
        self._stopped: asyncio.Future[float] = loop.create_future()
        self._listeners: list[Listener] = []
        self._engine = RemoteEngine(sock, self._said, _end)
        self._passing = Passing(self._engine.say)

    async def run(self) -> None:
        """Until all that was accepted is answered."""
        forward(self._engine.say)
        begin = await self._begun
        async with contextlib.AsyncExitStack() as stack:
            await self._listen(begin, stack)
            self._engine.say(Ready())
            spare_the_collector()
            grace_seconds = await self._stopped
            await asyncio.gather(*(listener.stop(grace_seconds) for listener in self._listeners))
            await self._engine.settled()  # the main process tells those for whom there is no time left
        await self._engine.said()

    async def fail(self, error: PdError) -> None:
        """Say why it can't serve, such as a file of tokens that has been spoiled since the server's start, and end."""
        _log.error("%s", error)
        await self._engine.said()
        sys.exit(1)

    async def _listen(self, begin: Begin, stack: contextlib.AsyncExitStack) -> None:
        config, engine = decoded(begin.config), self._engine
        page = SharedPage(begin.page, begin.number)
        guards = Guards(config, Path(begin.state), page)
        codec = CodecPool.part(config.front_ends)
        stack.push_async_callback(codec.close)
        mirror = engine.mirror
        mirror.regions.enabled = config.allow_client_shm
        protocol = open_inference(config, engine, mirror.repository, mirror.regions, codec)
        stack.callback(protocol.regions.close)
        whole = spoken(config, protocol, mirror.control, details=guards.keyring is None)
        dialects = {port: [self._passing.dialect(each) for each in those] for port, those in whole.items()}
        sockets = {name: [socket.socket(fileno=fd) for fd in fds] for name, fds in begin.sockets.items()}
        counts = Counts(own_statuses(page), ForwardedCounts(engine.say))
        transports = Transports(config, engine, dialects, guards, counts, stack)
        self._listeners = transports.listeners
        await transports.serve_grpc(sockets)
        for name in [name for name in begin.rules if name in sockets]:
            routes = self._passing.routes(name, dialects[name], transports.peers)
            transports.serve_http(name, routes, begin.rules[name], sockets[name])
        for work in (guards.watch(), beat(page)):
            stack.callback(asyncio.create_task(work).cancel)

    def _said(self, message: FromMain) -> None:
        if isinstance(message, Begin):
            self._begun.set_result(message)
        elif isinstance(message, Stop):
            self._stopped.set_result(message.grace_seconds)
        elif isinstance(message, Hurry):
            for listener in self._listeners:
                listener.hurry()
        else:
            self._passing.take(message)


def _end() -> None:
    """The main process is gone."""
    os._exit(0)


async def _run(fd: int) -> None:
    front_end = FrontEndServer(socket.socket(fileno=fd))
    try:
        await front_end.run()
    except PdError as error:
        await front_end.fail(error)


if __name__ == "__main__":
    signals.ignore()  # the main process says when to stop
    faulthandler.enable()
    faulthandler.register(SHOW_STACK)
    run(_run(int(sys.argv[1])))
