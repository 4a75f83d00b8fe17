"""Reads a zip's directory, and refuses all that is not plainly a zip (APPNOTE.TXT 6.3.10, PKWARE).

The standard library's zipfile opens as much as possible, and what it accepts differs between patch releases of Python:
overlapping entries, bytes before and between entries, local headers that differ from the directory, contradictory sizes
in ZIP64 records. An archive of a model comes from a packer. So here the entries and the directory must fill the file
without gaps or overlaps, and every byte has one meaning.
"""

from __future__ import annotations

import os
import stat
import struct
from dataclasses import dataclass, replace
from typing import BinaryIO

from pdarchiver.errors import InvalidArchive
from pdarchiver.reading import Entry, Limits

_END = struct.Struct("<4s4H2IH")
_END64_LOCATOR = struct.Struct("<4sIQI")
_END64 = struct.Struct("<4sQ2H2I4Q")
_CENTRAL = struct.Struct("<4s6H3I5H2I")
_LOCAL = struct.Struct("<4s5H3I2H")
_U16, _U32 = 0xFFFF, 0xFFFFFFFF
STORED, DEFLATED = 0, 8
_ENCRYPTED, _DESCRIPTOR = 0x0001, 0x0008
_KNOWN_FLAGS = 0x080E  # deflate's two options, a descriptor behind the data, names in UTF-8
_MAX_HEADER_BYTES = 4096  # of one entry in the directory: a name of 1024 bytes, extra fields, a comment


@dataclass(frozen=True)
class Member:
    """One entry, as the directory describes it."""

    entry: Entry
    name: bytes
    flags: int
    method: int
    crc: int
    header_at: int
    data_at: int = 0


def read_members(file: BinaryIO, limits: Limits) -> list[Member]:
    """The entries in the order of their data, all headers checked. Raises InvalidArchive."""
    try:
        directory_at, members = _directory(file, limits)
        return _located(file, members, directory_at)
    except struct.error:
        raise InvalidArchive("a zip that is damaged or cut short") from None


def _directory(file: BinaryIO, limits: Limits) -> tuple[int, list[Member]]:
    """Where the central directory starts, and what it lists."""
    count, size, start = _end(file)
    if count > limits.entries:
        raise InvalidArchive(f"{count} entries; at most {limits.entries} are accepted")
    if size > count * _MAX_HEADER_BYTES:
        raise InvalidArchive("the directory is larger than its entries can need")
    file.seek(start)
    data = file.read(size)
    members, at = [], 0
    for _ in range(count):
        member, at = _central(data, at)
        members.append(member)
    if at != len(data):
        raise InvalidArchive("the directory has more entries than the archive says")
    return start, members


def _end(file: BinaryIO) -> tuple[int, int, int]:
    """Number of entries, size and start of the directory, from the end record(s), which must end the file."""
    size = file.seek(0, os.SEEK_END)
    file.seek(max(0, size - _END.size - _U16))
    tail = file.read()
    candidates, found = [], tail.rfind(b"PK\x05\x06")
    while found >= 0:
        if found + _END.size <= len(tail) and found + _END.size + _END.unpack_from(tail, found)[-1] == len(tail):
            candidates.append(found)
        found = tail.rfind(b"PK\x05\x06", 0, found)
    if len(candidates) != 1:
        raise InvalidArchive(
            "a zip with several ends" if candidates else "a zip that is cut short, or has something behind its end"
        )
    _, disk, start_disk, count_here, count, directory_bytes, start, _ = _END.unpack_from(tail, candidates[0])
    end_at = size - len(tail) + candidates[0]
    values = _end64(file, end_at)
    if values is not None:
        end_at, count64, bytes64, start64 = values
        for short, long, none in (count, count64, _U16), (directory_bytes, bytes64, _U32), (start, start64, _U32):
            if short not in (none, long):
                raise InvalidArchive("the two end records of the zip contradict each other")
        count_here = count = count64
        directory_bytes, start = bytes64, start64
    if disk or start_disk or count_here != count:
        raise InvalidArchive("a zip in several parts")
    if start + directory_bytes != end_at:
        raise InvalidArchive("the zip's directory is not where its end record says")
    return count, directory_bytes, start


def _end64(file: BinaryIO, end_at: int) -> tuple[int, int, int, int] | None:
    """Position, number of entries, directory's size and start from a ZIP64 end record, if there is one."""
    locator_at = end_at - _END64_LOCATOR.size
    if locator_at < 0:
        return None
    file.seek(locator_at)
    signature, disk, record_at, disks = _END64_LOCATOR.unpack(file.read(_END64_LOCATOR.size))
    if signature != b"PK\x06\x07":
        return None
    if disk or disks != 1 or record_at != locator_at - _END64.size:
        raise InvalidArchive("the zip's ZIP64 end record is not where its locator says")
    file.seek(record_at)
    signature, length, _, _, disk, start_disk, here, count, size, start = _END64.unpack(file.read(_END64.size))
    if signature != b"PK\x06\x06" or length != _END64.size - 12 or disk or start_disk or here != count:
        raise InvalidArchive("the zip's ZIP64 end record is damaged")
    return record_at, count, size, start


