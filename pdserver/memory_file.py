"""Large data passes between processes in sealed memory files, not through their socket.

A memory file (memfd_create, Linux) is written once, sealed, and passed as a descriptor; who receives it maps it. The
seals are what makes the mapping safe: nobody can shrink it under the reader, or change what was checked.
"""

from __future__ import annotations

import errno
import fcntl
import mmap
import os
from collections.abc import Iterable

from pdserver.errors import Unavailable
from pdserver.system import descriptors

Buffer = bytes | bytearray | memoryview
THRESHOLD_BYTES = 256 * 1024
"""Data from this size on goes by file: below it, making and mapping one costs more than the copies it saves."""

_FLAGS = mmap.MAP_SHARED | mmap.MAP_POPULATE  # populated: one call, not a page fault for every 4 KiB
_SEALS = fcntl.F_SEAL_SEAL | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE


class MemoryFile:
    """Being written, or sealed and passed on. Its descriptor is closed with it."""

    __slots__ = ("fd",)

    def __init__(self, pieces: Iterable[Buffer] = ()) -> None:
        """Raises Unavailable when there is no memory, or no descriptor, for it."""
        self.fd = -1
        try:
            self.fd = os.memfd_create("pdserver", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        except OSError as error:
            raise _no_room(error) from None
        if not descriptors.is_left_for_data(self.fd):
            self.close()
            raise _no_room(OSError(errno.EMFILE, os.strerror(errno.EMFILE)))
        for piece in pieces:
            self.append(piece)

    @classmethod
    def of(cls, fd: int) -> MemoryFile:
        """One that came from another process: its descriptor is closed with this object."""
        file = cls.__new__(cls)
        file.fd = fd
        return file

    def append(self, data: Buffer) -> None:
        """Raises Unavailable when there is no memory for it."""
        rest = memoryview(data)
        try:
            while len(rest):
                rest = rest[os.write(self.fd, rest) :]
        except OSError as error:
            raise _no_room(error) from None

    def seal(self) -> int:
        """Make it immutable. Gives the descriptor, for as long as this object lives."""
        fcntl.fcntl(self.fd, fcntl.F_ADD_SEALS, _SEALS)
        return self.fd

    def close(self) -> None:
        """Idempotent."""
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1

    def __del__(self) -> None:
        self.close()


def _no_room(error: OSError) -> Unavailable:
    return Unavailable(f"there is no room for large data now: {error.strerror}; try again in a moment")


def view(fd: int) -> memoryview:
    """The contents, mapped read-only for as long as the view lives; the descriptor may be closed.

    Raises ValueError when the file is not sealed: whoever has it could take the memory away under the reader; OSError
    when there is no room to map it.
    """
    size = _sealed_size(fd)
    if not size:
        return memoryview(b"")
    return memoryview(mmap.mmap(fd, size, flags=_FLAGS, prot=mmap.PROT_READ))


def copy(fd: int) -> memoryview:
    """The contents, read: for where descriptors are short, since Python keeps one for each mapping.

    Raises ValueError as `view` does.
    """
    data = bytearray(_sealed_size(fd))
    held = memoryview(data)
    start = 0
    while start < len(held) and (count := os.preadv(fd, [held[start:]], start)):
        start += count
    return held.toreadonly()


def _sealed_size(fd: int) -> int:
    """Raises ValueError."""
    if fcntl.fcntl(fd, fcntl.F_GET_SEALS) & _SEALS != _SEALS:
        raise ValueError("the memory file is not sealed")
    return os.fstat(fd).st_size
