"""Sealed memory files, in which large data pass between processes instead of through their socket.

A memory file (memfd_create, Linux) is written once, sealed, and passed as a descriptor. The receiver maps it. The seals
make the mapping safe: nobody can shrink the file under the reader, or change what was checked.
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
"""Data of this size and more go by file. For less, making and mapping a file costs more than the copies it saves."""

_FLAGS = mmap.MAP_SHARED | mmap.MAP_POPULATE  # populated: one call, not a page fault for every 4 KiB
_SEALS = fcntl.F_SEAL_SEAL | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE


class MemoryFile:
    """A memory file, which is being written or is sealed. Its descriptor is closed with this object."""

    __slots__ = ("fd",)

    def __init__(self, pieces: Iterable[Buffer] = ()) -> None:
        """Write a new file. Raises Unavailable if there is no memory or no descriptor for it."""
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
        """A file from another process. Its descriptor is closed with this object."""
        file = cls.__new__(cls)
        file.fd = fd
        return file

    def append(self, data: Buffer) -> None:
        """Add data. Raises Unavailable if there is no memory for them."""
        rest = memoryview(data)
        try:
            while len(rest):
                rest = rest[os.write(self.fd, rest) :]
        except OSError as error:
            raise _no_room(error) from None

    def seal(self) -> int:
        """Make the file immutable. Returns the descriptor, which is valid as long as this object lives."""
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
    """The contents, mapped read-only for as long as the view lives. The descriptor may be closed.

    Raises ValueError if the file is not sealed, since its owner could shrink it under the reader; OSError if there is
    no room to map it.
    """
    size = _sealed_size(fd)
    if not size:
        return memoryview(b"")
    return memoryview(mmap.mmap(fd, size, flags=_FLAGS, prot=mmap.PROT_READ))


class _Mapping(mmap.mmap):
    """It knows its file, so that the file can be passed on."""

    file: MemoryFile


def kept_view(file: MemoryFile) -> memoryview:
    """As `view`, of a file that may be passed on: `file_of` finds it by the view. Its pages are not touched."""
    size = _sealed_size(file.fd)
    if not size:
        return memoryview(b"")
    mapping = _Mapping(file.fd, size, flags=mmap.MAP_SHARED, prot=mmap.PROT_READ)
    mapping.file = file
    return memoryview(mapping)


def file_of(data: object) -> MemoryFile | None:
    """The file that a view, or a piece of it, was made of by `kept_view`; None: by anything else."""
    owner = data.obj if isinstance(data, memoryview) else None
    return owner.file if isinstance(owner, _Mapping) else None


def copy(fd: int) -> memoryview:
    """A copy of the contents, for when descriptors are short: Python keeps one for each mapping.

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
