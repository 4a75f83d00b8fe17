"""The front-end processes: one for each set of sockets, and another one in its place when it dies or hangs."""

from __future__ import annotations

import asyncio
import logging
import random
import socket
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import chain
from typing import Any

import msgspec
from starlette.types import ASGIApp

from pdserver.dialects import rpc
from pdserver.engine.engine import Engine
from pdserver.engine.lifecycle import backoff_seconds
from pdserver.errors import Unavailable
from pdserver.front_ends.answering import Answering
from pdserver.front_ends.catalogue import Shown
from pdserver.front_ends.messages import Begin, Forwarded, FromFrontEnd, Hurry, Ready, RegionGone, Seen, Stop
from pdserver.front_ends.process import FrontEndProcess, start
from pdserver.front_ends.watching import Watch
from pdserver.logs import forwarding
from pdserver.logs.forwarding import Logged
from pdserver.metrics import shared
from pdserver.metrics.shared import FrontEndGauges
from pdserver.security.limits import connections_of
from pdserver.system.shared_page import SharedPage

_log = logging.getLogger("pdserver.front_ends")
_LAST_SECONDS = 2.0
"""For the last answers of front ends, once the engine has settled everything."""
_HEALTHY_SECONDS = 10.0
"""One that dies after so long does not die again and again."""

Sockets = Mapping[str, Sequence[socket.socket]]


class _Seat(msgspec.Struct, eq=False):
    """What one process after another has: its sockets, and its row of the page."""

    number: int
    """From 1 on."""
    sockets: Sockets
    process: FrontEndProcess | None = None
    """The present one, if it runs."""
    answering: Answering | None = None
    """What it has passed on."""
    was_ready: bool = False
    """Whether one has ever accepted clients here."""
    restarts: int = 0
    failures: int = 0
    """Deaths in a row, each soon after its start."""

    @property
    def is_ready(self) -> bool:
        return self.process is not None and self.process.is_ready


