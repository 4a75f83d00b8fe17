"""Reads `.tar.gz` archives: regular files and folders, in one direction.

tarfile reads the names. It gets a stream that never goes back and limits each read, because tarfile reads a header's
extensions into memory whatever length they claim. Our own code writes the files.
"""

from __future__ import annotations

import gzip
import io
import os
import tarfile
import zlib
from collections.abc import Iterator
from typing import BinaryIO

from pdarchiver.errors import InvalidArchive
from pdarchiver.manifest import MANIFEST_PATHS
from pdarchiver.reading import Entry, Limits, Listing, exactly, read_chunks

SIGNATURE = b"\x1f\x8b"
"""The first bytes of a gzip stream."""

_MAX_READ_BYTES = 1024 * 1024
_HOME_FOLDERS = frozenset(path.partition("/")[0] for path in MANIFEST_PATHS)


class TarReader:
    format = "tar.gz"

    def __init__(self, file: BinaryIO, limits: Limits) -> None:
        """Read the whole stream once for its listing. Raises InvalidArchive.

        If a single folder at the top contains everything else, it is left out of the paths.
        """
        self._file = file
        self._limits = limits
        self._packed_bytes = file.seek(0, os.SEEK_END)
        self._top = ""
        listed = Listing(limits)
        for entry, _ in self._members():
            listed.add(entry)
        self._top = _single_top(listed.entries)
        self.entries = tuple(filter(None, map(self._below_top, listed.entries)))

    def contents(self) -> Iterator[tuple[Entry, Iterator[bytes]]]:
        expected = iter([entry for entry in self.entries if not entry.folder])
        for found, chunks in self._members():
            entry = self._below_top(found)
            if entry is None or entry.folder:
                continue
            if next(expected, None) != entry:
                raise InvalidArchive("the archive changed while it was read")
            yield entry, chunks
        if next(expected, None):
            raise InvalidArchive("the archive changed while it was read")

    def _below_top(self, entry: Entry) -> Entry | None:
        path = entry.path.removeprefix(self._top)
        return Entry(path, entry.size_bytes, folder=entry.folder) if path and path + "/" != self._top else None

    def _members(self) -> Iterator[tuple[Entry, Iterator[bytes]]]:
        self._file.seek(0)
        with gzip.GzipFile(fileobj=self._file, mode="rb") as unpacked:
            stream = _Forward(unpacked, self._limits, self._packed_bytes)
            for info in _headers(stream):
                entry = _entry(info)
                if entry is not None:
                    stream.seek(info.offset_data)
                    yield entry, exactly(read_chunks(stream, entry.size_bytes), entry)
            stream.drain()


def _headers(stream: _Forward) -> Iterator[tarfile.TarInfo]:
    try:
        archive = tarfile.TarFile(fileobj=stream, mode="r", encoding="utf-8", errors="surrogateescape")
        while (info := archive.next()) is not None:
            yield info
    # For some bad numbers in a header, tarfile raises ValueError.
    except (tarfile.TarError, ValueError, OverflowError) as error:
        raise InvalidArchive(f"a tar.gz that is damaged: {error}") from None


def _entry(info: tarfile.TarInfo) -> Entry | None:
    # `tar -C folder .` writes every name with ./ before it, and the folder itself as ".".
    path = info.name.removeprefix("./")
    if path in ("", ".") and info.isdir():
        return None
    if not (info.isdir() or info.type in (tarfile.REGTYPE, tarfile.AREGTYPE)) or info.issparse():
        raise InvalidArchive(f"{path[:200]!r} is neither a file nor a folder: links and devices are refused")
    if info.size < 0:
        raise InvalidArchive(f"{path[:200]!r} has a size below 0")
    return Entry(path, 0 if info.isdir() else info.size, folder=info.isdir())


def _single_top(entries: list[Entry]) -> str:
    """ "NAME/" if the folder NAME contains all other entries, else ""."""
    tops = {entry.path.partition("/")[0] for entry in entries}
    files_at_top = any("/" not in entry.path and not entry.folder for entry in entries)
    return f"{tops.pop()}/" if len(tops) == 1 and not files_at_top and not tops & _HOME_FOLDERS else ""


class _Forward(io.RawIOBase):
    """The unpacked stream for tarfile. It has tell and seek, but only forward, and limits."""

    def __init__(self, unpacked: gzip.GzipFile, limits: Limits, packed_bytes: int) -> None:
        self._unpacked = unpacked
        self._limits = limits
        self._packed_bytes = packed_bytes
        self._at = 0
        self._last = b""

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1) -> bytes:
        if not 0 <= size <= _MAX_READ_BYTES:
            raise InvalidArchive("a tar header that claims to be longer than 1 MiB")
        try:
            self._last = self._unpacked.read(size)
        except (zlib.error, gzip.BadGzipFile, EOFError) as error:
            raise InvalidArchive(f"a tar.gz that is damaged or cut short: {error}") from None
        self._at += len(self._last)
        self._limits.check_ratio("the archive", self._at, self._packed_bytes)
        # Headers and padding come in addition to the files, whose sizes the listing adds up before they are read.
        if self._at > 2 * self._limits.unpacked_bytes:
            raise InvalidArchive(f"unpacks to more than {self._limits.unpacked_bytes} bytes")
        return self._last

    def tell(self) -> int:
        return self._at

    def seekable(self) -> bool:
        return False

    def seek(self, target: int, whence: int = os.SEEK_SET) -> int:
        if whence != os.SEEK_SET or target < self._at:
            raise InvalidArchive("a tar whose entries overlap")
        for _ in read_chunks(self, target - self._at):
            pass
        return self._at

    def drain(self) -> None:
        """Check that only zeros follow the last entry, because tarfile also stops at a damaged header."""
        while True:
            if any(self._last):
                raise InvalidArchive("a tar.gz that is damaged: something stands where the next file should begin")
            if not self.read(_MAX_READ_BYTES):
                return
