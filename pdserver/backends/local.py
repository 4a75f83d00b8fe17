"""Workers as processes of this machine, forked from the nursery."""

from __future__ import annotations

import asyncio
import functools
import itertools
import logging
import os
import signal
import socket
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from pdserver.backends.adopted import Adopted
from pdserver.backends.channel import Channel
from pdserver.backends.local_worker import LocalWorker
from pdserver.backends.log_pipe import LogPipe
from pdserver.errors import WorkerDied
from pdserver.system.folders import make_folder
from pdserver.types import Declared, ModelSpec
from pdserver.worker import family, files, wire
from pdserver.worker.environment import THREAD_VARIABLES, WorkerEnvironment
from pdserver.worker.messages import Awake, Exited, FromNursery, Signal, Spawn, Spawned

_log = logging.getLogger("pdserver.backend")
_SOCKET_BUFFER_BYTES = 1 << 20
_MOST_STILLBORN = 3
"""Nurseries in a row that end before they are awake: by then, something is wrong with this installation."""
# One thread per worker until its predictor asks for more; and a nursery with more than one could not be forked.
_ONE_THREAD = dict.fromkeys(THREAD_VARIABLES, "1")
# What a run of the model has freed serves the next one: the C library would give it back, and each page would cost a
# fault again. And it asks for huge pages, for with small ones a model's time goes into finding them. Operators may know
# better.
_MEMORY = {
    "MALLOC_MMAP_THRESHOLD_": str(32 << 20),  # the most that the C library allows
    "MALLOC_TRIM_THRESHOLD_": str(64 << 20),
    "GLIBC_TUNABLES": "glibc.malloc.hugetlb=1",
}


