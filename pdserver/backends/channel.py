"""A socketpair between the server and a process of its own, in the event loop."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
from collections.abc import Callable, Sequence
from typing import Generic

from pdserver.worker import files, wire
from pdserver.worker.files import Taken

_Piece = tuple[memoryview, Sequence[int]]


class Channel(Generic[Taken]):
    """One end of a socketpair in the event loop: whole frames out, whole frames in, and the end of the stream once.

    `on_frame` is given a frame and what `take_over` made of the descriptors that came along, None if some were lost on
    the way. It raises ValueError for a frame that makes no sense; `on_broken` is told of that, of what is no frame, and
    of what could not be sent. An asyncio transport would do, but it can't pass descriptors and it costs more for each
    frame.
    """

    def __init__(
        self,
        sock: socket.socket,
        take_over: Callable[[list[int]], list[Taken]],
        on_frame: Callable[[memoryview, list[Taken] | None], None],
        on_broken: Callable[[str], None],
        on_end: Callable[[], None],
    ) -> None:
        sock.setblocking(False)
        self._sock = sock
        self._loop = asyncio.get_running_loop()
        self._reader = wire.FrameReader()
        self._files = files.Received(take_over)
        self._on_frame = on_frame
        self._on_broken = on_broken
        self._on_end = on_end
        self._unsent: list[_Piece] = []
        """This object closes the descriptors in it."""
        self.closed = False
        self.cut_off = False
        """Whether something could not be sent whole."""
        self._loop.add_reader(sock.fileno(), self._readable)

    def send(self, frame: bytearray, fds: Sequence[int] = ()) -> None:
        """Write a frame with these descriptors, which the caller may close afterwards. A broken pipe is reported by the
        reading side."""
        if self.closed:
            self.cut_off = True
            return
        sent = 0
        try:
            if not (fds or self._unsent):  # nearly always
                with contextlib.suppress(BlockingIOError):
                    sent = self._sock.send(frame)
                if sent == len(frame):
                    return
            pieces: list[_Piece] = files.pieces(frame, fds) if fds else [(memoryview(frame)[sent:], ())]
            if not self._unsent:
                self._write(pieces)
                if pieces:
                    self._loop.add_writer(self._sock.fileno(), self._writable)
            for piece, beside in pieces:
                self._unsent.append((piece, [os.dup(fd) for fd in beside]))
        except OSError as error:
            self._cut_off(error)

    def finish(self) -> None:
        """Write what is unsent, and do nothing else meanwhile: this process is about to end."""
        if not self.closed:
            self._sock.setblocking(True)
            self._writable()

    def _writable(self) -> None:
        """Write more of what is unsent: there is room for it."""
        try:
            for fds in self._write(self._unsent):
                files.close_all(fds)
        except OSError as error:
            self._cut_off(error)
        if not self._unsent:
            self._loop.remove_writer(self._sock.fileno())

    def _write(self, pieces: list[_Piece]) -> list[Sequence[int]]:
        """Write as many pieces of the list as there is room for. Returns the descriptors that have been passed."""
        passed: list[Sequence[int]] = []
        try:
            while pieces:
                piece, fds = pieces[0]
                sent = self._sock.sendmsg([piece], files.rights(fds)) if fds else self._sock.send(piece)
                if fds:
                    passed.append(fds)
                if sent == len(piece):
                    del pieces[0]
                else:
                    pieces[0] = (piece[sent:], ())
        except BlockingIOError:
            pass
        return passed

    def _cut_off(self, error: OSError) -> None:
        self.cut_off = True
        self._let_go()
        if not isinstance(error, ConnectionError):
            self._loop.call_soon(self._on_broken, f"can't be written to: {error.strerror}")

    def _let_go(self) -> None:
        """Close the descriptors of what will not be sent."""
        for _, fds in self._unsent:
            files.close_all(fds)
        self._unsent.clear()

    def _readable(self) -> None:
        try:
            count, ancillary, flags, _ = self._sock.recvmsg_into(
                [self._reader.buffer()], files.ANCILLARY_BYTES, files.CLOSED_ON_EXEC
            )
        except BlockingIOError:
            return
        except OSError:
            count = 0
        if not count:
            self.close()
            return
        try:
            self._files.add(ancillary, flags)
            for frame, brought in self._reader.received(count):
                self._on_frame(frame, self._files.take(brought))
        except ValueError as error:
            self._on_broken(f"broke the protocol: {error}")

    def close(self) -> None:
        """Hang up. `on_end` is called, the first time."""
        if not self.closed:
            self.closed = True
            self.cut_off = self.cut_off or bool(self._unsent)
            self._loop.remove_reader(self._sock.fileno())
            self._loop.remove_writer(self._sock.fileno())
            self._sock.close()
            self._reader.drop()
            self._let_go()
            self._on_end()
