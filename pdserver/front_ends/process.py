"""One front-end process, from its start to its end, as the main process has it."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
import socket
import sys
import time
from collections.abc import AsyncGenerator, Callable, Sequence

from pdserver.backends.local_worker import exit_reason
from pdserver.engine.queue import Call
from pdserver.front_ends.front_end import FrontEnd
from pdserver.front_ends.messages import FromFrontEnd

_log = logging.getLogger("pdserver.front_ends")
_PROGRAM = "pdserver.server.front_end"
SHOW_STACK = signal.SIGUSR2
"""A front end that gets this prints what its threads are doing, however stuck it is."""
_STACK_SECONDS = 0.5
_END_SECONDS = 1.0
_LINE_BYTES = 1 << 13


class FrontEndProcess:
    """Made by `start`. Its `line` is open until it ends."""

    def __init__(self, number: int, process: asyncio.subprocess.Process, line: FrontEnd, ended: asyncio.Event) -> None:
        self.number = number
        self.line = line
        self.ended = ended
        """Set when nothing more comes from it."""
        self._ready_at = 0.0
        self._process = process
        self._printing = asyncio.create_task(self._log_output())

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def is_ready(self) -> bool:
        """Whether it accepts clients."""
        return bool(self._ready_at)

    def accepts(self) -> None:
        """It has said so."""
        self._ready_at = time.monotonic()

    def ready_seconds(self) -> float:
        return time.monotonic() - self._ready_at if self.is_ready else 0.0

    async def end(self) -> str:
        """End it, if it does not end by itself. Returns how it ended, once nothing of it is left."""
        self.line.close()
        with contextlib.suppress(asyncio.TimeoutError):
            await asyncio.wait_for(self._process.wait(), _END_SECONDS)
        self.kill()
        status = await self._process.wait()
        await self._printing
        return exit_reason(-status if status < 0 else status << 8)

    async def give_up(self) -> None:
        """End a process that hangs, after a moment in which it may say where."""
        with contextlib.suppress(ProcessLookupError):
            self._process.send_signal(SHOW_STACK)
        await asyncio.sleep(_STACK_SECONDS)
        self.kill()

    def kill(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            self._process.kill()

    async def _log_output(self) -> None:
        """It prints nothing but errors of Python itself, and where it crashed."""
        assert self._process.stdout is not None  # noqa: S101
        async for line in lines(self._process.stdout):
            _log.error("front end %d: %s", self.number, line)


async def lines(output: asyncio.StreamReader) -> AsyncGenerator[str, None]:
    """The lines of what comes in pieces of any size. One that is too long for a line is several."""
    rest = b""
    while data := await output.read(_LINE_BYTES):
        *whole, rest = (rest + data).split(b"\n")
        if len(rest) > _LINE_BYTES:
            whole, rest = [*whole, rest], b""
        for line in whole:
            yield line.decode(errors="backslashreplace")
    if rest:
        yield rest.decode(errors="backslashreplace")


async def start(
    number: int,
    inherited: Sequence[int],
    submit: Callable[[Call], None],
    on_message: Callable[[FrontEnd, FromFrontEnd], None],
) -> FrontEndProcess:
    """`inherited` are descriptors. Raises OSError."""
    ours, theirs = socket.socketpair()
    with theirs, contextlib.ExitStack() as if_it_fails:
        if_it_fails.callback(ours.close)
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            *("-m", _PROGRAM, str(theirs.fileno())),
            pass_fds=[theirs.fileno(), *inherited],
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            start_new_session=True,  # a signal to the server's process group leaves it there, to answer the rest
        )
        if_it_fails.pop_all()
    ended = asyncio.Event()
    return FrontEndProcess(number, process, FrontEnd(ours, submit, on_message, lambda _: ended.set()), ended)
