"""How much of a busy machine's time another process of this user gets."""

from __future__ import annotations

import contextlib
import functools
import os
import threading
from pathlib import Path

import psutil

_STEPS = 10
"""Beside a process that computes all the time, one that is so much nicer gets a tenth of the processor."""
_NICEST = 19


def lower(pid: int) -> None:
    """Have a process give way to others until `restore`. Nothing happens where the system would not allow that."""
    if _may_rise():
        with contextlib.suppress(OSError):
            os.setpriority(os.PRIO_PROCESS, pid, min(_NICEST, _own() + _STEPS))


def restore(pid: int) -> None:
    """Give a process this one's priority, with all threads and processes that it has begun meanwhile."""
    if not _may_rise():
        return
    with contextlib.suppress(psutil.Error, OSError):
        process = psutil.Process(pid)
        for each in (process, *process.children(recursive=True)):
            for task in Path(f"/proc/{each.pid}/task").iterdir():
                os.setpriority(os.PRIO_PROCESS, int(task.name), _own())


def _own() -> int:
    return os.getpriority(os.PRIO_PROCESS, os.getpid())


@functools.cache
def _may_rise() -> bool:
    """Whether this user may raise a priority again (RLIMIT_NICE, or the capability SYS_NICE)."""
    allowed = False

    def attempt() -> None:
        nonlocal allowed
        own = threading.get_native_id()
        nice = os.getpriority(os.PRIO_PROCESS, own)
        with contextlib.suppress(OSError):
            os.setpriority(os.PRIO_PROCESS, own, nice + 1)
            os.setpriority(os.PRIO_PROCESS, own, nice)
            allowed = True

    # Each thread has a priority of its own, and this one's may stay lower.
    thread = threading.Thread(target=attempt)
    thread.start()
    thread.join()
    return allowed
