"""Messages in the body of a gRPC request. Before each are a byte that says whether it is compressed, and its length.

Source: https://github.com/grpc/grpc/blob/master/doc/PROTOCOL-HTTP2.md
"""

from __future__ import annotations

import asyncio
import struct
import zlib
from collections import deque
from collections.abc import Callable

import msgspec
import numpy as np

from pdserver.dialects.rpc import Answer, Code, Message, RpcError

_PREFIX = struct.Struct(">BI")
_PREFIX_BYTES = _PREFIX.size
SMALL_BYTES = 32 * 1024
"""A smaller message is copied, since a view of it would cost more to read."""
_WINDOW_BITS = {b"gzip": 16 + zlib.MAX_WBITS, b"deflate": zlib.MAX_WBITS}
_PACKED_INLINE_BYTES = 4 * 1024
"""The first step of a smaller message is unpacked without a thread. Mostly that is the whole message."""
_PACKED_STEP_BYTES = 64 * 1024
_STEP_BYTES = 256 * 1024
"""Bytes that are unpacked at a time, in less than a millisecond."""


class Packed(msgspec.Struct, frozen=True):
    """A message that came compressed."""

    data: Message
    encoding: bytes

    def __len__(self) -> int:
        return len(self.data)


def framed(message: Answer) -> tuple[bytes, ...]:
    """The message's prefix and the message itself, not compressed."""
    if isinstance(message, bytes):
        return _PREFIX.pack(0, len(message)), message
    return _PREFIX.pack(0, sum(map(len, message))), *message


def whole(data: bytes, begin: int, end: int, max_bytes: int) -> bytes | None:
    """The message, if data[begin:end] is exactly one that is not compressed, as in most requests."""
    size = end - begin - _PREFIX_BYTES
    if 0 <= size <= max_bytes and _PREFIX.unpack_from(data, begin) == (0, size):
        return data[begin + _PREFIX_BYTES : end]
    return None


class Reader:
    """Assembles the messages of one request."""

    __slots__ = ("_encoding", "_max_bytes", "_message", "_prefix", "_size", "got")

    def __init__(self, encoding: bytes, max_bytes: int) -> None:
        self._encoding = encoding
        self._max_bytes = max_bytes
        self._prefix = b""
        self._size = 0
        """The size of the message that has begun to come."""
        self._message = memoryview(b"")
        """A buffer of the message's size. Its memory is used only as data come."""
        self.got = 0
        """Bytes of the message that have come."""

    @property
    def amid(self) -> bool:
        """Whether a message has begun to come."""
        return bool(self._prefix)

    def feed(self, data: bytes, begin: int, end: int) -> list[Message | Packed]:
        """The messages that data[begin:end] completes. Raises RpcError; then nothing more may be fed."""
        found: list[Message | Packed] = []
        while begin < end:
            if len(self._prefix) < _PREFIX_BYTES:
                after = min(end, begin + _PREFIX_BYTES - len(self._prefix))
                self._prefix += data[begin:after]
                if len(self._prefix) < _PREFIX_BYTES:
                    break
                self._size = self._announced()
                self._message = memory(self._size)
                self.got = 0
            else:
                after = min(end, begin + self._size - self.got)
                got = self.got + after - begin
                self._message[self.got : got] = memoryview(data)[begin:after]
                self.got = got
            begin = after
            if self.got == self._size:
                found.append(self._finished())
        return found

    def _announced(self) -> int:
        flag, size = self._prefix[0], int.from_bytes(self._prefix[1:], "big")
        if flag > 1:
            raise RpcError(Code.INTERNAL, f"a message begins with {flag}: expected 0, or 1 for a compressed one")
        if flag and self._encoding == b"identity":
            raise RpcError(Code.INTERNAL, "a message is compressed, and grpc-encoding doesn't say how")
        if size > self._max_bytes:
            said = f"the message is larger than max_request_size: {size:,} bytes, at most {self._max_bytes:,}"
            raise RpcError(Code.RESOURCE_EXHAUSTED, said)
        return size

    def _finished(self) -> Message | Packed:
        compressed, self._prefix = self._prefix[0], b""
        view, self._message = self._message.toreadonly(), memoryview(b"")
        self.got = 0
        message = view if len(view) > SMALL_BYTES else bytes(view)
        return Packed(message, self._encoding) if compressed else message


def memory(size: int) -> memoryview:
    """Memory that is not filled, so that bytes that never come cost nothing. Raises RpcError."""
    try:
        return np.empty(size, np.uint8).data
    except MemoryError:
        raise RpcError(Code.RESOURCE_EXHAUSTED, f"there is no memory for a message of {size:,} bytes") from None


async def unpacked(packed: Packed, max_bytes: int, hold: Callable[[int], None]) -> Message:
    """The message, unpacked step by step in a thread: zlib releases the interpreter's lock.

    `hold` is called with the size of each step, and may raise. Raises RpcError.
    """
    encoding = packed.encoding.decode()
    unpacker = zlib.decompressobj(_WINDOW_BITS[packed.encoding])
    data = memoryview(packed.data)
    small = len(data) <= _PACKED_INLINE_BYTES
    pieces: deque[bytes] = deque()
    size = place = 0
    left: Message = b""
    while not unpacker.eof:
        if not left:
            left = data[place : place + _PACKED_STEP_BYTES]
            place += len(left)
        try:
            if small and not pieces:
                piece = unpacker.decompress(left, _STEP_BYTES)
            else:
                piece = await asyncio.to_thread(unpacker.decompress, left, _STEP_BYTES)
        except zlib.error as error:
            raise RpcError(Code.INTERNAL, f"a message is not {encoding}: {error}") from None
        if not piece and not left:
            raise RpcError(Code.INTERNAL, f"a message's {encoding} breaks off")
        left = unpacker.unconsumed_tail
        size += len(piece)
        if size > max_bytes:
            said = f"the message, unpacked, is larger than max_request_size: at most {max_bytes:,} bytes"
            raise RpcError(Code.RESOURCE_EXHAUSTED, said)
        hold(len(piece))
        pieces.append(piece)
    return pieces[0] if len(pieces) == 1 else await asyncio.to_thread(_joined, pieces, size)


def _joined(pieces: deque[bytes], size: int) -> memoryview:
    """Join the pieces one by one, so that others get the interpreter's lock in between. Empties `pieces`."""
    whole = memory(size)
    place = 0
    while pieces:
        piece = pieces.popleft()
        whole[place : place + len(piece)] = piece
        place += len(piece)
    return whole.toreadonly()
