"""Workers as processes of this machine, forked from the nursery."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
import os
import re
import signal
import socket
import sys
from collections.abc import Callable, Sequence

import msgspec

from pdserver.errors import LoadFailed, WorkerDied
from pdserver.types import Interface, ModelRef, ModelSpec, Reply, Request
from pdserver.worker import files, wire
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

_log = logging.getLogger("pdserver.backend")
_worker_log = logging.getLogger("pdserver.worker")
_MAX_LOG_LINE_BYTES = 8192
_SOCKET_BUFFER_BYTES = 1 << 20
# One thread per worker until its predictor asks for more; and a nursery with more than one could not be forked.
_ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")


class Channel:
    """One end of a socketpair in the event loop: whole frames out, whole frames in, and the end of the stream once.

    An asyncio transport would do, but it can't pass descriptors and it costs more for each frame.
    """

    def __init__(
        self, sock: socket.socket, on_frame: Callable[[memoryview, list[int]], None], on_end: Callable[[], None]
    ) -> None:
        sock.setblocking(False)
        self._sock = sock
        self._loop = asyncio.get_running_loop()
        self._reader = wire.FrameReader()
        self._on_frame = on_frame
        self._on_end = on_end
        self._unsent: list[tuple[memoryview, Sequence[int]]] = []
        self._fds: list[int] = []
        """Received, for the frame that is not complete yet."""
        self.closed = False
        self._loop.add_reader(sock.fileno(), self._readable)

    def send(self, frame: bytearray, fds: Sequence[int] = ()) -> None:
        """Write a frame, now or when there is room; `fds` stay open until then. A broken pipe shows on the reading
        side."""
        if self.closed:
            return
        self._unsent.append((memoryview(frame), fds))
        if len(self._unsent) == 1:
            self._write()
            if self._unsent:
                self._loop.add_writer(self._sock.fileno(), self._writable)

    def _writable(self) -> None:
        self._write()
        if not self._unsent:
            self._loop.remove_writer(self._sock.fileno())

    def _write(self) -> None:
        """As much as there is room for."""
        try:
            while self._unsent:
                frame, fds = self._unsent[0]
                sent = self._sock.sendmsg([frame], files.rights(fds)) if fds else self._sock.send(frame)
                if sent == len(frame):
                    del self._unsent[0]
                else:
                    self._unsent[0] = (frame[sent:], ())
        except BlockingIOError:
            pass
        except OSError:
            self._unsent.clear()

    def _readable(self) -> None:
        try:
            count, ancillary, _, _ = self._sock.recvmsg_into(
                [self._reader.buffer()], files.ANCILLARY_BYTES, socket.MSG_CMSG_CLOEXEC
            )
        except BlockingIOError:
            return
        except OSError:
            count = 0
        if not count:
            self.close()
            return
        if ancillary:
            self._fds += files.received_fds(ancillary)
        for frame in self._reader.received(count):
            fds, self._fds = self._fds, []
            self._on_frame(frame, fds)

    def close(self) -> None:
        """Hang up. `on_end` is called, the first time."""
        if not self.closed:
            self.closed = True
            self._loop.remove_reader(self._sock.fileno())
            self._loop.remove_writer(self._sock.fileno())
            self._sock.close()
            for fd in self._fds:
                os.close(fd)
            self._on_end()


class LogPipe:
    """A worker's stdout and stderr, line by line into the log."""

    def __init__(self, fd: int, ref: ModelRef, worker_id: int) -> None:
        os.set_blocking(fd, False)
        self._fd = fd
        self._name = f"{ref} worker {worker_id}"
        self._loop = asyncio.get_running_loop()
        self._rest = b""
        self.last_lines: list[str] = []
        """The end of what it wrote, for the reason of its death."""
        self._loop.add_reader(fd, self._readable)

    def _readable(self) -> None:
        try:
            data = os.read(self._fd, 65536)
        except BlockingIOError:
            return
        *lines, self._rest = (self._rest + data).split(b"\n")
        if not data or len(self._rest) > _MAX_LOG_LINE_BYTES:
            lines.append(self._rest)
            self._rest = b""
        for line in lines:
            self._write(line)
        if not data:
            self.close()

    def _write(self, line: bytes) -> None:
        text = line[:_MAX_LOG_LINE_BYTES].decode("utf-8", "backslashreplace").rstrip()
        text = "".join(c if c.isprintable() or c == "\t" else ascii(c)[1:-1] for c in text)
        if text:
            _worker_log.info("%s | %s", self._name, text)
            self.last_lines = [*self.last_lines[-19:], text]

    def close(self) -> None:
        if self._fd >= 0:
            self._loop.remove_reader(self._fd)
            os.close(self._fd)
            self._fd = -1


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
        self._exit_status: asyncio.Future[int | None] = asyncio.get_running_loop().create_future()
        self._channel = Channel(channel, self._received, self._ended)

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
        return WorkerDied(f"worker {self.id} (pid {self.pid}) {self._kill_reason or exit_reason(status)}")

    def on_death(self, callback: Callable[[], None]) -> None:
        if self._channel.closed:
            callback()
        else:
            self._death_callbacks.append(callback)

    def kill(self, reason: str) -> None:
        self._kill_reason = self._kill_reason or reason
        self._backend.signal(self.id, signal.SIGKILL)
        self._channel.close()

    async def stop(self, grace_seconds: float) -> None:
        self._channel.close()
        exited, _ = await asyncio.wait([self._exit_status], timeout=grace_seconds)
        if not exited:
            self._backend.signal(self.id, signal.SIGKILL)
            await asyncio.wait([self._exit_status])

    def exited(self, status: int) -> None:
        """The nursery has reaped it."""
        self._exit_status.set_result(status)
        self._channel.close()

    def orphaned(self) -> None:
        """The nursery is gone, and nobody will tell how this worker ends. It serves on until its channel is closed."""
        self._exit_status.set_result(None)

    async def _ask(self, frame: bytearray, fds: Sequence[int] = ()) -> FromWorker:
        if not self._channel.closed:
            self._reply = asyncio.get_running_loop().create_future()
            self._channel.send(frame, fds)
            with contextlib.suppress(EOFError):
                return await self._reply
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
            self.kill(f"broke the protocol: {error}")
            return
        if reply is None:
            self.kill("broke the protocol: an answer to no question")
        elif isinstance(message, Chunk):
            self._reply = reply
            self._on_chunk(message.index, message.reply)
        elif not reply.done():
            reply.set_result(message)

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

    def __init__(self, hidden_variables: re.Pattern[str] | None = None) -> None:
        """`hidden_variables` matches the names of environment variables that workers do not see."""
        self._hidden_variables = hidden_variables
        self._ids = itertools.count(1)
        self._workers: dict[int, LocalWorker] = {}
        self._spawning: dict[int, asyncio.Future[int]] = {}
        self._control: Channel | None = None
        self._process: asyncio.subprocess.Process | None = None
        self._awake: asyncio.Future[None] | None = None
        self._lock = asyncio.Lock()
        self._closed = False
        self._decode: Callable[[memoryview], FromNursery] = wire.decoder(FromNursery).decode

    async def start(self) -> None:
        """Have a nursery that is awake. Takes as long as `import paddle` does, when it isn't."""
        async with self._lock:
            if self._closed:
                raise WorkerDied("no worker could be started: the server is stopping")
            if self._control is None or self._control.closed:
                await self._start_nursery()
            awake = self._awake
        if awake is not None:
            await asyncio.shield(awake)

    async def _start_nursery(self) -> None:
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
                env=self._environment(),
            )
        self._control = Channel(ours, self._received, self._nursery_ended)

    def _environment(self) -> dict[str, str]:
        hidden = self._hidden_variables
        visible = {name: value for name, value in os.environ.items() if not (hidden and hidden.fullmatch(name))}
        return {**visible, **_ONE_THREAD}

    async def spawn(self, spec: ModelSpec) -> LocalWorker:
        await self.start()
        assert self._control is not None  # noqa: S101
        worker_id = next(self._ids)
        ours, theirs = socket.socketpair()
        for sock in (ours, theirs):
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _SOCKET_BUFFER_BYTES)
        log_read, log_write = os.pipe()
        answer: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self._spawning[worker_id] = answer
        self._control.send(wire.encode(Spawn(worker_id, spec.python)), (theirs.fileno(), log_write))
        theirs.close()
        os.close(log_write)
        try:
            pid = await answer
        except BaseException:
            ours.close()
            os.close(log_read)
            raise
        finally:
            del self._spawning[worker_id]
        worker = LocalWorker(self, worker_id, pid, ours, LogPipe(log_read, spec.ref, worker_id))
        self._workers[worker_id] = worker
        return worker

    def signal(self, worker_id: int, number: int) -> None:
        """Signal a worker that is not known to be gone."""
        if worker_id in self._workers and self._control is not None:
            self._control.send(wire.encode(Signal(worker_id, number)))

    async def close(self) -> None:
        self._closed = True
        if self._control is not None:
            self._control.close()
        if self._process is not None:
            await self._process.wait()

    def _received(self, frame: memoryview, _: list[int]) -> None:
        message = self._decode(frame)
        if isinstance(message, Exited):
            if worker := self._workers.pop(message.worker_id, None):
                worker.exited(message.status)
        elif isinstance(message, Spawned):
            if answer := self._spawning.get(message.worker_id):
                if message.pid:
                    answer.set_result(message.pid)
                else:
                    answer.set_exception(WorkerDied(f"no worker could be started: {message.reason}"))
        elif isinstance(message, Awake) and self._awake is not None:
            for warning in message.warnings:
                _log.warning("%s", warning)
            self._awake.set_result(None)

    def _nursery_ended(self) -> None:
        """A nursery that is told to end takes its workers along; one that was killed leaves orphans, which serve on."""
        error = WorkerDied("no worker could be started: the nursery ended; see the log")
        waiting = list(self._spawning.values())
        if self._awake is not None and not self._awake.done():
            self._awake.set_exception(error)
            self._awake.exception()  # whoever waits gets it; nobody waiting is no fault
        for answer in waiting:
            if not answer.done():
                answer.set_exception(error)
        for worker in self._workers.values():
            worker.orphaned()
        self._workers.clear()
