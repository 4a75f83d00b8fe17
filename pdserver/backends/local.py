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
from pdserver.configuration.model import ModelSpec
from pdserver.errors import WorkerDied
from pdserver.system.folders import make_folder
from pdserver.types import Declared
from pdserver.worker import family, files, wire
from pdserver.worker.environment import THREAD_VARIABLES, WorkerEnvironment
from pdserver.worker.messages import Awake, Exited, FromNursery, ImportPaddle, Signal, Spawn, Spawned
from pdserver.worker.preloading import may_need_paddle

_log = logging.getLogger("pdserver.backend")
_SOCKET_BUFFER_BYTES = 1 << 20
_MOST_FAILED_STARTS = 3
"""Nurseries in a row that end before they are awake: after so many, something is wrong with this installation."""
# One thread per worker until its predictor asks for more; and a nursery with more than one could not be forked.
_ONE_THREAD = dict.fromkeys(THREAD_VARIABLES, "1")
# The C library keeps the memory that a run of the model has freed for the next run. If it gave it back, each page would
# cost a fault again. It also asks for huge pages: with small ones, address translation takes much of a model's time.
# Operators can override both.
_MEMORY = {
    "MALLOC_MMAP_THRESHOLD_": str(32 << 20),  # the most that the C library allows
    "MALLOC_TRIM_THRESHOLD_": str(64 << 20),
    "GLIBC_TUNABLES": "glibc.malloc.hugetlb=1",
}


