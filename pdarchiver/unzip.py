"""Reads zip archives. `zipdirectory` checks what is a valid one."""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from typing import BinaryIO

from pdarchiver.errors import InvalidArchive
from pdarchiver.reading import CHUNK_BYTES, Entry, Limits, Listing, exactly, read_chunks
from pdarchiver.zipdirectory import DEFLATED, Member, read_members

SIGNATURES = (b"PK\x03\x04", b"PK\x05\x06")
"""The first bytes of a zip: an entry, or the end record of an empty one."""


class ZipReader:
    format = "zip"

    def __init__(self, file: BinaryIO, limits: Limits) -> None:
        """Read and check the directory and every local header. Raises InvalidArchive."""
        self._file = file
        listing = Listing(limits)
        self._members = read_members(file, limits)
        for member in self._members:
            listing.add(member.entry)
            limits.check_ratio(repr(member.entry.path), member.entry.size_bytes, member.entry.packed_bytes or 0)
        self.entries = tuple(listing.entries)

    def contents(self) -> Iterator[tuple[Entry, Iterator[bytes]]]:
        for member in self._members:
            if not member.entry.folder:
                yield member.entry, exactly(self._read(member), member.entry)

    def _read(self, member: Member) -> Iterator[bytes]:
        self._file.seek(member.data_at)
        packed = read_chunks(self._file, member.entry.packed_bytes or 0)
        crc = 0
        for chunk in _inflated(packed, member.entry.path) if member.method == DEFLATED else packed:
            crc = zlib.crc32(chunk, crc)
            yield chunk
        if crc != member.crc:
            raise InvalidArchive(f"{member.entry.path!r} does not fit its checksum (CRC): the archive is damaged")


def _inflated(packed: Iterator[bytes], path: str) -> Iterator[bytes]:
    """The data behind `packed`, which must be one deflate stream and nothing else."""
    inflater = zlib.decompressobj(-zlib.MAX_WBITS)
    try:
        for piece in packed:
            if inflater.eof:
                raise InvalidArchive(f"{path!r} is damaged: its compressed data ends too early")
            yield inflater.decompress(piece, CHUNK_BYTES)
            while inflater.unconsumed_tail:
                yield inflater.decompress(inflater.unconsumed_tail, CHUNK_BYTES)
        # The limit on the chunk may have held back a match that began in the last bytes.
        while not inflater.eof and (chunk := inflater.decompress(b"", CHUNK_BYTES)):
            yield chunk
    except zlib.error as error:
        raise InvalidArchive(f"{path!r} is damaged: {error}") from None
    if not inflater.eof or inflater.unused_data:
        raise InvalidArchive(f"{path!r} is damaged: its compressed data does not end where it should")
