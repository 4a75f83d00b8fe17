"""A worker as the server has it: a process behind a channel."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import socket
from collections import deque
from collections.abc import Callable, Sequence

import psutil

from pdserver.backends.base import Unsendable
from pdserver.backends.channel import Channel
from pdserver.backends.log_pipe import LogPipe
from pdserver.configuration.model import ModelSpec
from pdserver.errors import LoadFailed, WorkerDied
from pdserver.system import priority
from pdserver.types import Answered, Declared, Interface, RelayedRequest, Reply, Request
from pdserver.worker import files, wire
from pdserver.worker.messages import Batch, Chunk, FromWorker, Load, Loaded, NotLoaded

_log = logging.getLogger("pdserver.backend")
_CRASHES = (signal.SIGSEGV, signal.SIGABRT, signal.SIGBUS, signal.SIGILL, signal.SIGFPE)


class LocalWorker:
    """A worker process behind its channel. `send_signal` signals it and its process group, unless it is gone."""

    def __init__(
        self,
        worker_id: int,
        pid: int,
        channel: socket.socket,
        log: LogPipe,
        send_signal: Callable[[int], None],
        metrics: Sequence[Declared] = (),
    ) -> None:
        self.id = worker_id
        self.pid = pid
        self._send_signal = send_signal
        self._log = log
        self._metrics = list(metrics)
        self._decode: Callable[[memoryview], FromWorker] = wire.decoder(FromWorker).decode
        self._loaded: asyncio.Future[Loaded | NotLoaded] | None = None
        self._sent = 0
        """The number of the last batch."""
        self._asked: deque[tuple[int, list[Request]]] = deque()
        """The batches without an answer, each with its number."""
        self._on_answered: Callable[[Answered], None] = lambda answers: None
        self._on_chunk: Callable[[int, Reply], None] = lambda index, reply: None
        self._kill_reason = ""
        self._death_callbacks: list[Callable[[], None]] = []
        self._exit_status: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self._channel = Channel(channel, self._take_over, self._received, self._broken, self._ended)

    def __repr__(self) -> str:
        state = self._kill_reason or ("gone" if self._channel.closed else "asked" if self._asked else "idle")
        return f"<LocalWorker {self.id}, pid {self.pid}, {state}>"

    async def load(self, spec: ModelSpec, device_id: int | None) -> Interface:
        loaded: asyncio.Future[Loaded | NotLoaded] = asyncio.get_running_loop().create_future()

        def fail() -> None:
            if not loaded.done():
                loaded.set_exception(EOFError())

        self._loaded = loaded
        self.on_death(fail)
        self._channel.send(wire.encode(Load(spec, device_id, self._metrics)))
        try:
            reply = await loaded
        except EOFError:
            error = await self.death()
            _log.warning("%s: %s; it was loading the model", self._log.ref, error)
            raise error from None
        if isinstance(reply, NotLoaded):
            raise LoadFailed(reply.message, reply.kind)
        return reply.interface

    def serve(self, on_answered: Callable[[Answered], None], on_chunk: Callable[[int, Reply], None]) -> None:
        self._on_answered, self._on_chunk = on_answered, on_chunk

    def send(self, requests: list[Request]) -> None:
        fds = list(files.all_files(requests))
        number = self._sent + 1
        try:
            frame = wire.encode(Batch(number, requests), len(fds))
        except Exception as error:  # noqa: BLE001 - whatever msgspec raises is handled alike
            raise Unsendable(unsendable(requests) or dict.fromkeys(range(len(requests)), str(error))) from None
        self._sent = number
        self._asked.append((number, requests))
        self._channel.send(frame, fds)

    async def death(self) -> WorkerDied:
        await asyncio.wait([self._exit_status], timeout=1)  # the nursery reports a little after the channel's end
        status = self._exit_status.result() if self._exit_status.done() else None
        reason = f"worker {self.id} (pid {self.pid}) {self._kill_reason or exit_reason(status)}"
        by_signal = not self._kill_reason and status is not None and os.WIFSIGNALED(status)
        number = os.WTERMSIG(status or 0) if by_signal else 0
        return WorkerDied(
            reason,
            self._log.tail(),
            untouched=self._channel.cut_off,
            crashed=number in _CRASHES,
            killed=number == signal.SIGKILL,
        )

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

    def give_way(self) -> None:
        priority.lower(self.pid)

    async def stand(self) -> None:
        await asyncio.to_thread(priority.restore, self.pid)

    def kill(self, reason: str) -> None:
        self._end(reason, signal.SIGKILL)

    def abort(self, reason: str) -> None:
        self._end(reason, signal.SIGABRT)  # faulthandler writes the stack then; `stop` kills what is left

    def _end(self, reason: str, number: int) -> None:
        self._kill_reason = self._kill_reason or reason
        self._send_signal(number)
        self._channel.close()

    async def stop(self, grace_seconds: float) -> None:
        self._channel.close()
        exited, _ = await asyncio.wait([self._exit_status], timeout=grace_seconds)
        if not exited:
            self._send_signal(signal.SIGKILL)
            await asyncio.wait([self._exit_status])
        self._log.tail()
        self._log.close()

    def exited(self, status: int) -> None:
        """Call when its parent has reaped it."""
        self._exit_status.set_result(status)
        self._channel.close()

    def _take_over(self, fds: list[int]) -> list[bytes]:
        """The large answers, which a pipeline may pass on if it has asked for one of them."""
        keep = any(isinstance(request, RelayedRequest) for _, requests in self._asked for request in requests)
        return files.take_views(fds, keep=keep)

    def _received(self, frame: memoryview, contents: list[bytes] | None) -> None:
        """Raises ValueError for what answers no question."""
        message = self._decode(frame)
        if isinstance(message, Answered):
            number, requests = self._asked.popleft() if self._asked else (0, ())
            if message.id != number or len(message.outcomes) != len(requests):
                raise ValueError("an answer that does not fit the batch")
            if contents != []:
                try:
                    files.put_answers_in_place(message.outcomes, contents)
                except IndexError as error:
                    raise ValueError(str(error)) from None
            self._on_answered(message)
        elif isinstance(message, Chunk):
            if not self._asked or message.id != self._asked[0][0]:
                raise ValueError("a piece of no answer")
            self._on_chunk(message.index, message.reply)
        elif self._loaded is None or self._loaded.done():
            raise ValueError("an answer to no question")
        else:
            self._loaded.set_result(message)

    def _broken(self, why: str) -> None:
        self.kill(why)

    def _ended(self) -> None:
        callbacks, self._death_callbacks = self._death_callbacks, []
        for callback in callbacks:
            callback()


def unsendable(requests: Sequence[Request]) -> dict[int, str]:
    """Why requests can't be sent, by position: JSON has text and numbers that MessagePack does not have."""
    reasons: dict[int, str] = {}
    for position, request in enumerate(requests):
        try:
            wire.encode(request)
        except (ValueError, OverflowError) as error:
            reasons[position] = str(error)
    return reasons


def exit_reason(status: int | None) -> str:
    """A wait status in words."""
    if status is None:
        return "closed its channel"
    if os.WIFSIGNALED(status):
        number = os.WTERMSIG(status)
        hint = ", perhaps out of memory" if number == signal.SIGKILL else ""
        return f"was killed by {signal.Signals(number).name}{hint}"
    return f"exited with status {os.WEXITSTATUS(status)}"
