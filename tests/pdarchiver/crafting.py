"""Builds zips byte by byte, so that every field can lie."""

from __future__ import annotations

import io
import struct
import tarfile
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, field

MANIFEST = b'{"model": {"modelName": "m", "modelVersion": "1.0", "handler": "base_handler"}}'
FILE, FOLDER, LINK, FIFO, DEVICE, SOCKET = 0o100644, 0o040755, 0o120777, 0o010644, 0o020644, 0o140644


@dataclass
class Item:
    """One entry. What is None is derived from the rest, truthfully."""

    name: bytes
    data: bytes = b"content"
    method: int = 0
    flags: int = 0x0800
    mode: int = FILE
    size: int | None = None
    packed_size: int | None = None
    crc: int | None = None
    packed: bytes | None = None
    local_name: bytes | None = None
    local_flags: int | None = None
    local_method: int | None = None
    local_sizes: tuple[int, int, int] | None = None
    """crc, packed size and size in the header before the data."""
    local_extra: bytes = b""
    central_extra: bytes = b""
    descriptor: bytes = b""
    header_at: int | None = None
    disk: int = 0


@dataclass
class Crafted:
    items: Sequence[Item]
    before: bytes = b""
    shift: int = 0
    """Added to all offsets: len(before) for a zip that knows of the bytes before it."""
    before_directory: bytes = b""
    after: bytes = b""
    comment: bytes = b""
    count: int | None = None
    count_here: int | None = None
    directory_size: int | None = None
    directory_at: int | None = None
    disk: int = 0
    end64: bytes = b""
    with_manifest: bool = True
    ends: list[bytes] = field(default_factory=list)

    def bytes(self) -> bytes:
        items = [*self.items, Item(b"MAR-INF/MANIFEST.json", MANIFEST)] if self.with_manifest else self.items
        out, directory = bytearray(self.before), bytearray()
        for item in items:
            header_at = len(out) - len(self.before) + self.shift
            local, central = _headers(item, header_at)
            out += local
            directory += central
        out += self.before_directory
        directory_at = len(out) - len(self.before) + self.shift if self.directory_at is None else self.directory_at
        out += directory + self.end64
        count = len(items) if self.count is None else self.count
        out += struct.pack(
            "<4s4H2IH",
            b"PK\x05\x06",
            self.disk,
            0,
            count if self.count_here is None else self.count_here,
            count,
            len(directory) if self.directory_size is None else self.directory_size,
            directory_at,
            len(self.comment),
        )
        return bytes(out + self.comment + self.after)


def _headers(item: Item, header_at: int) -> tuple[bytes, bytes]:
    """Local header with its data, and the entry in the directory."""
    deflated = zlib.compressobj(wbits=-15)
    packed = item.packed
    if packed is None:
        packed = deflated.compress(item.data) + deflated.flush() if item.method == 8 else item.data
    crc = zlib.crc32(item.data) if item.crc is None else item.crc
    packed_size = len(packed) if item.packed_size is None else item.packed_size
    size = len(item.data) if item.size is None else item.size
    name = item.name if item.local_name is None else item.local_name
    local = struct.pack(
        "<4s5H3I2H",
        b"PK\x03\x04",
        20,
        item.flags if item.local_flags is None else item.local_flags,
        item.method if item.local_method is None else item.local_method,
        0,
        33,
        *((crc, packed_size, size) if item.local_sizes is None else item.local_sizes),
        len(name),
        len(item.local_extra),
    )
    at = header_at if item.header_at is None else item.header_at
    central = struct.pack(
        "<4s6H3I5H2I",
        b"PK\x01\x02",
        3 << 8 | 20,
        20,
        item.flags,
        item.method,
        0,
        33,
        crc,
        packed_size,
        size,
        len(item.name),
        len(item.central_extra),
        0,
        item.disk,
        0,
        item.mode << 16,
        at,
    )
    return local + name + item.local_extra + packed + item.descriptor, central + item.name + item.central_extra


def tar_gz(members: Sequence[tuple[tarfile.TarInfo, bytes]], *, with_manifest: bool = True) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w:gz") as archive:
        for info, data in members:
            info.size = len(data) if info.isreg() and not info.size else info.size
            archive.addfile(info, io.BytesIO(data))
        if with_manifest:
            info = tarfile.TarInfo("MAR-INF/MANIFEST.json")
            info.size = len(MANIFEST)
            archive.addfile(info, io.BytesIO(MANIFEST))
    return out.getvalue()


def tar_item(
    name: str, data: bytes = b"content", kind: bytes = tarfile.REGTYPE, **more: str
) -> tuple[tarfile.TarInfo, bytes]:
    info = tarfile.TarInfo(name)
    info.type = kind
    for key, value in more.items():
        setattr(info, key, value)
    return info, data if kind == tarfile.REGTYPE else b""