class LocalBackend:
    """The nursery and its workers. Starts the nursery when first asked for, and again when it has died."""

    def __init__(self, environment: WorkerEnvironment, metrics: Sequence[Declared] = ()) -> None:
        self._worker_environment = environment
        self._metrics = metrics
        """That handlers find declared."""
        self._ids = itertools.count(1)
        self._workers: dict[int, LocalWorker] = {}
        """Those that have not been reaped."""
        self._adopted: dict[int, Adopted] = {}
        """Those of them whose nursery has died."""
        self._spawning: dict[int, _PendingWorker] = {}
        self._control: Channel[bytes] | None = None
        self._process: asyncio.subprocess.Process | None = None
        self._awake: asyncio.Future[None] | None = None
        self._stillborn = 0
        """Nurseries in a row that ended before they were awake."""
        self._lock = asyncio.Lock()
        self._mourning: asyncio.Task[None] | None = None
        self._reviving: asyncio.Task[None] | None = None
        self._closed = False
        self._decode: Callable[[memoryview], FromNursery] = wire.decoder(FromNursery).decode

    @property
    def closed(self) -> bool:
        """Whether it is to end, or has."""
        return self._closed

    async def start(self) -> None:
        """Have a nursery that is awake. Takes as long as `import paddle` does, when it isn't. Raises WorkerDied."""
        async with self._lock:
            if self._closed:
                raise WorkerDied("no worker could be started: the server is stopping")
            if self._control is None or self._control.closed:
                if self._mourning is not None:
                    await asyncio.wait([self._mourning])
                try:
                    await self._start_nursery()
                except OSError as error:
                    raise _not_started(error) from None
            awake = self._awake
        if awake is not None:
            await asyncio.shield(awake)

    async def _start_nursery(self) -> None:
        family.adopt_orphans()  # the workers, should the nursery die before they do
        make_folder(Path(self._worker_environment.temporary), 0o700)  # it is there, unless a cleaner has been at it
        ours, theirs = socket.socketpair()
        with theirs:
            self._awake = asyncio.get_running_loop().create_future()
            self._process = await asyncio.create_subprocess_exec(
                sys.executable,
                "-m",
                "pdserver.worker.nursery",
                str(theirs.fileno()),
                pass_fds=[theirs.fileno()],
                stdin=asyncio.subprocess.DEVNULL,
                env={**_MEMORY, **self._worker_environment.variables(os.environ), **_ONE_THREAD},
                start_new_session=True,  # who kills the server's process group leaves it to end the workers
            )
        self._control = Channel(ours, files.take_views, self._received, self._broken, self._nursery_ended)

    async def spawn(self, spec: ModelSpec) -> LocalWorker:
        await self.start()
        assert self._control is not None  # noqa: S101
        worker_id = next(self._ids)
        fds: list[int] = []
        try:
            for end in socket.socketpair():
                end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _SOCKET_BUFFER_BYTES)
                fds.append(end.detach())
            fds += os.pipe()
        except OSError as error:
            _close_all(fds)
            raise _not_started(error) from None
        channel_fd, their_channel_fd, log_fd, their_log_fd = fds
        self._control.send(
            wire.encode(Spawn(worker_id, spec.python, dict(self._worker_environment.limits)), 2),
            (their_channel_fd, their_log_fd),
        )
        _close_all([their_channel_fd, their_log_fd])

        def born(pid: int) -> LocalWorker:
            channel = socket.socket(fileno=channel_fd)
            log = LogPipe(log_fd, spec.ref, worker_id)
            return LocalWorker(worker_id, pid, channel, log, functools.partial(self._signal, worker_id), self._metrics)

        birth = self._spawning[worker_id] = _PendingWorker(born)
        try:
            return await birth.worker
        except BaseException:
            if not birth.happened:
                _close_all([channel_fd, log_fd])
            raise
        finally:
            del self._spawning[worker_id]

    def _signal(self, worker_id: int, number: int) -> None:
        """Signal a worker that is not known to be gone, and all of its process group."""
        if worker_id in self._adopted:
            self._adopted[worker_id].signal(number)
        elif worker_id in self._workers and self._control is not None:
            self._control.send(wire.encode(Signal(worker_id, number)))

    async def close(self) -> None:
        self._closed = True
        if self._control is not None:
            self._control.close()
        if self._process is not None:
            await self._process.wait()
        for task in (self._mourning, self._reviving):
            if task is not None:
                await asyncio.wait([task])
        for adopted in list(self._adopted.values()):
            adopted.signal(signal.SIGKILL)
        for worker_id in self._workers.keys() - self._adopted.keys():
            self._reaped(worker_id, signal.SIGKILL)  # which is how the nursery ends them

    def _received(self, frame: memoryview, _: list[bytes] | None) -> None:
        message = self._decode(frame)
        if isinstance(message, Exited):
            self._reaped(message.worker_id, message.status)
        elif isinstance(message, Spawned):
            if birth := self._spawning.get(message.worker_id):
                if message.pid:
                    self._workers[message.worker_id] = birth.succeed(message.pid)
                else:
                    birth.fail(WorkerDied(f"no worker could be started: {message.reason}"))
        elif isinstance(message, Awake) and self._awake is not None:
            for warning in message.warnings:
                _log.warning("%s", warning)
            self._awake.set_result(None)

    def _reaped(self, worker_id: int, status: int) -> None:
        self._adopted.pop(worker_id, None)
        if worker := self._workers.pop(worker_id, None):
            worker.exited(status)

    def _broken(self, why: str) -> None:
        _log.error("the nursery %s", why)
        if self._control is not None:
            self._control.close()

    def _nursery_ended(self) -> None:
        """A nursery that is told to end takes its workers along; one that was killed leaves orphans, which serve on."""
        assert self._awake is not None  # noqa: S101
        awoken = self._awake.done()
        self._stillborn = 0 if awoken else self._stillborn + 1
        blameless = self._stillborn < _MOST_STILLBORN
        error = WorkerDied("no worker could be started: the nursery ended; see the log", blameless=blameless)
        if not awoken:
            self._awake.set_exception(error)
            self._awake.exception()  # whoever waits gets it; nobody waiting is no fault
        for birth in self._spawning.values():
            birth.fail(error)
        if not self._closed:
            self._mourning = asyncio.get_running_loop().create_task(self._adopt())
            if awoken:
                self._mourning.add_done_callback(self._revive)

    async def _adopt(self) -> None:
        """Take care of the workers in the nursery's place."""
        assert self._process is not None  # noqa: S101
        status = await self._process.wait()
        _log.error("the nursery ended with status %d; its workers serve on", status)
        for worker_id, worker in list(self._workers.items()):
            if worker_id not in self._adopted:
                self._adopted[worker_id] = Adopted(worker.pid, functools.partial(self._reaped, worker_id))

    def _revive(self, _: asyncio.Task[None]) -> None:
        """Have another nursery before it is needed. One that never woke up is tried again when a worker is wanted."""
        self._reviving = asyncio.get_running_loop().create_task(self._start_again())

    async def _start_again(self) -> None:
        try:
            await self.start()
        except WorkerDied as error:
            if not self._closed:
                _log.error("%s", error)


class _PendingWorker:
    """A worker that the nursery was asked for; `born` makes it, given its pid."""

    def __init__(self, born: Callable[[int], LocalWorker]) -> None:
        self._born = born
        self.happened = False
        self.worker: asyncio.Future[LocalWorker] = asyncio.get_running_loop().create_future()

    def succeed(self, pid: int) -> LocalWorker:
        """The worker, at once: the news of its end may come in the same breath."""
        self.happened = True
        worker = self._born(pid)
        if self.worker.cancelled():
            worker.kill("is not wanted any more")
        else:
            self.worker.set_result(worker)
        return worker

    def fail(self, error: WorkerDied) -> None:
        if not self.worker.done():
            self.worker.set_exception(error)


def _close_all(fds: Sequence[int]) -> None:
    for fd in fds:
        os.close(fd)


def _not_started(error: OSError) -> WorkerDied:
    return WorkerDied(f"no worker could be started: {error.strerror}")
