"""The worker's main: load one version of a model, then answer batches until the server hangs up.

One process, one thread, one predictor: the channel is read and written here and nowhere else, and with blocking
calls, because Paddle holds the interpreter lock for the whole of a run.
"""

from __future__ import annotations

import logging
import os
import resource
import select
import signal
import socket
import sys
import time
from collections.abc import Callable
from functools import partial
from types import FrameType
from typing import NoReturn

from pdserver.errors import HandlerFailed, Unavailable
from pdserver.handlers.runtime.answers import failure
from pdserver.handlers.runtime.fused import FusedService
from pdserver.handlers.runtime.isolation import SendPiece
from pdserver.handlers.runtime.service import Service
from pdserver.handlers.runtime.typed import of_some
from pdserver.logs import marked as marked_lines
from pdserver.memory_file import MemoryFile
from pdserver.pipeline import fused
from pdserver.system.signals import SERVERS_OWN
from pdserver.types import Answered, Failure, Outcome, Reply, Request
from pdserver.worker import crashes, environment, files, outgoing, wire
from pdserver.worker.messages import Batch, Chunk, Load, Loaded, ToWorker

AnyService = Service | FusedService
_FEW = 8
_LOOK_OUT_SECONDS = 0.0005
"""A client's next request arrives sooner than this after an answer. Waking a sleeping processor takes up to a third of
that time."""


class Child:
    """The worker's end of the line: reads what the server asks of its one model, and answers."""

    def __init__(self, channel: socket.socket) -> None:
        self._channel = channel
        self._reader = wire.FrameReader()
        self._files = files.Received(files.take_views)
        self._decode: Callable[[memoryview], ToWorker] = wire.decoder(ToWorker).decode
        self._service: AnyService | None = None

    def serve(self) -> None:
        """Answer until the server hangs up."""
        few = False
        """Whether the last batch had few requests. After a large one, the server needs the processor more."""
        soon = False
        """Whether the last batch came soon enough for spinning to save time."""
        answered = 0.0
        arrives = select.poll()
        arrives.register(self._channel, select.POLLIN)
        while True:
            if few and soon:
                _spin(arrives)
            count, ancillary, flags, _ = self._channel.recvmsg_into(
                [self._reader.buffer()], files.ANCILLARY_BYTES, files.CLOSED_ON_EXEC
            )
            if not count:
                return
            soon = time.perf_counter() - answered < _LOOK_OUT_SECONDS
            self._files.add(ancillary, flags)
            for frame, brought in self._reader.received(count):
                message = self._decode(frame)
                if isinstance(message, Batch):
                    assert self._service is not None, "a batch before the model was loaded"  # noqa: S101
                    self._answer(self._service, message, self._files.take(brought))
                    few = len(message.requests) <= _FEW
                    answered = time.perf_counter()
                else:
                    self._load(message)

    def _load(self, message: Load) -> None:
        started = time.perf_counter()
        try:
            os.chdir(message.spec.directory)  # handlers written for TorchServe look for their files there
            environment.let_have_threads(message.spec.model_config)
            kind = FusedService if message.spec.handler == fused.HANDLER else Service
            service: AnyService = kind(message.spec, message.device_id, message.metrics)
            interface = service.load()
            frame = wire.encode(Loaded(time.perf_counter() - started, interface))
            self._service = service
        except BaseException as error:  # noqa: BLE001 - whatever it is, the server is told
            frame = outgoing.not_loaded(error)
        self._channel.sendall(frame)

    def _answer(self, service: AnyService, batch: Batch, contents: list[bytes] | None) -> None:
        started = time.perf_counter()
        if contents:
            files.put_inputs_in_place(batch.requests, contents)
        outcomes = self._outcomes(service, batch, lost=contents is None)
        seconds = time.perf_counter() - started
        beside = files.put_answers_beside(outcomes)
        due_for_replacement = _why_replaced() if Failure in map(type, outcomes) else ""
        times = service.times
        answers = Answered(
            batch.id,
            outcomes,
            seconds,
            service.take_measured(),
            times.input_seconds,
            times.output_seconds,
            times.executions,
            due_for_replacement,
            times.nodes,
            service.take_engines(),
        )
        frame = outgoing.answers(answers, len(beside))
        sent = self._channel.sendmsg([frame], files.rights([file.fd for file in beside]))
        if sent < len(frame):
            self._channel.sendall(memoryview(frame)[sent:])
        if contents:
            files.let_inputs_go(batch.requests)

    def _outcomes(self, service: AnyService, batch: Batch, *, lost: bool) -> list[Outcome]:
        """One outcome for each request, whatever the handler does. `lost`: the large inputs did not arrive."""
        requests = batch.requests
        send = partial(self._send_piece, batch.id)
        if not lost:
            return _run(service, requests, send)
        positions = [position for position, request in enumerate(requests) if not request.files]
        answered = iter(_run(service, [requests[position] for position in positions], of_some(send, positions)))
        return [files.LOST_INPUT if request.files else next(answered) for request in requests]

    def _send_piece(self, batch_id: int, index: int, piece: Reply) -> None:
        self._channel.sendall(outgoing.chunk(Chunk(batch_id, index, piece)))


