"""Distributes work over the codec processes."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections import deque
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import msgspec

from pdserver.codec.messages import Failed, Job
from pdserver.codec.process import CodecProcess, Reply
from pdserver.dialects.codec import Given, Result, Work
from pdserver.errors import (
    HandlerFailed,
    InvalidRequest,
    Overloaded,
    PdError,
    TooLarge,
    Unavailable,
    Unsupported,
    WorkerDied,
)
from pdserver.memory_file import Buffer, MemoryFile
from pdserver.system.devices import core_count

_MOST_PROCESSES = max(2, min(4, core_count()))
_HEAVY_BYTES = 4 * 1024 * 1024
_MOST_WAITING_BYTES = 256 * 1024 * 1024
"""Limit for bodies that wait. A single body may always wait, however large it is."""
_TRIES = 2
"""A job that ended two processes is not given to a third."""
_LIMIT_SECONDS = 300.0
"""Time limit of one job."""
_COPIED_HERE_BYTES = 8 * 1024 * 1024
"""Up to this size, the event loop copies the input to a file itself, which takes about 3 ms."""
_ERRORS: dict[Any, type[PdError]] = {
    error.kind: error for error in (InvalidRequest, TooLarge, Unsupported, Unavailable)
}


def _error(failed: Failed) -> PdError:
    """Made here, since a frame that has an error as a variable and raises it keeps all its files until the garbage is
    collected."""
    error = _ERRORS.get(failed.kind, HandlerFailed)(failed.message)
    error.status = failed.status
    return error


class CodecPool:
    """Processes that are started when there is work, and stay. Waiting work is done in order. But heavy work never
    occupies all processes, and heavy and light work never wait for all of each other.
    """

    def __init__(
        self,
        *,
        most: int = _MOST_PROCESSES,
        waiting_bytes: int = _MOST_WAITING_BYTES,
        limit_seconds: float = _LIMIT_SECONDS,
    ) -> None:
        self._most = most
        self._most_waiting_bytes = waiting_bytes
        self._limit_seconds = limit_seconds
        self._idle: list[CodecProcess] = []
        self._processes: set[CodecProcess] = set()
        self._running = {True: 0, False: 0}
        """How many turns heavy (True) and light (False) work have now."""
        self._waiting: dict[bool, deque[asyncio.Future[None]]] = {True: deque(), False: deque()}
        """Heavy and light work that waits for its turn."""
        self._waiting_bytes = 0
        self._copying = ThreadPoolExecutor(2, "copying")
        self._closed = asyncio.Event()

    @classmethod
    def part(cls, of: int) -> CodecPool:
        """For one of so many processes, which have what one alone would have; two of its own at least."""
        return cls(most=max(2, _MOST_PROCESSES // of), waiting_bytes=_MOST_WAITING_BYTES // of)

    async def run(
        self, work: Work[Given, Result], given: Given, files: Sequence[MemoryFile], weight: int = 0
    ) -> tuple[Result, list[MemoryFile]]:
        job = Job(work.name, msgspec.msgpack.encode(given))
        size = len(job.given) + sum(os.fstat(file.fd).st_size for file in files)
        heavy = max(weight, size) > _HEAVY_BYTES
        if work.refusable and self._waiting_bytes and self._waiting_bytes + size > self._most_waiting_bytes:
            raise Overloaded(
                f"{self._waiting_bytes:,} bytes of large bodies wait to be read already; try again in a moment"
            )
        self._waiting_bytes += size
        try:
            await self._turn(heavy=heavy)
        finally:
            self._waiting_bytes -= size
        # A task of its own: if the caller is cancelled, the process must still be ready for the next job.
        doing = asyncio.ensure_future(self._do(job, files, heavy=heavy))
        doing.add_done_callback(lambda done: done.cancelled() or done.exception())
        reply, received = await asyncio.shield(doing)
        if isinstance(reply, Failed):
            raise _error(reply)
        return msgspec.msgpack.decode(reply.result, type=work.result), received

    async def filed(self, pieces: Sequence[Buffer]) -> MemoryFile:
        if sum(map(len, pieces)) <= _COPIED_HERE_BYTES:
            return _filed(pieces)
        return await asyncio.get_running_loop().run_in_executor(self._copying, _filed, pieces)

    async def _do(self, job: Job, files: Sequence[MemoryFile], *, heavy: bool) -> Reply:
        """Do a job that has its turn."""
        try:
            for _ in range(_TRIES - 1):
                with contextlib.suppress(WorkerDied):
                    return await self._ask(job, files)
            return await self._ask(job, files)
        finally:
            self._running[heavy] -= 1
            self._begin()

    async def _ask(self, job: Job, files: Sequence[MemoryFile]) -> Reply:
        process = await self._process()
        try:
            return await process.ask(job, files, self._limit_seconds)
        finally:
            if process.gone:
                await self._forget(process)
            else:
                self._idle.append(process)

    async def _process(self) -> CodecProcess:
        """An idle process, started if necessary. Raises Unavailable."""
        while self._idle:
            process = self._idle.pop()
            if not process.gone:
                return process
            await self._forget(process)
        if not self._closed.is_set():
            process = await CodecProcess.start()
            self._processes.add(process)
            if not self._closed.is_set():
                return process
            await self._forget(process)
        raise Unavailable("the server is stopping")

    async def _forget(self, process: CodecProcess) -> None:
        self._processes.discard(process)
        await process.close()

    async def _turn(self, *, heavy: bool) -> None:
        turn = asyncio.get_running_loop().create_future()
        self._waiting[heavy].append(turn)
        self._begin()
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():
                self._running[heavy] -= 1
                self._begin()
            raise

    def _begin(self) -> None:
        """Give turns to the work that may have them now."""
        for waiting in self._waiting.values():
            while waiting and waiting[0].cancelled():
                waiting.popleft()
        running = self._running
        while running[True] + running[False] < self._most:
            heavy = bool(self._waiting[True])
            if running[True]:  # one process is reserved for light work, and light work goes first
                heavy = heavy and running[True] < self._most - 1 and not self._waiting[False]
            if not self._waiting[heavy]:
                return
            turn = self._waiting[heavy].popleft()
            if not turn.cancelled():
                running[heavy] += 1
                turn.set_result(None)

    async def close(self) -> None:
        """Idempotent."""
        self._closed.set()
        self._idle.clear()
        await asyncio.gather(*(process.close() for process in self._processes))
        self._copying.shutdown(wait=False)


def _filed(pieces: Sequence[Buffer]) -> MemoryFile:
    file = MemoryFile(pieces)
    file.seal()
    return file
