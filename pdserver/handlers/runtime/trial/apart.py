"""Does work in a forked process, which may crash or hang without harm to this one, and whose memory goes with it."""

from __future__ import annotations

import faulthandler
import gc
import os
import select
import signal
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import BinaryIO

import msgspec
import numpy as np

from pdserver.handlers.runtime.rows import Array

_DONE, _RAISED = b"d", b"r"
_MAX_TEXT_BYTES = 4000
_MOST_SAID = 500
"""Characters of an engine's error, on one line."""
_LENGTH_BYTES = 8


@dataclass(frozen=True)
class Failed(Exception):
    """The work raised something, or its process ended or took too long. `reason` says so to people."""

    reason: str

    def __str__(self) -> str:
        return self.reason


@dataclass(frozen=True)
class Result:
    """What the work has given: JSON, and arrays by name."""

    text: bytes
    arrays: Mapping[str, Array]


class _Head(msgspec.Struct):
    """What stands before the arrays' bytes."""

    text: bytes
    arrays: list[tuple[str, str, tuple[int, ...], int]]
    """Each one's name, dtype, shape and bytes."""


def run(work: Callable[[], Result], seconds: float) -> Result:
    """Do `work` in a process forked from this one, which must have loaded no engine yet. Raises Failed.

    Nothing that the process does has an effect here, but for what `work` returns.
    """
    try:
        with tempfile.TemporaryFile() as file:
            return _run(work, seconds, file)
    except OSError as error:
        raise Failed(f"no process for it: {error}") from None


def _run(work: Callable[[], Result], seconds: float, file: BinaryIO) -> Result:
    reading, writing = os.pipe()
    with os.fdopen(reading, "rb") as end:
        with os.fdopen(writing, "wb"):  # the child's copy is the only one that stays open
            pid = os.fork()
            if not pid:
                end.close()
                _child(work, file)
        try:
            ended = _ends(reading, seconds)
        finally:
            os.kill(pid, signal.SIGKILL)  # it is not reaped yet, so that the id is its own
            status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    if not ended:
        raise Failed(f"took longer than {seconds:.0f} s")
    file.seek(0)
    kind = file.read(1)
    if kind == _RAISED:
        raise Failed(" ".join(file.read().decode(errors="replace").split())[:_MOST_SAID])
    if kind != _DONE:
        raise Failed(_ending(status))
    head = msgspec.json.decode(file.read(int.from_bytes(file.read(_LENGTH_BYTES), "little")), type=_Head)
    arrays = {
        name: np.frombuffer(file.read(size_bytes), dtype).reshape(shape)
        for name, dtype, shape, size_bytes in head.arrays
    }
    return Result(head.text, arrays)


def _child(work: Callable[[], Result], file: BinaryIO) -> None:
    """Never returns: nothing of what is open in this process is the child's to finish."""
    faulthandler.disable()  # a crash here is told to the parent, and is not the parent's
    gc.freeze()  # what the parent left to be collected may be an engine, whose threads are not here
    try:
        try:
            result = work()
            arrays = {name: np.asarray(array, order="C") for name, array in result.arrays.items()}
            listed = [(name, array.dtype.str, array.shape, array.nbytes) for name, array in arrays.items()]
            head = msgspec.json.encode(_Head(result.text, listed))
            file.write(_DONE + len(head).to_bytes(_LENGTH_BYTES, "little") + head)
            for array in arrays.values():
                file.write(array.data)
        except BaseException as error:  # noqa: BLE001 - it is told, whatever it is
            file.seek(0)
            file.truncate()
            file.write(_RAISED + (str(error) or type(error).__name__).encode()[:_MAX_TEXT_BYTES])
        file.flush()
    finally:
        os._exit(0)


def _ends(reading: int, seconds: float) -> bool:
    """Whether the other end of the pipe is closed in time."""
    waiting = select.poll()
    waiting.register(reading, select.POLLIN)
    deadline = time.monotonic() + seconds
    while (left := deadline - time.monotonic()) > 0:
        if waiting.poll(left * 1000):
            return True
    return False


def _ending(status: int) -> str:
    if status < 0:
        return f"its process was ended by {signal.Signals(-status).name}"
    return f"its process ended with status {status}"
