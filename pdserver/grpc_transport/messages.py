"""Messages in the body of a gRPC request: each behind a byte that says whether it is compressed, and its length.

Source: https://github.com/grpc/grpc/blob/master/doc/PROTOCOL-HTTP2.md
"""

from __future__ import annotations

import zlib

import numpy as np

from pdserver.dialects.rpc import Code, Message, RpcError

_PREFIX_BYTES = 5
_SMALL_BYTES = 32 * 1024
"""Copied rather than handed on as a view, which costs more to read."""
_WINDOW_BITS = {b"gzip": 16 + zlib.MAX_WBITS, b"deflate": zlib.MAX_WBITS}


def framed(message: bytes) -> tuple[bytes, bytes]:
    """Its prefix, and itself, not compressed."""
    return b"\0" + len(message).to_bytes(4, "big"), message


class Reader:
    """Puts the messages of one request together."""

    __slots__ = ("_encoding", "_got", "_max_bytes", "_message", "_prefix")

    def __init__(self, encoding: bytes, max_bytes: int) -> None:
        self._encoding = encoding
        self._max_bytes = max_bytes
        self._prefix = b""
        self._message = memoryview(b"")
        """Has the message's size; of its memory, only what has come is used."""
        self._got = 0

    @property
    def amid(self) -> bool:
        """Whether a message has begun to come."""
        return bool(self._prefix)

    def whole(self, data: bytes, begin: int, end: int) -> bytes | None:
        """The message, if data[begin:end] is one and nothing else, which most requests are. Raises RpcError."""
        start = begin + _PREFIX_BYTES
        if not self._prefix and end >= start and not data[begin]:
            size = int.from_bytes(data[begin + 1 : start], "big")
            if size == end - start:
                self._check(size)
                return data[start:end]
        return None

    def feed(self, data: bytes, begin: int, end: int) -> list[Message]:
        """The messages that are complete with data[begin:end]. Raises RpcError."""
        found: list[Message] = []
        while begin < end:
            if len(self._prefix) < _PREFIX_BYTES:
                after = min(end, begin + _PREFIX_BYTES - len(self._prefix))
                self._prefix += data[begin:after]
                if len(self._prefix) < _PREFIX_BYTES:
                    break
                self._message = np.empty(self._size(), np.uint8).data  # not filled: what does not come costs nothing
                self._got = 0
            else:
                after = min(end, begin + len(self._message) - self._got)
                got = self._got + after - begin
                self._message[self._got : got] = memoryview(data)[begin:after]
                self._got = got
            begin = after
            if self._got == len(self._message):
                found.append(self._finished())
        return found

    def _size(self) -> int:
        flag, size = self._prefix[0], int.from_bytes(self._prefix[1:], "big")
        if flag > 1:
            raise RpcError(Code.INTERNAL, f"a message begins with {flag}: expected 0, or 1 for a compressed one")
        if flag and self._encoding == b"identity":
            raise RpcError(Code.INTERNAL, "a message is compressed, and grpc-encoding doesn't say how")
        self._check(size)
        return size

    def _check(self, size: int) -> None:
        if size > self._max_bytes:
            said = f"the message is larger than max_request_size: {size:,} bytes, at most {self._max_bytes:,}"
            raise RpcError(Code.RESOURCE_EXHAUSTED, said)

    def _finished(self) -> Message:
        compressed, self._prefix = self._prefix[0], b""
        message = self._unpacked(self._message) if compressed else self._message.toreadonly()
        return message if len(message) > _SMALL_BYTES else bytes(message)

    def _unpacked(self, message: memoryview) -> bytes:
        unpacker = zlib.decompressobj(_WINDOW_BITS[self._encoding])
        try:
            unpacked = unpacker.decompress(message, self._max_bytes + 1)
        except zlib.error as error:
            raise RpcError(Code.INTERNAL, f"a message is not {self._encoding.decode()}: {error}") from None
        if len(unpacked) > self._max_bytes:
            said = f"the message, unpacked, is larger than max_request_size: at most {self._max_bytes:,} bytes"
            raise RpcError(Code.RESOURCE_EXHAUSTED, said)
        if not unpacker.eof:
            raise RpcError(Code.INTERNAL, f"a message's {self._encoding.decode()} breaks off")
        return unpacked