class FrontEnds:
    """Keeps a process running for each of `sockets`, and answers what they pass on with `apps` and `methods`. `share`
    is told which of them accept clients; `forwarded` counts what they pass on to other servers."""

    def __init__(
        self,
        engine: Engine,
        shown: Shown,
        begin: Begin,
        page: SharedPage,
        forwarded: Counter[tuple[str, str]],
        sockets: Sequence[Sockets],
        share: Callable[[Sequence[int]], None],
        apps: Mapping[str, ASGIApp],
        methods: Mapping[str, rpc.Method],
    ) -> None:
        self._engine = engine
        self._begin = begin
        self._page = page
        self._forwarded = forwarded
        self._share = share
        self._apps = apps
        self._methods = methods
        self._seats = [_Seat(number, each) for number, each in enumerate(sockets, 1)]
        self._keeping: list[asyncio.Task[None]] = []
        self._ready: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._ready.add_done_callback(lambda done: done.cancelled() or done.exception())
        self._stopping = asyncio.Event()
        self._hurried = asyncio.Event()
        self._told = False
        """Whether the front ends have been told to stop."""
        self._watch = Watch(page, self._processes)
        self._shown = shown

    def _processes(self) -> Iterator[FrontEndProcess]:
        return (seat.process for seat in self._seats if seat.process is not None)

    def start(self) -> None:
        """Start all."""
        self._keeping = [asyncio.create_task(self._keep(seat)) for seat in self._seats]
        self._watch.start()

    async def ready(self) -> None:
        """Wait until all accept clients. Raises Unavailable."""
        await asyncio.shield(self._ready)

    def gauges(self) -> list[FrontEndGauges]:
        page = self._page
        return [
            FrontEndGauges(
                each.number,
                each.process.pid if each.process else None,
                each.is_ready,
                each.restarts,
                connections_of(page, each.number),
                shared.cpu_seconds(page, each.number),
            )
            for each in self._seats
        ]

    # One front end after another

    async def _keep(self, seat: _Seat) -> None:
        while not self._stopping.is_set():
            try:
                how, seconds = await self._run(seat)
            except Exception:  # noqa: BLE001 - whatever it is, clients wait at the seat's sockets
                _log.exception("front end %d could not be served", seat.number)
                how, seconds = "was given up", 0.0
            if self._stopping.is_set():
                return
            if not seat.was_ready:
                if not self._ready.done():
                    self._ready.set_exception(Unavailable(f"front end {seat.number} {how} at its start; see the log"))
                return
            seat.failures = 1 if seconds > _HEALTHY_SECONDS else seat.failures + 1
            pause_seconds = backoff_seconds(seat.failures, random.random())  # noqa: S311
            when = f"in {pause_seconds:.1f} s" if pause_seconds else "now"
            _log.error("front end %d %s; another one takes its place %s", seat.number, how, when)
            await asyncio.sleep(pause_seconds)
            seat.restarts += 1

    async def _run(self, seat: _Seat) -> tuple[str, float]:
        """Start a front end and wait for its end. Returns how it ended, and for how many seconds it was ready."""
        inherited = {name: [sock.fileno() for sock in each] for name, each in seat.sockets.items()}
        begin = msgspec.structs.replace(self._begin, number=seat.number, sockets=inherited)
        try:
            process = await start(
                seat.number,
                [begin.page, *chain(*inherited.values())],
                self._engine.submit,
                lambda line, message: self._said(seat, message),
            )
        except OSError as error:
            return f"could not be started ({error.strerror})", 0.0
        seat.process = process
        seat.answering = Answering(self._apps, self._methods, process.line.say, self._shown.by_all)
        process.line.say(begin)
        self._shown.add(process.line)
        try:
            await process.ended.wait()
            seconds = process.ready_seconds()
        finally:
            seat.process = None
            seat.answering.close()
            self._shown.remove(process.line)
            self._shared_anew()
            how = await process.end()
            self._page.bury(seat.number)
        return how, seconds

    def _said(self, seat: _Seat, message: FromFrontEnd) -> None:
        if isinstance(message, Seen):
            self._shown.seen()
        elif isinstance(message, RegionGone):
            self._region_gone(seat, message.name)
        elif isinstance(message, Logged):
            forwarding.write(message, seat.number)
        elif isinstance(message, Forwarded):
            self._forwarded[message.node, message.outcome] += message.count
        elif isinstance(message, Ready):
            self._accepts(seat)
        elif seat.answering is not None:
            seat.answering.take(message)

    def _region_gone(self, seat: _Seat, name: str) -> None:
        assert seat.process is not None  # noqa: S101
        self._shown.let_go(seat.process.line, name)

    def _accepts(self, seat: _Seat) -> None:
        assert seat.process is not None  # noqa: S101
        seat.process.accepts()
        seat.was_ready = True
        self._shared_anew()
        if all(each.was_ready for each in self._seats) and not self._ready.done():
            self._ready.set_result(None)

    def _shared_anew(self) -> None:
        """Connections go to those that accept them; if nobody does, they wait for whoever is next."""
        if not self._stopping.is_set():
            among = [place for place, seat in enumerate(self._seats) if seat.is_ready]
            self._share(among or range(len(self._seats)))

    # The end

    async def stop(self, grace_seconds: float) -> None:
        """Have them accept no more clients, and end when they have answered what was accepted. Returns once they have
        ended, or when the time is over: then the engine is to settle what is left, and `close` to follow."""
        self._told = True
        self._stopping.set()
        self._watch.stop()
        for sock in chain(*(each for seat in self._seats for each in seat.sockets.values())):
            sock.close()  # else clients would go on to wait at this process's copies
        for seat, keeping in zip(self._seats, self._keeping, strict=True):
            if seat.process is None:
                keeping.cancel()
            else:
                seat.process.line.say(Stop(grace_seconds))
        if self._keeping:
            ended = asyncio.create_task(asyncio.wait(self._keeping))
            hurried = asyncio.create_task(self._hurried.wait())
            over: tuple[asyncio.Task[Any], ...] = ended, hurried
            await asyncio.wait(over, timeout=grace_seconds, return_when=asyncio.FIRST_COMPLETED)
            for each in over:
                each.cancel()

    def hurry(self) -> None:
        self._hurried.set()
        for each in self._processes():
            each.line.say(Hurry())

    async def close(self) -> None:
        """End them now; those that were told to stop have a moment for their last answers. Idempotent."""
        self._stopping.set()
        self._watch.stop()
        if self._told and self._keeping:
            await asyncio.wait(self._keeping, timeout=_LAST_SECONDS)
        for keeping in self._keeping:
            keeping.cancel()
        for each in self._processes():
            each.kill()
        await asyncio.gather(*self._keeping, return_exceptions=True)
        self._ready.cancel()
