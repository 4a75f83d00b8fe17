"""A worker as the server has it: a process behind a channel."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
import os
import signal
import socket
from collections.abc import Callable, Sequence
from functools import partial

import msgspec
import psutil

from pdserver.backends.channel import Channel
from pdserver.backends.log_pipe import LogPipe
from pdserver.configuration.model import ModelSpec
from pdserver.errors import HandlerFailed, Kind, LoadFailed, WorkerDied
from pdserver.formats.values import shown
from pdserver.types import Answered, Declared, Failure, Interface, Reply, Request
from pdserver.worker import files, wire
from pdserver.worker.messages import Batch, Chunk, FromWorker, Load, Loaded, NotLoaded

_log = logging.getLogger("pdserver.backend")
_MOST_NAMED = 20


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
        self._reply: asyncio.Future[FromWorker] | None = None
        self._batches = itertools.count()
        self._on_chunk: Callable[[int, Reply], None] = lambda index, reply: None
        self._kill_reason = ""
        self._death_callbacks: list[Callable[[], None]] = []
        self._exit_status: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self._channel = Channel(channel, files.take_views, self._received, self._broken, self._ended)

    def __repr__(self) -> str:
        state = self._kill_reason or ("gone" if self._channel.closed else "asked" if self._reply else "idle")
        return f"<LocalWorker {self.id}, pid {self.pid}, {state}>"

    async def load(self, spec: ModelSpec, device_id: int | None) -> Interface:
        load = Load(spec, device_id, self._metrics)
        reply = await self._ask(wire.encode(load), (), lambda: "it was loading the model")
        if isinstance(reply, NotLoaded):
            raise LoadFailed(reply.message, reply.kind)
        if not isinstance(reply, Loaded):
            self.kill("broke the protocol: an answer to no question")
            raise await self.death()
        return reply.interface

    async def exchange(self, requests: list[Request], on_chunk: Callable[[int, Reply], None]) -> Answered:
        number = next(self._batches)
        fds = [fd for request in requests for fd in request.files]
        try:
            frame = wire.encode(Batch(number, requests), len(fds))
        except Exception:  # noqa: BLE001 - whatever msgspec raises is handled alike
            return await self._exchange_without(unsendable(requests), requests, on_chunk)
        self._on_chunk = on_chunk
        reply = await self._ask(frame, fds, partial(_answering, requests))
        if not isinstance(reply, Answered) or reply.id != number or len(reply.outcomes) != len(requests):
            self.kill("broke the protocol: an answer that does not fit the batch")
            raise await self.death()
        return reply

    async def _exchange_without(
        self, failures: dict[int, Failure], requests: list[Request], on_chunk: Callable[[int, Reply], None]
    ) -> Answered:
        """`exchange`, for a batch in which the requests at some positions can't be sent."""
        if not failures:
            raise HandlerFailed("the batch can't be sent to a worker")
        positions = [position for position in range(len(requests)) if position not in failures]
        answers = Answered(-1, [], 0.0)
        if positions:
            sound = [requests[position] for position in positions]
            answers = await self.exchange(sound, lambda index, piece: on_chunk(positions[index], piece))
        answered = iter(answers.outcomes)
        outcomes = [failures.get(position) or next(answered) for position in range(len(requests))]
        return msgspec.structs.replace(answers, outcomes=outcomes)

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

    async def _ask(self, frame: bytearray, fds: Sequence[int], doing: Callable[[], str]) -> FromWorker:
        """Send a frame, and wait for the answer. `doing` says for the log what the worker was doing when it died."""
        reply: asyncio.Future[FromWorker] = asyncio.get_running_loop().create_future()
        self._reply = reply
        if self._channel.closed:
            reply.set_exception(EOFError())
        self._channel.send(frame, fds)
        with contextlib.suppress(EOFError):
            return await reply
        error = await self.death()
        _log.warning("%s: %s; %s", self._log.ref, error, doing())
        raise error

    def _received(self, frame: memoryview, contents: list[bytes] | None) -> None:
        reply, self._reply = self._reply, None
        try:
            message = self._decode(frame)
            if contents != [] and isinstance(message, Answered):
                files.put_answers_in_place(message.outcomes, contents)
        except (ValueError, IndexError) as error:
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
        self.kill(why)

    def _ended(self) -> None:
        if self._reply is not None and not self._reply.done():
            self._reply.set_exception(EOFError())
        for callback in self._death_callbacks:
            callback()
        self._death_callbacks.clear()


def _answering(requests: Sequence[Request]) -> str:
    more = f" and {len(requests) - _MOST_NAMED} more" if len(requests) > _MOST_NAMED else ""
    return f"it was answering {', '.join(shown(request.id) for request in requests[:_MOST_NAMED])}{more}"


def unsendable(requests: Sequence[Request]) -> dict[int, Failure]:
    """The requests that can't be sent, by position: JSON has text and numbers that MessagePack does not have."""
    failures: dict[int, Failure] = {}
    for position, request in enumerate(requests):
        try:
            wire.encode(request)
        except (ValueError, OverflowError) as error:
            failures[position] = Failure(Kind.INVALID, f"the request can't be passed to a worker: {error}")
    return failures


def exit_reason(status: int | None) -> str:
    """A wait status in words."""
    if status is None:
        return "closed its channel"
    if os.WIFSIGNALED(status):
        number = os.WTERMSIG(status)
        hint = ", perhaps out of memory" if number == signal.SIGKILL else ""
        return f"was killed by {signal.Signals(number).name}{hint}"
    return f"exited with status {os.WEXITSTATUS(status)}"
