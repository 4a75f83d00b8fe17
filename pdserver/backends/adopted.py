"""A worker whose nursery has died: a child of the server's own now, which signals and reaps it."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections.abc import Callable


class Adopted:
    """`on_exit` is told the wait status, once; 0 when somebody else has reaped the process."""

    def __init__(self, pid: int, on_exit: Callable[[int], None]) -> None:
        self._pid = pid
        self._on_exit = on_exit
        self._loop = asyncio.get_running_loop()
        try:
            self._fd = os.pidfd_open(pid)
        except OSError:
            self._fd = -1
            self._loop.call_soon(on_exit, 0)
        else:
            self._loop.add_reader(self._fd, self._reap)

    def signal(self, number: int) -> None:
        """To its process group. Until it is reaped here, the number is surely its own."""
        if self._fd >= 0:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._pid, number)

    def _reap(self) -> None:
        self.signal(signal.SIGKILL)  # what its handler started and left behind
        self._loop.remove_reader(self._fd)
        os.close(self._fd)
        self._fd = -1
        try:
            _, status = os.waitpid(self._pid, 0)
        except ChildProcessError:
            status = 0
        self._on_exit(status)
