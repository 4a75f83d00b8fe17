"""The standard streams, which whoever starts a program may have closed, or may close or fill at any time."""

from __future__ import annotations

import os
import sys


def ensure() -> None:
    """Open those that are closed on /dev/null: else the next sockets and files get their numbers, and what is written
    to "stdout" goes there."""
    for fd in (0, 1, 2):
        try:
            os.fstat(fd)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # gets the lowest number that is free, which is this one
    # Python has None in place of those that were closed when it started.
    sys.stdin = sys.stdin or open(0, closefd=False)  # noqa: SIM115
    sys.stdout = sys.stdout or open(1, "w", closefd=False)  # noqa: SIM115
    sys.stderr = sys.stderr or open(2, "w", closefd=False)  # noqa: SIM115


def say(text: str, *, error: bool = False) -> None:
    """A line to stdout or stderr. Nobody has to be there to read it, nor does it have to fit."""
    stream = sys.stderr if error else sys.stdout
    try:
        print(text, file=stream, flush=True)
    except OSError:
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, stream.fileno())  # what is still buffered, and what comes later
        os.close(null)
