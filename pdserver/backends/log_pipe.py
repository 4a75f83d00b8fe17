"""What a worker prints, line by line into the log."""

from __future__ import annotations

import asyncio
import logging
import os
from collections import deque

from pdserver.logs import marked as marked_lines
from pdserver.types import ModelRef

_worker_log = logging.getLogger("pdserver.worker")
_MAX_LINE_BYTES = 8192
_LINES_PER_SECOND = 1000
"""More lines of one worker are counted and left out: a handler that prints without end would fill the disk."""
_MOST_READS = 16
"""How often the pipe is read for the end of what was written: a process that writes on has no end."""
_TAIL_LINES = 5
_TAIL_CHARACTERS = 600


class LogPipe:
    """A worker's stdout and stderr."""

    def __init__(self, fd: int, ref: ModelRef, worker_id: int) -> None:
        os.set_blocking(fd, False)
        self.ref = ref
        self._fd = fd
        self._name = f"{ref} worker {worker_id}"
        self._loop = asyncio.get_running_loop()
        self._rest = b""
        self._last: deque[bytes] = deque(maxlen=_TAIL_LINES)
        self._second = 0
        self._lines = 0
        """Logged in this second."""
        self._left_out = 0
        self._loop.add_reader(fd, self._readable)

    def tail(self) -> str:
        """The end of what it wrote, with all that is in the pipe now; empty when it wrote nothing."""
        for _ in range(_MOST_READS):
            if self._fd < 0 or not self._readable():
                break
        text = "\n".join(map(_shown, self._last))
        return text[-_TAIL_CHARACTERS:]

    def _readable(self) -> bool:
        """Read a piece; whether there may be more."""
        try:
            data = os.read(self._fd, 65536)
        except BlockingIOError:
            return False
        *lines, self._rest = (self._rest + data).split(b"\n")
        if not data or len(self._rest) > _MAX_LINE_BYTES:
            lines.append(self._rest)
            self._rest = b""
        for line in lines:
            if line.strip():
                self._write(line[:_MAX_LINE_BYTES])
        if not data:
            self.close()
        return bool(data)

    def _write(self, line: bytes) -> None:
        level, line = marked_lines.read(line)
        self._last.append(line)
        second = int(self._loop.time())
        if second != self._second:
            self._second, self._lines = second, 0
        if self._lines < _LINES_PER_SECOND:
            self._lines += 1
            _worker_log.log(level, "%s | %s", self._name, _shown(line))
        else:
            if not self._left_out:  # told when the second is over, even if nothing more is written
                self._loop.call_at(second + 1, self._tell_left_out)
            self._left_out += 1

    def _tell_left_out(self) -> None:
        if self._left_out:
            _worker_log.warning(
                "%s | … %d lines left out: %d a second are logged", self._name, self._left_out, _LINES_PER_SECOND
            )
            self._left_out = 0

    def close(self) -> None:
        """Idempotent."""
        if self._fd >= 0:
            self._tell_left_out()
            self._loop.remove_reader(self._fd)
            os.close(self._fd)
            self._fd = -1


def _shown(line: bytes) -> str:
    text = line.decode("utf-8", "backslashreplace").rstrip()
    return "".join(c if c.isprintable() or c == "\t" else ascii(c)[1:-1] for c in text)
