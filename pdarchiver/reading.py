"""Shared by the readers of the three formats: limits, the Protocol, and checks of a listing."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from pdarchiver.errors import InvalidArchive
from pdarchiver.names import NameSet, path_problem

CHUNK_BYTES = 256 * 1024


@dataclass(frozen=True)
class Limits:
    """Limits for an archive that is unpacked."""

    packed_bytes: int = 16 * 1024**3
    """The size of the archive's own file."""
    unpacked_bytes: int = 16 * 1024**3
    entries: int = 10_000
    ratio: int = 200
    """Unpacked to packed size, for each zip entry and for a whole tar.gz …"""
    ratio_from_bytes: int = 1024**2
    """… that unpacks to more than this."""

    def size_problem(self, packed_bytes: int) -> str | None:
        """Why an archive of this size is refused, or None."""
        if packed_bytes > self.packed_bytes:
            return f"{packed_bytes} bytes long; at most {self.packed_bytes} are accepted"
        return None

    def is_bomb(self, unpacked_bytes: int, packed_bytes: int) -> bool:
        return unpacked_bytes > self.ratio_from_bytes and unpacked_bytes > self.ratio * packed_bytes

    def check_ratio(self, what: str, unpacked_bytes: int, packed_bytes: int) -> None:
        if self.is_bomb(unpacked_bytes, packed_bytes):
            raise InvalidArchive(f"{what} unpacks to more than {self.ratio} times its size: refused as a bomb")


@dataclass(frozen=True)
class Entry:
    """One file or folder of an archive."""

    path: str
    size_bytes: int
    packed_bytes: int | None = None
    """None if the format does not say."""
    folder: bool = False


class Reader(Protocol):
    """An archive whose listing has been read and checked. Its contents are read later, in order."""

    format: str
    entries: tuple[Entry, ...]

    def contents(self) -> Iterator[tuple[Entry, Iterator[bytes]]]:
        """Each file with its bytes. Read the bytes, or skip them, before you ask for the next file.

        At the end of the bytes, their number and the archive's own checksum are checked. Raises InvalidArchive.
        """
        ...


class Listing:
    """Collects the entries of an archive one by one. Raises InvalidArchive for the first that breaks a rule."""

    def __init__(self, limits: Limits) -> None:
        self.entries: list[Entry] = []
        self._limits = limits
        self._names = NameSet()
        self._unpacked_bytes = 0

    def add(self, entry: Entry) -> None:
        if problem := path_problem(entry.path):
            raise InvalidArchive(f"the name {entry.path[:200]!r} {problem}")
        if clash := self._names.add(entry.path, folder=entry.folder):
            raise InvalidArchive(f"the names {clash!r} and {entry.path!r} exclude each other")
        self.entries.append(entry)
        if len(self.entries) > self._limits.entries:
            raise InvalidArchive(f"more than {self._limits.entries} entries")
        self._unpacked_bytes += entry.size_bytes
        if self._unpacked_bytes > self._limits.unpacked_bytes:
            raise InvalidArchive(f"unpacks to more than {self._limits.unpacked_bytes} bytes")


def exactly(chunks: Iterable[bytes], entry: Entry) -> Iterator[bytes]:
    """Pass `chunks` on, and check that they have as many bytes as the entry says."""
    left = entry.size_bytes
    for chunk in chunks:
        left -= len(chunk)
        if left < 0:
            break
        yield chunk
    if left != 0:
        raise InvalidArchive(f"{entry.path!r} is not of the size that the archive says, {entry.size_bytes} bytes")


class _Readable(Protocol):
    def read(self, size: int, /) -> bytes: ...


def read_chunks(file: _Readable, count: int) -> Iterator[bytes]:
    """At most `count` bytes from the file's position. Fewer if the file ends earlier."""
    while count > 0 and (chunk := file.read(min(count, CHUNK_BYTES))):
        count -= len(chunk)
        yield chunk


class FolderReader:
    """A folder with the content of an archive: the format `no-archive`."""

    format = "folder"

    def __init__(self, folder: Path, limits: Limits) -> None:
        self._folder = folder
        listing = Listing(limits)
        for path in sorted(folder.rglob("*")):
            if path.is_symlink() or not (path.is_dir() or path.is_file()):
                raise InvalidArchive(f"{path} is neither a file nor a folder")
            size_bytes = 0 if path.is_dir() else path.stat().st_size
            listing.add(Entry(path.relative_to(folder).as_posix(), size_bytes, folder=path.is_dir()))
        self.entries = tuple(listing.entries)

    def contents(self) -> Iterator[tuple[Entry, Iterator[bytes]]]:
        for entry in self.entries:
            if not entry.folder:
                fd = os.open(self._folder / entry.path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
                with os.fdopen(fd, "rb") as file:
                    yield entry, exactly(read_chunks(file, entry.size_bytes + 1), entry)
