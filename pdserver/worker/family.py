"""The processes below this one, so that none is left behind: prctl(2), proc(5)."""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import threading
from collections.abc import Collection
from pathlib import Path

_PR_SET_CHILD_SUBREAPER = 36
_WORKER_VARIABLE = "PDSERVER_WORKER"
"""The variable with the worker's pid, which processes that its handler starts inherit."""


def adopt_orphans() -> None:
    """Become the parent of descendants whose own parent ends, instead of init."""
    ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def mark_children() -> None:
    """Mark the processes that this one starts as its own."""
    os.putenv(_WORKER_VARIABLE, str(os.getpid()))


def strays(workers: Collection[int]) -> list[int]:
    """The children of this process's thread that are none of `workers` and not started by one of them.

    They come from workers that are gone, and left their process groups.
    """
    return [pid for pid in _children() if pid not in workers and _started_by(pid) not in workers]


def kill(pid: int) -> None:
    """End a process with its group, if it leads one. The pid must be that of a child that nobody has reaped."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, signal.SIGKILL)
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)


def _children() -> list[int]:
    path = Path(f"/proc/self/task/{threading.get_native_id()}/children")
    try:
        return [int(pid) for pid in path.read_bytes().split()]
    except OSError:  # a kernel without CONFIG_PROC_CHILDREN
        return []


def _started_by(pid: int) -> int:
    """The pid of the worker whose handler started it, or 0 if that is unknown."""
    try:
        variables = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    except OSError:
        return 0
    prefix = f"{_WORKER_VARIABLE}=".encode()
    return next((int(text[len(prefix) :]) for text in variables if text.startswith(prefix)), 0)
