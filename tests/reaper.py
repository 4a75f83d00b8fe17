"""`python reaper.py FD MARK`: when the other end of FD is gone without a word, kill all processes with that mark.

Tests start servers in sessions of their own, which a Ctrl-C on the tests does not reach.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import time
from pathlib import Path

MARK = "TESTED_BY"
"""An environment variable, which all children have."""


def marked(mark: str) -> list[int]:
    found = []
    for path in Path("/proc").glob("[0-9]*/environ"):
        with contextlib.suppress(OSError):
            if f"{MARK}={mark}".encode() in path.read_bytes().split(b"\0"):
                found.append(int(path.parent.name))
    return found


if __name__ == "__main__":
    if not os.read(int(sys.argv[1]), 1):
        while left := [pid for pid in marked(sys.argv[2]) if pid != os.getpid()]:  # some start others meanwhile
            for pid in left:
                with contextlib.suppress(OSError):
                    os.kill(pid, signal.SIGKILL)
            time.sleep(0.05)
