"""One end of the socketpair between the main process and a front end: all that is said in a turn is one frame."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable, Sequence
from typing import Any

import msgspec

from pdserver.backends.channel import Channel
from pdserver.memory_file import MemoryFile
from pdserver.worker import wire

_SOCKET_BUFFER_BYTES = 1 << 20


class Line:
    """Subclasses gather what is to be said and call `soon`; `frame` then makes one message of all of it."""

    def __init__(self, sock: socket.socket, kind: type[Any], ended: Callable[[], None]) -> None:
        """`kind` is what the other end sends."""
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _SOCKET_BUFFER_BYTES)
        self._loop = asyncio.get_running_loop()
        self._decode: Callable[[memoryview], Any] = wire.decoder(kind).decode
        self._due = False
        self._channel = Channel(sock, _files, self._received, self.broken, ended)

    @property
    def closed(self) -> bool:
        return self._channel.closed

    def close(self) -> None:
        """Hang up. Idempotent."""
        self._channel.close()

    def soon(self) -> None:
        """Something is to be said, at the end of this turn of the event loop."""
        if not self._due:
            self._due = True
            self._loop.call_soon(self.flush)

    def flush(self) -> None:
        """Say it now."""
        self._due = False
        if not self._channel.closed:
            self.frame()

    async def said(self) -> None:
        """Say all that is left, at the end of this process."""
        await asyncio.sleep(0)  # for what other threads, and callbacks of the loop, still have to say
        self.flush()
        self._channel.finish()

    def _send(self, message: msgspec.Struct, fds: Sequence[int]) -> None:
        self._channel.send(wire.encode(message, len(fds)), fds)

    def _received(self, frame: memoryview, files: list[MemoryFile] | None) -> None:
        try:
            message = self._decode(frame)
        except msgspec.DecodeError as error:
            raise ValueError(str(error)) from None
        self.received(message, files)

    # What an end adds

    def frame(self) -> None:
        """Send what is to be said."""
        raise NotImplementedError

    def received(self, message: Any, files: list[MemoryFile] | None) -> None:
        """Take what the other end says; `files` is None if some were lost on the way."""
        raise NotImplementedError

    def broken(self, why: str) -> None:
        """The other end makes no sense, or can't be written to."""
        raise NotImplementedError


def told(message: Any) -> Any:
    """What a message is in MessagePack, which has no halves of surrogate pairs: text that has some is escaped."""
    return _escaped(msgspec.to_builtins(message, builtin_types=(bytes,)))


def _escaped(value: Any) -> Any:
    if isinstance(value, str):
        return value.encode(errors="backslashreplace").decode()
    if isinstance(value, dict):
        return {_escaped(key): _escaped(each) for key, each in value.items()}
    return list(map(_escaped, value)) if isinstance(value, (list, tuple)) else value


def _files(fds: list[int]) -> list[MemoryFile]:
    return [MemoryFile.of(fd) for fd in fds]
