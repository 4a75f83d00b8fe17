"""A codec process, as the server sees it."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import sys
from collections.abc import Sequence

import msgspec

from pdserver.backends.channel import Channel
from pdserver.codec.messages import LOST, Done, Failed, Job, received_files
from pdserver.errors import Unavailable, WorkerDied
from pdserver.memory_file import MemoryFile
from pdserver.worker import wire

_log = logging.getLogger("pdserver.codec")
_GRACE_SECONDS = 2.0
Reply = tuple[Done | Failed, list[MemoryFile]]


class CodecProcess:
    """A process that does one job at a time."""

    def __init__(self, process: asyncio.subprocess.Process, channel: socket.socket) -> None:
        self._process = process
        self._decode = wire.decoder(Done | Failed).decode
        self._reply: asyncio.Future[Reply] | None = None
        self._why = "ended"
        self._channel = Channel(channel, received_files, self._received, self.kill, self._ended)

    @classmethod
    async def start(cls) -> CodecProcess:
        """Start a process. Raises Unavailable."""
        ours = theirs = None
        try:
            ours, theirs = socket.socketpair()
            process = await asyncio.create_subprocess_exec(
                sys.executable,
                "-m",
                "pdserver.codec.child",
                str(theirs.fileno()),
                pass_fds=[theirs.fileno()],
                stdin=asyncio.subprocess.DEVNULL,
                start_new_session=True,  # a kill of the server's process group must not hit it: the server ends it
            )
            return cls(process, ours)
        except BaseException as error:
            if ours is not None:
                ours.close()
            if isinstance(error, OSError):
                raise Unavailable(f"no process could be started for a large body: {error.strerror}") from None
            raise
        finally:
            if theirs is not None:
                theirs.close()

    @property
    def gone(self) -> bool:
        return self._channel.closed

    async def ask(self, job: Job, given: Sequence[MemoryFile], limit_seconds: float) -> Reply:
        """Do a job. Raises WorkerDied if the process ends before it has answered, or takes longer than the limit."""
        loop = asyncio.get_running_loop()
        self._reply = loop.create_future()
        if self.gone:
            self._ended()
        self._channel.send(wire.encode(job, len(given)), [file.fd for file in given])
        timer = loop.call_later(limit_seconds, self.kill, f"took longer than {limit_seconds:g} s")
        try:
            return await self._reply
        except EOFError:
            _log.warning("the process %d, which had a large body, %s", self._process.pid, self._why)
            raise WorkerDied(f"the process that had the large body {self._why}") from None
        finally:
            timer.cancel()
            self._reply = None  # this also releases its files

    def _received(self, frame: memoryview, given: list[MemoryFile] | None) -> None:
        try:
            reply = self._decode(frame)
        except msgspec.DecodeError as error:
            raise ValueError(str(error)) from None
        if given is None:
            reply, given = LOST, []
        if self._reply is not None and not self._reply.done():
            self._reply.set_result((reply, given))

    def _ended(self) -> None:
        if self._reply is not None and not self._reply.done():
            self._reply.set_exception(EOFError())

    def kill(self, why: str) -> None:
        self._why = why
        with contextlib.suppress(ProcessLookupError):
            self._process.kill()
        self._channel.close()

    async def close(self) -> None:
        """Hang up, and make sure that the process ends. Idempotent."""
        self._channel.close()
        try:
            await asyncio.wait_for(self._process.wait(), _GRACE_SECONDS)
        except asyncio.TimeoutError:
            self.kill("was ended: the server stops")
            await self._process.wait()
