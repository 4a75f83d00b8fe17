"""Workers as processes of this machine, forked from the nursery."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import itertools
import logging
import os
import signal
import socket
import sys
from collections.abc import Callable, Sequence

import msgspec
import psutil

from pdserver.backends.adopted import Adopted
from pdserver.backends.channel import Channel
from pdserver.backends.log_pipe import LogPipe
from pdserver.errors import LoadFailed, WorkerDied
from pdserver.types import Interface, ModelSpec, Reply, Request
from pdserver.worker import family, files, wire
from pdserver.worker.messages import (
    Answers,
    Awake,
    Batch,
    Chunk,
    Exited,
    FromNursery,
    FromWorker,
    Load,
    Loaded,
    Refused,
    Signal,
    Spawn,
    Spawned,
)
from pdserver.worker.surroundings import Surroundings

_log = logging.getLogger("pdserver.backend")
_SOCKET_BUFFER_BYTES = 1 << 20
# One thread per worker until its predictor asks for more; and a nursery with more than one could not be forked.
_ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")


class LocalWorker:
    """A worker process, by its channel."""

    def __init__(self, backend: LocalBackend, worker_id: int, pid: int, channel: socket.socket, log: LogPipe) -> None:
        self.id = worker_id
        self.pid = pid
        self._backend = backend
        self._log = log
        self._decode: Callable[[memoryview], FromWorker] = wire.decoder(FromWorker).decode
        self._reply: asyncio.Future[FromWorker] | None = None
        self._batches = itertools.count()
        self._on_chunk: Callable[[int, Reply], None] = lambda index, reply: None
        self._kill_reason = ""
        self._death_callbacks: list[Callable[[], None]] = []
        self._exit_status: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self._channel = Channel(channel, self._received, self._broken, self._ended)

    async def load(self, spec: ModelSpec, device_id: int | None) -> Interface:
        reply = await self._ask(wire.encode(Load(spec, device_id)))
        if isinstance(reply, Refused):
            raise LoadFailed(reply.message)
        if not isinstance(reply, Loaded):
            self.kill("broke the protocol: an answer to no question")
            raise await self.death()
        return reply.interface

    async def exchange(self, requests: list[Request], on_chunk: Callable[[int, Reply], None]) -> Answers:
        self._on_chunk = on_chunk
        number = next(self._batches)
        reply = await self._ask(wire.encode(Batch(number, requests)), [fd for r in requests for fd in r.files])
        if not isinstance(reply, Answers) or reply.id != number or len(reply.outcomes) != len(requests):
            self.kill("broke the protocol: an answer that does not fit the batch")
            raise await self.death()
        return reply

    async def death(self) -> WorkerDied:
        await asyncio.wait([self._exit_status], timeout=1)  # the nursery's word comes a little after the channel's end
        status = self._exit_status.result() if self._exit_status.done() else None
        reason = f"worker {self.id} (pid {self.pid}) {self._kill_reason or exit_reason(status)}"
        return WorkerDied(reason, self._log.tail(), untouched=self._channel.cut_off)

    def on_death(self, callback: Callable[[], None]) -> None:
        if self._channel.closed:
            callback()
        else:
            self._death_callbacks.append(callback)

    def memory_bytes(self) -> int:
        try:
            return int(psutil.Process(self.pid).memory_full_info().uss)
        except psutil.Error:
            return 0

    def kill(self, reason: str) -> None:
        self._end(reason, signal.SIGKILL)

    def abort(self, reason: str) -> None:
        self._end(reason, signal.SIGABRT)  # upon which faulthandler writes the stack; `stop` kills what is left then

    def _end(self, reason: str, number: int) -> None:
        self._kill_reason = self._kill_reason or reason
        self._backend.signal(self.id, number)
        self._channel.close()

    async def stop(self, grace_seconds: float) -> None:
        self._channel.close()
        exited, _ = await asyncio.wait([self._exit_status], timeout=grace_seconds)
        if not exited:
            self._backend.signal(self.id, signal.SIGKILL)
            await asyncio.wait([self._exit_status])
        self._log.tail()
        self._log.close()

    def exited(self, status: int) -> None:
        """Its parent has reaped it."""
        self._exit_status.set_result(status)
        self._channel.close()

    async def _ask(self, frame: bytearray, fds: Sequence[int] = ()) -> FromWorker:
        reply: asyncio.Future[FromWorker] = asyncio.get_running_loop().create_future()
        self._reply = reply
        if self._channel.closed:
            reply.set_exception(EOFError())
        self._channel.send(frame, fds)
        with contextlib.suppress(EOFError):
            return await reply
        raise await self.death()

    def _received(self, frame: memoryview, fds: list[int]) -> None:
        reply, self._reply = self._reply, None
        try:
            message = self._decode(frame)
            contents = files.take_views(fds) if fds else []
            if isinstance(message, Answers) and contents:
                files.put_answers_in_place(message.outcomes, contents)
        except (msgspec.DecodeError, ValueError, IndexError, OSError) as error:
            self._reply = reply
            raise ValueError(str(error)) from None
        if reply is None:
            raise ValueError("an answer to no question")
        if isinstance(message, Chunk):
            self._reply = reply
            self._on_chunk(message.index, message.reply)
        elif not reply.done():
            reply.set_result(message)

    def _broken(self, why: str) -> None:
        self.kill(f"broke the protocol: {why}")

    def _ended(self) -> None:
        if self._reply is not None and not self._reply.done():
            self._reply.set_exception(EOFError())
        for callback in self._death_callbacks:
            callback()
        self._death_callbacks.clear()


def exit_reason(status: int | None) -> str:
    """A wait status in words."""
    if status is None:
        return "closed its channel"
    if os.WIFSIGNALED(status):
        number = os.WTERMSIG(status)
        hint = ", perhaps out of memory" if number == signal.SIGKILL else ""
        return f"was killed by {signal.Signals(number).name}{hint}"
    return f"exited with status {os.WEXITSTATUS(status)}"


class LocalBackend:
    """The nursery and its workers. Starts the nursery when first asked for, and again when it has died."""

    def __init__(self, surroundings: Surroundings) -> None:
        self._surroundings = surroundings
        self._ids = itertools.count(1)
        self._workers: dict[int, LocalWorker] = {}
        """Those that have not been reaped."""
        self._adopted: dict[int, Adopted] = {}
        """Those of them whose nursery has died."""
        self._spawning: dict[int, _Birth] = {}
        self._control: Channel | None = None
        self._process: asyncio.subprocess.Process | None = None
        self._awake: asyncio.Future[None] | None = None
        self._lock = asyncio.Lock()
        self._mourning: asyncio.Task[None] | None = None
        self._reviving: asyncio.Task[None] | None = None
        self._closed = False
        self._decode: Callable[[memoryview], FromNursery] = wire.decoder(FromNursery).decode

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
                env={**self._surroundings.variables(os.environ), **_ONE_THREAD},
                start_new_session=True,  # who kills the server's process group leaves it to end the workers
            )
        self._control = Channel(ours, self._received, self._broken, self._nursery_ended)

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
            wire.encode(Spawn(worker_id, spec.python, dict(self._surroundings.limits))),
            (their_channel_fd, their_log_fd),
        )
        _close_all([their_channel_fd, their_log_fd])

        def born(pid: int) -> LocalWorker:
            channel = socket.socket(fileno=channel_fd)
            return LocalWorker(self, worker_id, pid, channel, LogPipe(log_fd, spec.ref, worker_id))

        birth = self._spawning[worker_id] = _Birth(born)
        try:
            return await birth.worker
        except BaseException:
            if not birth.happened:
                _close_all([channel_fd, log_fd])
            raise
        finally:
            del self._spawning[worker_id]

    def signal(self, worker_id: int, number: int) -> None:
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

    def _received(self, frame: memoryview, _: list[int]) -> None:
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
        _log.error("the nursery broke the protocol: %s", why)
        if self._control is not None:
            self._control.close()

    def _nursery_ended(self) -> None:
        """A nursery that is told to end takes its workers along; one that was killed leaves orphans, which serve on."""
        error = WorkerDied("no worker could be started: the nursery ended; see the log")
        assert self._awake is not None  # noqa: S101
        awoken = self._awake.done()
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
            _log.error("%s", error)


class _Birth:
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