def _central(data: bytes, at: int) -> tuple[Member, int]:
    """One entry of the directory, and where the next one starts."""
    signature, _, _, flags, method, _, _, crc, *sizes, _, attributes, header_at = _CENTRAL.unpack_from(data, at)
    packed, size, name_bytes, extra_bytes, comment_bytes, disk = sizes
    name_at = at + _CENTRAL.size
    extra_at, end = name_at + name_bytes, name_at + name_bytes + extra_bytes + comment_bytes
    if signature != b"PK\x01\x02" or end > len(data) or disk not in (0, _U16):
        raise InvalidArchive("the zip's directory is damaged")
    extra = data[extra_at : extra_at + extra_bytes]
    size, packed, header_at = _wide(extra, size, packed, header_at)
    name = data[name_at:extra_at]
    path = _path(name)
    folder = path.endswith("/")
    _check_kind(path, flags, method, attributes >> 16, folder)
    if (folder and size) or (method == STORED and packed != size):
        raise InvalidArchive(f"{path!r}: its sizes contradict each other")
    entry = Entry(path.removesuffix("/"), size, packed, folder)
    return Member(entry, name, flags, method, crc, header_at), end


def _path(name: bytes) -> str:
    try:
        return name.decode()
    except UnicodeDecodeError:
        raise InvalidArchive(
            f"the name {name[:200]!r} is not UTF-8; pack again with a tool that writes UTF-8"
        ) from None


def _check_kind(path: str, flags: int, method: int, mode: int, folder: bool) -> None:
    if flags & _ENCRYPTED:
        raise InvalidArchive(f"{path!r} is encrypted")
    if flags & ~_KNOWN_FLAGS or method not in (STORED, DEFLATED):
        raise InvalidArchive(
            f"{path!r} is packed by method {method}, flags {flags:#x}; only stored and deflated are read"
        )
    # Archives from systems without file modes have 0 here.
    if stat.S_IFMT(mode) not in (0, stat.S_IFDIR if folder else stat.S_IFREG):
        raise InvalidArchive(f"{path!r} is neither a file nor a folder (mode {mode:#o}): links are refused")


def _wide(extra: bytes, *values: int) -> tuple[int, ...]:
    """Replace the values that are all ones by the 64-bit values of a ZIP64 extra field."""
    wide, at = b"", 0
    while at < len(extra):
        tag, length = struct.unpack_from("<HH", extra, at)
        field = extra[at + 4 : at + 4 + length]
        if len(field) != length or (tag == 1 and wide):
            raise InvalidArchive("a zip entry's extra fields are damaged")
        wide = field if tag == 1 else wide
        at += 4 + length
    found = iter(struct.unpack_from(f"<{len(wide) // 8}Q", wide))
    try:
        return tuple(next(found) if value == _U32 else value for value in values)
    except (StopIteration, RuntimeError):
        raise InvalidArchive("a zip entry has no ZIP64 sizes where it says so") from None


def _located(file: BinaryIO, members: list[Member], directory_at: int) -> list[Member]:
    """Check the local headers, find the data, and check that the entries fill the file from 0 to the directory."""
    located, at = [], 0
    for member in sorted(members, key=lambda member: member.header_at):
        if member.header_at != at:
            raise InvalidArchive(f"{member.entry.path!r} overlaps another entry, or has unknown bytes before it")
        data_at = _local_end(file, member)
        at = data_at + (member.entry.packed_bytes or 0)
        if member.flags & _DESCRIPTOR:
            at += _descriptor_bytes(file, member, at)
        if at > directory_at:
            raise InvalidArchive(f"{member.entry.path!r} reaches into the directory")
        located.append(replace(member, data_at=data_at))
    if at != directory_at:
        raise InvalidArchive("unknown bytes before the zip's directory")
    return located


def _local_end(file: BinaryIO, member: Member) -> int:
    """Where the header before the data ends; it must say what the directory says."""
    file.seek(member.header_at)
    fields = _LOCAL.unpack(file.read(_LOCAL.size))
    signature, _, flags, method, _, _, crc, packed, size, name_bytes, extra_bytes = fields
    name, extra = file.read(name_bytes), file.read(extra_bytes)
    size, packed = _wide(extra, size, packed)
    expected = (member.crc, member.entry.packed_bytes, member.entry.size_bytes)
    same = (signature, flags, method, name) == (b"PK\x03\x04", member.flags, member.method, member.name)
    # With a descriptor behind the data, the header before it may leave these open.
    open_values = (0, 0, 0) if flags & _DESCRIPTOR else expected
    if not same or len(extra) != extra_bytes or (crc, packed, size) not in (expected, open_values):
        raise InvalidArchive(f"{member.entry.path!r}: the header before its data contradicts the directory")
    return member.header_at + _LOCAL.size + len(name) + len(extra)


def _descriptor_bytes(file: BinaryIO, member: Member, at: int) -> int:
    """The length of the descriptor behind the data: sizes of 4 or 8 bytes, with or without a signature."""
    file.seek(at)
    found = file.read(24)
    values = (member.crc, member.entry.packed_bytes, member.entry.size_bytes)
    for form in ("<4sIII", "<4sIQQ", "<III", "<IQQ"):
        length = struct.calcsize(form)
        if length <= len(found):
            *signature, crc, packed, size = struct.unpack_from(form, found)
            if (crc, packed, size) == values and signature in ([], [b"PK\x07\x08"]):
                return length
    raise InvalidArchive(f"{member.entry.path!r} has no descriptor behind its data, where it should have one")
