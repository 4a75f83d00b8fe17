"""Files of TensorFlow's records: for each its length and a checksum of that, the record and a checksum of it.

Source: TensorFlow's record_writer.h and crc32c.h.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from pdserver.formats.crc32c import crc32c

_LENGTH = struct.Struct("<Q")
_CHECKSUM = struct.Struct("<I")
_MASK = 0xA282EAD8


def records(path: Path) -> Iterator[bytes]:
    """Raises ValueError for what is no whole record, OSError."""
    with path.open("rb") as file:
        left = os.fstat(file.fileno()).st_size
        while left:
            head = _checked(file, _LENGTH.size, left, "its length")
            left -= _LENGTH.size + _CHECKSUM.size
            [length] = _LENGTH.unpack(head)
            yield _checked(file, length, left, "it")
            left -= length + _CHECKSUM.size


def checksum(data: bytes) -> int:
    """As records have it, which is made so that the checksum of data with checksums in it is a good one, too."""
    value = crc32c(data)
    return (value >> 15 | value << 17) + _MASK & 0xFFFFFFFF


def _checked(file: BinaryIO, length: int, left: int, what: str) -> bytes:
    if length + _CHECKSUM.size > left:
        raise ValueError(f"{what} is cut off: {length + _CHECKSUM.size:,} bytes with its checksum, {left:,} are left")
    data, given = file.read(length), file.read(_CHECKSUM.size)
    if len(given) != _CHECKSUM.size or _CHECKSUM.unpack(given)[0] != checksum(data):
        raise ValueError(f"the checksum of {what} is wrong")
    return data
