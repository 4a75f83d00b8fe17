"""The front-end processes, as the main process has them."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import sys
from collections.abc import Mapping, Sequence

import msgspec
from starlette.types import ASGIApp

from pdserver.dialects import rpc
from pdserver.engine.engine import Engine
from pdserver.errors import Unavailable
from pdserver.front_ends.answering import Answering
from pdserver.front_ends.catalogue import Shown
from pdserver.front_ends.front_end import FrontEnd
from pdserver.front_ends.messages import Begin, FromFrontEnd, Hurry, Ready, Seen, Stop

_log = logging.getLogger("pdserver.front_ends")
_PROGRAM = "pdserver.server.front_end"
_GRACE_SECONDS = 2.0


class _Process(msgspec.Struct, eq=False):
    """One front end."""

    process: asyncio.subprocess.Process
    line: FrontEnd
    answering: Answering
    ready: asyncio.Future[None]


class FrontEnds:
    """Starts a process for each of `sockets`, and answers what they pass on with `apps` and `methods`."""

    def __init__(
        self,
        engine: Engine,
        shown: Shown,
        begin: Begin,
        sockets: Sequence[Mapping[str, Sequence[socket.socket]]],
        apps: Mapping[str, ASGIApp],
        methods: Mapping[str, rpc.Method],
    ) -> None:
        self._engine = engine
        self._begin = begin
        self._sockets = sockets
        self._apps = apps
        self._methods = methods
        self._running: list[_Process] = []
        self._shown = shown

    async def start(self) -> None:
        """Start all. Raises OSError."""
        await asyncio.gather(*map(self._start, self._sockets))

    async def ready(self) -> None:
        """Wait until all accept clients. Raises Unavailable."""
        await asyncio.gather(*(each.ready for each in self._running))

    async def _start(self, sockets: Mapping[str, Sequence[socket.socket]]) -> None:
        ours, theirs = socket.socketpair()
        with theirs:
            inherited = {name: [sock.fileno() for sock in each] for name, each in sockets.items()}
            process = await asyncio.create_subprocess_exec(
                sys.executable,
                *("-m", _PROGRAM, str(theirs.fileno())),
                pass_fds=[theirs.fileno(), *(fd for fds in inherited.values() for fd in fds)],
                stdin=asyncio.subprocess.DEVNULL,
                start_new_session=True,  # a signal to the server's process group leaves it there, to answer the rest
            )
        line = FrontEnd(ours, self._engine.submit, self._said, self._ended)
        answering = Answering(self._apps, self._methods, line.say, self._shown.by_all)
        ready: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        line.say(msgspec.structs.replace(self._begin, sockets=inherited))
        self._shown.add(line)
        self._running.append(_Process(process, line, answering, ready))

    def _of(self, line: FrontEnd) -> _Process | None:
        return next((each for each in self._running if each.line is line), None)

    def _said(self, line: FrontEnd, message: FromFrontEnd) -> None:
        own = self._of(line)
        if own is None:
            return
        if isinstance(message, Seen):
            self._shown.seen()
        elif isinstance(message, Ready):
            own.ready.set_result(None)
        else:
            own.answering.take(message)

    def _ended(self, line: FrontEnd) -> None:
        own = self._of(line)
        if own is None:
            return
        self._running.remove(own)
        own.answering.close()
        if not own.ready.done():
            own.ready.set_exception(Unavailable("a front end ended before it accepted clients; see the log"))
        self._shown.remove(line)

    async def stop(self, grace_seconds: float) -> None:
        """Have them accept no more clients, answer what was accepted within this time, and end."""
        running = list(self._running)
        for each in running:
            each.line.say(Stop(grace_seconds))
        ending = asyncio.gather(*(each.process.wait() for each in running))
        with contextlib.suppress(asyncio.TimeoutError):
            await asyncio.wait_for(asyncio.shield(ending), grace_seconds + _GRACE_SECONDS)
        self.close()
        await ending

    def hurry(self) -> None:
        for each in self._running:
            each.line.say(Hurry())

    def close(self) -> None:
        """End them now. Idempotent."""
        for each in list(self._running):
            each.line.close()
            with contextlib.suppress(ProcessLookupError):
                each.process.kill()
