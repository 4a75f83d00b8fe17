"""The standard streams, which may be closed at the start, and may be closed or full at any time."""

from __future__ import annotations

import os
import sys


def ensure() -> None:
    """Open closed standard streams on /dev/null. Otherwise the next sockets and files get their numbers, and receive
    what is written to "stdout"."""
    for fd in (0, 1, 2):
        try:
            os.fstat(fd)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # gets the lowest free number, which is this one
    # Python sets those that were closed at its start to None.
    sys.stdin = sys.stdin or open(0, closefd=False)  # noqa: SIM115
    sys.stdout = sys.stdout or open(1, "w", closefd=False)  # noqa: SIM115
    sys.stderr = sys.stderr or open(2, "w", closefd=False)  # noqa: SIM115


def say(text: str, *, error: bool = False) -> None:
    """Print a line to stdout or stderr. It never fails if the stream is closed or full."""
    stream = sys.stderr if error else sys.stdout
    try:
        print(text, file=stream, flush=True)
    except OSError:
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, stream.fileno())  # for what is still buffered, and for what comes later
        os.close(null)