class LocalBackend:
    """The nursery and its workers. It starts the nursery when a worker is first wanted, and again when it has died.

    The nursery imports Paddle when a model that may need it is expected, or comes."""

    def __init__(self, environment: WorkerEnvironment, metrics: Sequence[Declared] = ()) -> None:
        self._worker_environment = environment
        self._metrics = metrics
        """Metrics that are declared for handlers."""
        self._ids = itertools.count(1)
        self._workers: dict[int, LocalWorker] = {}
        """Workers that have not been reaped."""
        self._adopted: dict[int, Adopted] = {}
        """Workers whose nursery has died."""
        self._spawning: dict[int, _PendingWorker] = {}
        self._control: Channel[bytes] | None = None
        self._process: asyncio.subprocess.Process | None = None
        self._awake: asyncio.Future[None] | None = None
        """Until the nursery has imported all that it was asked to."""
        self._imports = 0
        """What it was asked to import and has not told of yet."""
        self._paddle = False
        """Whether nurseries import Paddle."""
        self._failed_starts = 0
        """Nurseries in a row that ended before they were awake."""
        self._lock = asyncio.Lock()
        self._adopting: asyncio.Task[None] | None = None
        self._reviving: asyncio.Task[None] | None = None
        self._closed = False
        self._decode: Callable[[memoryview], FromNursery] = wire.decoder(FromNursery).decode

    @property
    def closed(self) -> bool:
        """Whether `close` has been called."""
        return self._closed

    async def start(self) -> None:
        """Start the nursery unless it runs, and wait for its imports. Raises WorkerDied when it fails."""
        async with self._lock:
            if self._closed:
                raise WorkerDied("no worker could be started: the server is stopping")
            if self._control is None or self._control.closed:
                if self._adopting is not None:
                    await asyncio.wait([self._adopting])
                try:
                    await self._start_nursery()
                except OSError as error:
                    raise _not_started(error) from None
            awake = self._awake
        if awake is not None:
            await asyncio.shield(awake)

    def expect_paddle(self) -> None:
        """A model is coming that may need Paddle: workers are to find it imported, from the next one on."""
        if not self._paddle:
            self._paddle = True
            if self._control is not None and not self._control.closed:
                self._import_paddle()

    def _import_paddle(self) -> None:
        assert self._control is not None  # noqa: S101
        if self._awake is None or self._awake.done():
            self._awake = asyncio.get_running_loop().create_future()
        self._imports += 1
        self._control.send(wire.encode(ImportPaddle()))

    async def _start_nursery(self) -> None:
        family.adopt_orphans()  # the workers, should the nursery die before they do
        make_folder(Path(self._worker_environment.temporary), 0o700)  # a cleaner of temporary files may have removed it
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
                start_new_session=True,  # a signal to the server's process group leaves it there, to end the workers
            )
        self._control = Channel(ours, files.take_views, self._received, self._broken, self._nursery_ended)
        self._imports = 1
        if self._paddle:
            self._import_paddle()

    async def spawn(self, spec: ModelSpec) -> LocalWorker:
        if not spec.python and may_need_paddle(spec.handler, spec.manifest, spec.model_config):
            self.expect_paddle()
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

        def make(pid: int) -> LocalWorker:
            channel = socket.socket(fileno=channel_fd)
            log = LogPipe(log_fd, spec.ref, worker_id)
            return LocalWorker(worker_id, pid, channel, log, functools.partial(self._signal, worker_id), self._metrics)

        pending = self._spawning[worker_id] = _PendingWorker(make)
        try:
            return await pending.worker
        except BaseException:
            if not pending.made:
                _close_all([channel_fd, log_fd])
            raise
        finally:
            del self._spawning[worker_id]

    def _signal(self, worker_id: int, number: int) -> None:
        """Signal a worker and its process group, unless the worker is known to be gone."""
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
        for task in (self._adopting, self._reviving):
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
            if pending := self._spawning.get(message.worker_id):
                if message.pid:
                    self._workers[message.worker_id] = pending.succeed(message.pid)
                else:
                    pending.fail(WorkerDied(f"no worker could be started: {message.reason}"))
        elif isinstance(message, Awake) and self._awake is not None:
            for warning in message.warnings:
                _log.warning("%s", warning)
            self._imports -= 1
            if not self._imports:
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
        """A nursery that is told to end ends its workers. One that was killed leaves them, and they serve on."""
        assert self._awake is not None  # noqa: S101
        awoken = self._awake.done()
        self._failed_starts = 0 if awoken else self._failed_starts + 1
        blameless = self._failed_starts < _MOST_FAILED_STARTS
        error = WorkerDied("no worker could be started: the nursery ended; see the log", blameless=blameless)
        if not awoken:
            self._awake.set_exception(error)
            self._awake.exception()  # asyncio logs an error that nobody has fetched, but maybe nobody waits
        for pending in self._spawning.values():
            pending.fail(error)
        if not self._closed:
            self._adopting = asyncio.get_running_loop().create_task(self._adopt())
            if awoken:
                self._adopting.add_done_callback(self._revive)

    async def _adopt(self) -> None:
        """Signal and reap the workers in the nursery's place."""
        assert self._process is not None  # noqa: S101
        status = await self._process.wait()
        _log.error("the nursery ended with status %d; its workers serve on", status)
        for worker_id, worker in list(self._workers.items()):
            if worker_id not in self._adopted:
                self._adopted[worker_id] = Adopted(worker.pid, functools.partial(self._reaped, worker_id))

    def _revive(self, _: asyncio.Task[None]) -> None:
        """Start another nursery before it is needed. One that never woke up is tried again when a worker is wanted."""
        self._reviving = asyncio.get_running_loop().create_task(self._start_again())

    async def _start_again(self) -> None:
        try:
            await self.start()
        except WorkerDied as error:
            if not self._closed:
                _log.error("%s", error)


class _PendingWorker:
    """A worker that the nursery was asked for; `make` makes it, given its pid."""

    def __init__(self, make: Callable[[int], LocalWorker]) -> None:
        self._make = make
        self.made = False
        self.worker: asyncio.Future[LocalWorker] = asyncio.get_running_loop().create_future()

    def succeed(self, pid: int) -> LocalWorker:
        """Make the worker at once: the next message may say that it has ended."""
        self.made = True
        worker = self._make(pid)
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
