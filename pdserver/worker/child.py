"""The worker's main: load one version of a model, then answer batches until the server hangs up.

One process, one thread, one predictor: the channel is read and written here and nowhere else, and with blocking
calls, because Paddle holds the interpreter lock for the whole of a run.
"""

from __future__ import annotations

import faulthandler
import os
import resource
import select
import socket
import sys
import time
from typing import NoReturn

from pdserver.errors import PdError
from pdserver.handlers.service import Service
from pdserver.worker import files, wire
from pdserver.worker.messages import Answers, Batch, Chunk, Load, Loaded, Refused, ToWorker

_FEW = 8
_LOOK_OUT_SECONDS = 0.0005
"""Longer than the way of an answer to its client and of that one's next request back; waking a sleeping processor takes
up to a third of that way."""


def main(channel: socket.socket) -> None:
    """Serve `channel` until it ends. Returns when the server closed it."""
    reader = wire.FrameReader()
    decode = wire.decoder(ToWorker).decode
    service: Service | None = None
    fds: list[int] = []
    few = False
    """Whether the last batch had few requests: after a large one, the other side needs the processor more."""
    soon = False
    """Whether the last batch came so soon after the one before that looking out for it paid."""
    answered = 0.0
    arrives = select.poll()
    arrives.register(channel, select.POLLIN)
    while True:
        if few and soon:
            _look_out(arrives)
        count, ancillary, _, _ = channel.recvmsg_into([reader.buffer()], files.ANCILLARY_BYTES, socket.MSG_CMSG_CLOEXEC)
        if not count:
            return
        soon = time.perf_counter() - answered < _LOOK_OUT_SECONDS
        fds += files.received_fds(ancillary)
        for frame in reader.received(count):
            message = decode(frame)
            if isinstance(message, Batch):
                assert service is not None, "a batch before the model was loaded"  # noqa: S101
                if fds:
                    files.put_inputs_in_place(message.requests, files.take_views(fds))
                _answer(channel, service, message)
                if fds:
                    files.let_inputs_go(message.requests)
                    fds = []
                few = len(message.requests) <= _FEW
                answered = time.perf_counter()
            else:
                service, reply = _load(message)
                channel.sendall(reply)


def _look_out(arrives: select.poll) -> None:
    """Wait a little while for the next batch without going to sleep: waking up takes as long as answering does.

    Whoever else wants this processor has it meanwhile; and a worker that has nothing to do for longer does sleep.
    """
    end = time.perf_counter() + _LOOK_OUT_SECONDS
    while not arrives.poll(0) and time.perf_counter() < end:
        os.sched_yield()


def _load(message: Load) -> tuple[Service | None, bytearray]:
    started = time.perf_counter()
    service = Service(message.spec, message.device_id)
    try:
        interface = service.load()
    except PdError as error:
        return None, wire.encode(Refused(error.kind, str(error)))
    return service, wire.encode(Loaded(time.perf_counter() - started, interface))


def _answer(channel: socket.socket, service: Service, batch: Batch) -> None:
    started = time.perf_counter()
    outcomes = service.run(
        batch.requests, lambda index, piece: channel.sendall(wire.encode(Chunk(batch.id, index, piece)))
    )
    seconds = time.perf_counter() - started
    beside = files.put_answers_beside(outcomes)
    times = service.times
    frame = wire.encode(
        Answers(
            batch.id,
            outcomes,
            seconds,
            service.take_measured(),
            times.input_seconds,
            times.output_seconds,
            times.executions,
        )
    )
    sent = channel.sendmsg([frame], files.rights([file.fd for file in beside]))
    if sent < len(frame):
        channel.sendall(memoryview(frame)[sent:])


def run(channel_fd: int, log_fd: int) -> None:
    """Become a worker: the process's standard streams go to the log, and it lives as long as the channel does."""
    os.dup2(log_fd, 1)
    os.dup2(log_fd, 2)
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)
    for fd in {log_fd, null} - {0, 1, 2}:
        os.close(fd)
    # New objects: the ones of the nursery remember what kind of file they were opened on.
    sys.stdout = open(1, "w", buffering=1, encoding="utf-8", errors="backslashreplace", closefd=False)  # noqa: SIM115
    sys.stderr = open(2, "w", buffering=1, encoding="utf-8", errors="backslashreplace", closefd=False)  # noqa: SIM115
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    faulthandler.enable(2)  # how it crashed, and where it hung when the server ends it with SIGABRT, goes to the log
    with socket.socket(fileno=channel_fd) as channel:
        # What a handler forks must neither answer in the worker's name nor keep its channel open.
        os.register_at_fork(after_in_child=channel.close)
        try:
            main(channel)
        except (OSError, ValueError) as error:
            print(f"worker ends: {type(error).__name__}: {error}", file=sys.stderr)  # noqa: T201
            os._exit(1)


def execute(python: str, channel_fd: int, log_fd: int) -> NoReturn:
    """Go on as a worker of another interpreter, whose packages may be others."""
    os.dup2(log_fd, 1)
    os.dup2(log_fd, 2)
    os.set_inheritable(channel_fd, True)
    os.execv(python, [python, "-m", "pdserver.worker.child", "--channel", str(channel_fd)])  # noqa: S606


if __name__ == "__main__":
    channel = int(sys.argv[sys.argv.index("--channel") + 1])
    os.set_inheritable(channel, False)
    run(channel, 1)
