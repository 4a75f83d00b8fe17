"""Bytes ↔ messages, without doing any I/O.

A frame is a header and its payload of MessagePack. The header, little-endian, has four bytes that mark it as one, four
for the number of descriptors that come along, and eight for the payload's size. Both sides of the line read with a
FrameReader: receive into `buffer()`, report the count to `received()`, and take the frames that are complete.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import Any

import msgspec

HEADER = struct.Struct("<IIQ")
MARK = int.from_bytes(b"pdw1", "little")
"""It tells frames from stray writes, such as a handler's to a descriptor that it does not own."""
_BUFFER_BYTES = 256 * 1024
_AT_ONCE_BYTES = 16 * 1024 * 1024

_encoder = msgspec.msgpack.Encoder()


def encode(message: msgspec.Struct, files: int = 0) -> bytearray:
    """The message as one frame; `files`: how many descriptors come along.

    Raises whatever msgspec does for values that MessagePack does not have, such as halves of surrogate pairs.
    """
    frame = bytearray(HEADER.size)
    _encoder.encode_into(message, frame, HEADER.size)
    HEADER.pack_into(frame, 0, MARK, files, len(frame) - HEADER.size)
    return frame


class FrameReader:
    """Cuts a byte stream into frames, in place. A frame's view is valid until the next call of `buffer()`."""

    def __init__(self) -> None:
        self._data = bytearray(_BUFFER_BYTES)
        self._start = 0
        self._end = 0

    def buffer(self) -> memoryview:
        """Where to receive into. It is never empty, and holds the rest of a frame unless the frame is large."""
        held = self._end - self._start
        wanted = _BUFFER_BYTES
        if held >= HEADER.size:
            wanted = max(wanted, HEADER.size + HEADER.unpack_from(self._data, self._start)[2])
            if wanted > _AT_ONCE_BYTES:
                # A worker may have gone wrong, so its word alone does not count: make room for twice of what came.
                size = len(self._data)
                wanted = min(wanted, max(_AT_ONCE_BYTES, size if held < size else 2 * size))
        if self._start or wanted != len(self._data):
            rest = self._data[self._start : self._end]
            if wanted != len(self._data):
                self._data = bytearray(wanted)
            self._data[:held] = rest
            self._start, self._end = 0, held
        return memoryview(self._data)[self._end :]

    def drop(self) -> None:
        """Free the memory once nothing more is received, even while something still refers to this object."""
        self._data = bytearray()
        self._start = self._end = 0

    def received(self, count: int) -> Iterator[tuple[memoryview, int]]:
        """Note that `count` bytes were received; yields the payloads of the frames that are complete, each with the
        number of descriptors that came along.

        Raises ValueError for what is no frame.
        """
        self._end += count
        view = memoryview(self._data)
        while self._end - self._start >= HEADER.size:
            mark, files, size = HEADER.unpack_from(self._data, self._start)
            if mark != MARK:
                raise ValueError("what was written is not a message")
            begin = self._start + HEADER.size
            end = begin + size
            if end > self._end:
                return
            self._start = end
            yield view[begin:end], files
        if self._start == self._end:
            self._start = self._end = 0


def decoder(messages: Any) -> msgspec.msgpack.Decoder[Any]:
    """A decoder of one direction's messages (a union type from `messages`)."""
    return msgspec.msgpack.Decoder(messages)
