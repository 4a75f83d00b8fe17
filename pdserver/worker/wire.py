"""Bytes ↔ messages, without doing any I/O.

A frame is four bytes that mark it as one, four bytes of length, little-endian, and that many bytes of MessagePack.
Both sides of the line read with a FrameReader: receive into `buffer()`, report the count to `received()`, and take the
frames that are complete.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import Any

import msgspec

HEADER = struct.Struct("<II")
MARK = int.from_bytes(b"pdw1", "little")
"""What somebody else writes to the channel, such as a handler to a descriptor that it does not own, lacks it."""
MAX_FRAME_BYTES = 2**32 - 1
_BUFFER_BYTES = 256 * 1024
_AT_ONCE_BYTES = 16 * 1024 * 1024

_encoder = msgspec.msgpack.Encoder()


def encode(message: msgspec.Struct) -> bytearray:
    """The message as one frame. Raises ValueError when it is larger than a frame can be."""
    frame = bytearray(HEADER.size)
    _encoder.encode_into(message, frame, HEADER.size)
    size = len(frame) - HEADER.size
    if size > MAX_FRAME_BYTES:
        raise ValueError(f"a message of {size:,} bytes does not fit in a frame of at most {MAX_FRAME_BYTES:,}")
    HEADER.pack_into(frame, 0, MARK, size)
    return frame


class FrameReader:
    """Cuts a byte stream into frames, in place: a frame's view is good until the next call of `buffer()`."""

    def __init__(self) -> None:
        self._data = bytearray(_BUFFER_BYTES)
        self._start = 0
        self._end = 0

    def buffer(self) -> memoryview:
        """Where to receive into: never empty, and large enough for the rest of a frame that is not a large one."""
        held = self._end - self._start
        wanted = _BUFFER_BYTES
        if held >= HEADER.size:
            wanted = max(wanted, HEADER.size + HEADER.unpack_from(self._data, self._start)[1])
            if wanted > _AT_ONCE_BYTES:
                # Not on the word of a worker alone, which may have gone wrong: twice of what has come.
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
        """Nothing more is received: give the memory back, whoever still holds this."""
        self._data = bytearray()
        self._start = self._end = 0

    def received(self, count: int) -> Iterator[memoryview]:
        """Note that `count` bytes were received; yields the frames that are complete, without their header.

        Raises ValueError for what is no frame.
        """
        self._end += count
        view = memoryview(self._data)
        while self._end - self._start >= HEADER.size:
            mark, size = HEADER.unpack_from(self._data, self._start)
            if mark != MARK:
                raise ValueError("what was written is not a message")
            begin = self._start + HEADER.size
            end = begin + size
            if end > self._end:
                return
            self._start = end
            yield view[begin:end]
        if self._start == self._end:
            self._start = self._end = 0


def decoder(messages: Any) -> msgspec.msgpack.Decoder[Any]:
    """A decoder of one direction's messages (a union type from `messages`)."""
    return msgspec.msgpack.Decoder(messages)
