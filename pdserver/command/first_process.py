"""The duties of a container's first process, so that it needs no init such as tini."""

from __future__ import annotations

import os
import signal
from typing import NoReturn

_LEFT_TO_THE_SYSTEM = {
    *(signal.SIGKILL, signal.SIGSTOP, signal.SIGSEGV, signal.SIGBUS, signal.SIGFPE, signal.SIGILL),
    *(signal.SIGABRT, signal.SIGTRAP, signal.SIGSYS, signal.SIGTSTP, signal.SIGTTIN, signal.SIGTTOU),
}
"""Signals that can't be caught, those of a crash, and those that stop a job of a terminal."""


def take_its_duties() -> None:
    """Return in a child, which is to be the server. This process only passes signals on to it, reaps what other
    processes leave behind, and ends with the server's exit status (128 + N after signal N).

    It does so in a process of its own, because the server waits for the children that it has started, and a child
    that it has not started may be any of them to `waitpid(-1)`. Call it before there are threads.
    """
    signals = signal.valid_signals() - _LEFT_TO_THE_SYSTEM
    before = signal.pthread_sigmask(signal.SIG_BLOCK, signals)
    server = os.fork()
    if server:
        _serve_as_first(server, signals)
    signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _serve_as_first(server: int, signals: set[signal.Signals]) -> NoReturn:
    while True:
        number = signal.sigwait(signals)
        if number != signal.SIGCHLD:
            os.kill(server, number)
        elif (status := _reap(server)) is not None:
            os._exit(status)


def _reap(server: int) -> int | None:
    """Free all processes that have ended. Returns the server's exit status if it is among them."""
    while True:
        try:
            pid, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return None
        if pid == 0:
            return None
        if pid == server:
            code = os.waitstatus_to_exitcode(status)
            return code if code >= 0 else 128 - code