def _run(service: AnyService, requests: list[Request], send_piece: SendPiece | None) -> list[Outcome]:
    try:
        outcomes = service.run(requests, send_piece) if requests else []
        if len(outcomes) == len(requests):
            return outcomes
        raise HandlerFailed(f"{len(outcomes)} answers for {len(requests)} requests")
    except BaseException as error:  # noqa: BLE001 - a handler's objects may raise wherever they are touched
        return [failure(error, [request.id for request in requests])] * len(requests)


def _why_replaced() -> str:
    """Why this process should be replaced, or "". Descriptors that a handler has leaked never come back."""
    try:
        MemoryFile()
    except Unavailable as error:
        return str(error)
    return ""


def _spin(arrives: select.poll) -> None:
    """Wait briefly for the next batch without sleeping, since waking up takes as long as answering.

    Other processes get this processor meanwhile. A worker that stays idle for longer goes to sleep.
    """
    end = time.perf_counter() + _LOOK_OUT_SECONDS
    while not arrives.poll(0) and time.perf_counter() < end:
        os.sched_yield()


def run(channel_fd: int, log_fd: int) -> None:
    """Run as a worker until the channel closes. The standard streams go to the log."""
    os.dup2(log_fd, 1)
    os.dup2(log_fd, 2)
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)
    for fd in {log_fd, null} - {0, 1, 2}:
        os.close(fd)
    # New objects, since those of the nursery remember what kind of file they were opened on.
    sys.stdout = open(1, "w", buffering=1, encoding="utf-8", errors="backslashreplace", closefd=False)  # noqa: SIM115
    sys.stderr = open(2, "w", buffering=1, encoding="utf-8", errors="backslashreplace", closefd=False)  # noqa: SIM115
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    logging.lastResort = marked_lines.LastResort()
    crashes.report()
    _leave_signals_to_the_server()
    with socket.socket(fileno=channel_fd) as channel:
        # A process that the handler forks must neither answer for the worker nor keep its channel open.
        os.register_at_fork(after_in_child=channel.close)
        try:
            Child(channel).serve()
        except (OSError, ValueError) as error:
            print(f"worker ends: {type(error).__name__}: {error}", file=sys.stderr)  # noqa: T201
            os._exit(1)


def _leave_signals_to_the_server() -> None:
    """Ignore them here. Processes that the handler starts still end by them."""
    for number in SERVERS_OWN:
        signal.signal(number, _ignore)
    os.register_at_fork(after_in_child=_heed_signals)


def _ignore(number: int, frame: FrameType | None) -> None:
    """Used instead of SIG_IGN, which started programs would inherit."""


def _heed_signals() -> None:
    for number in SERVERS_OWN:
        if signal.getsignal(number) is _ignore:
            signal.signal(number, signal.SIG_DFL)


def execute(python: str, channel_fd: int, log_fd: int) -> NoReturn:
    """Replace this process by a worker on another interpreter, which may have other packages."""
    os.dup2(log_fd, 1)
    os.dup2(log_fd, 2)
    os.set_inheritable(channel_fd, True)
    os.execv(python, [python, "-m", "pdserver.worker.child", "--channel", str(channel_fd)])  # noqa: S606


if __name__ == "__main__":
    channel = int(sys.argv[sys.argv.index("--channel") + 1])
    os.set_inheritable(channel, False)
    crashes.keep_signals_from_paddle()
    run(channel, 1)
