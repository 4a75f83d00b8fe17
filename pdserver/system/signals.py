"""Signals that are for a server's main process alone."""

from __future__ import annotations

import signal

SERVERS_OWN = (
    *(signal.SIGTERM, signal.SIGINT, signal.SIGQUIT, signal.SIGHUP),
    *(signal.SIGUSR1, signal.SIGUSR2, signal.SIGPWR),
)
"""A terminal, a container or a service may send these to all processes of a server, but only the main one decides what
follows. The others ignore them."""


def ignore() -> None:
    """For a process that starts no programs: these would ignore the signals, too."""
    for number in SERVERS_OWN:
        signal.signal(number, signal.SIG_IGN)
