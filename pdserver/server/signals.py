"""The signals that stop the server, and those that it ignores although they end other processes."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import time
from collections.abc import Callable

_log = logging.getLogger("pdserver.server")
_STOPPING = (
    *(signal.SIGTERM, signal.SIGINT, signal.SIGQUIT),
    *(signal.SIGPWR, signal.SIGXCPU),  # the power fails; the processor time of setrlimit(2) is used up
)
_LEFT_TO_THE_SYSTEM = (
    *(signal.SIGKILL, signal.SIGSEGV, signal.SIGBUS, signal.SIGFPE, signal.SIGILL, signal.SIGABRT),
    *(signal.SIGTRAP, signal.SIGSYS, signal.SIGSTOP, signal.SIGTSTP, signal.SIGTTIN, signal.SIGTTOU, signal.SIGCONT),
    *(signal.SIGCHLD, signal.SIGURG, signal.SIGWINCH, signal.SIGPIPE, signal.SIGXFSZ),
)
"""Signals of a crash and of a pause, and those that don't end Python anyway."""
_IGNORED = sorted(signal.valid_signals() - {*_STOPPING, signal.SIGHUP, *_LEFT_TO_THE_SYSTEM})
"""SIGUSR1 and SIGUSR2, which make other servers reopen their logs, and all others that end a process."""
_AGAIN_SECONDS = 1.0
"""A signal that follows the first one sooner than this counts as the same: a shell or supervisor may send it to the
server and again to its whole group."""


class StopSignals:
    """Lets no signal end the server before it has answered the accepted requests, except SIGKILL and those of a crash.

    The first stopping signal sets `stopped`. A later one sets `hurried` and calls `hurry`.
    """

    def __init__(self, hurry: Callable[[], None]) -> None:
        self._hurry = hurry
        self._stopped_at = 0.0
        self.stopped = asyncio.Event()
        self.hurried = False
        loop = asyncio.get_running_loop()
        hangs_up = _has_terminal() and signal.getsignal(signal.SIGHUP) != signal.SIG_IGN  # as nohup(1) leaves it
        for number in (*_STOPPING, signal.SIGHUP) if hangs_up else _STOPPING:
            loop.add_signal_handler(number, self._signalled, number)
        for number in _IGNORED if hangs_up else (*_IGNORED, signal.SIGHUP):
            loop.add_signal_handler(number, _log.info, "%s: ignored", signal.strsignal(number))

    def _signalled(self, number: int) -> None:
        if not self.stopped.is_set():
            _log.info("%s: stopping; what was accepted is answered first", signal.Signals(number).name)
            self._stopped_at = time.monotonic()
            self.stopped.set()
        elif time.monotonic() - self._stopped_at >= _AGAIN_SECONDS:
            self.hurried = True
            _log.warning("%s again: ending at once", signal.Signals(number).name)
            self._hurry()


def _has_terminal() -> bool:
    """Whether the process has a terminal, whose loss SIGHUP then reports. Otherwise SIGHUP asks a server to read its
    files again, which this one does without a signal: tokens, certificates and logs."""
    try:
        os.close(os.open("/dev/tty", os.O_RDWR | os.O_NOCTTY))
    except OSError:
        return False
    return True
