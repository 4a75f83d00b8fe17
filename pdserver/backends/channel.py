"""A socketpair between the server and a process of its own, in the event loop."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Callable, Sequence

from pdserver.worker import files, wire


class Channel:
    """One end of a socketpair in the event loop: whole frames out, whole frames in, and the end of the stream once.

    `on_frame` raises ValueError for a frame that makes no sense; `on_broken` is told of that, and of what is no frame.
    An asyncio transport would do, but it can't pass descriptors and it costs more for each frame.
    """

    def __init__(
        self,
        sock: socket.socket,
        on_frame: Callable[[memoryview, list[int]], None],
        on_broken: Callable[[str], None],
        on_end: Callable[[], None],
    ) -> None:
        sock.setblocking(False)
        self._sock = sock
        self._loop = asyncio.get_running_loop()
        self._reader = wire.FrameReader()
        self._on_frame = on_frame
        self._on_broken = on_broken
        self._on_end = on_end
        self._unsent: list[tuple[memoryview, Sequence[int]]] = []
        self._fds: list[int] = []
        """Received, for the frame that is not complete yet."""
        self.closed = False
        self.cut_off = False
        """Whether there was something that could not be sent whole."""
        self._loop.add_reader(sock.fileno(), self._readable)

    def send(self, frame: bytearray, fds: Sequence[int] = ()) -> None:
        """Write a frame, now or when there is room; `fds` stay open until then. A broken pipe shows on the reading
        side."""
        if self.closed:
            self.cut_off = True
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
            self.cut_off = True
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
        try:
            for frame in self._reader.received(count):
                fds, self._fds = self._fds, []
                self._on_frame(frame, fds)
        except ValueError as error:
            self._on_broken(str(error))

    def close(self) -> None:
        """Hang up. `on_end` is called, the first time."""
        if not self.closed:
            self.closed = True
            self.cut_off = self.cut_off or bool(self._unsent)
            self._loop.remove_reader(self._sock.fileno())
            self._loop.remove_writer(self._sock.fileno())
            self._sock.close()
            self._reader.drop()
            for fd in self._fds:
                os.close(fd)
            self._on_end()
