"""Numbers that several processes share: each writes its own, and reads those of all."""

from __future__ import annotations

import mmap
import os

ROW_NUMBERS = 4096
LIMITED, COUNTED, STATE = 0, 2048, 4000
"""Where the parts of a row begin: what a process has of the limits, what it has counted, and how it is."""
_ROW_BYTES = ROW_NUMBERS * 8


class SharedPage:
    """A row of whole numbers for each process, in memory that all of them map. A process writes only its own row. The
    one that started the others buries those that have died."""

    def __init__(self, fd: int, number: int) -> None:
        """`fd` is the page's file, see `make`; it may be closed afterwards. `number` is that of this process's row."""
        self.fd = fd
        numbers = memoryview(mmap.mmap(fd, os.fstat(fd).st_size)).cast("q")
        self.rows = [numbers[start : start + ROW_NUMBERS] for start in range(0, len(numbers), ROW_NUMBERS)]
        self.own = self.rows[number]
        self.number = number
        self._numbers = numbers

    def total(self, place: int) -> int:
        """The sum of the numbers at this place of all rows."""
        return sum(self._numbers[place::ROW_NUMBERS])

    def bury(self, number: int) -> None:
        """A process has died: what it had of the limits is free, and what it counted is counted in the own row."""
        dead = self.rows[number]
        for place in range(COUNTED, STATE):
            self.own[place] += dead[place]
        dead[:] = memoryview(bytes(_ROW_BYTES)).cast("q")


def make(rows: int) -> SharedPage:
    """A page with so many rows of zeros, of which this process has the first one. The caller closes its `fd` once no
    other process is to map it. Raises OSError."""
    fd = os.memfd_create("page-of-pdserver", os.MFD_CLOEXEC)
    os.truncate(fd, rows * _ROW_BYTES)
    return SharedPage(fd, 0)
