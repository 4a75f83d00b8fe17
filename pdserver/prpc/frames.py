"""Frames of baidu_std: reads those of requests, and writes those of answers. Nothing here does I/O.

A frame is `PRPC`; the length of all that follows these twelve bytes; the length of the RpcMeta; then the RpcMeta, the
message, and perhaps an attachment. Lengths are four bytes, the highest first.

Source: https://github.com/apache/brpc/blob/master/docs/en/baidu_std.md
"""

from __future__ import annotations

import struct
from typing import Any

import msgspec

from pdserver.dialects.protos import decode, message_class
from pdserver.dialects.rpc import Answer, Message, RpcError
from pdserver.errors import InvalidRequest
from pdserver.grpc.messages import SMALL_BYTES, memory
from pdserver.prpc.errors import Errno

MAGIC = b"PRPC"
MAX_META_BYTES = 64 * 1024
"""As HTTP's heads."""
_HEAD = struct.Struct(">4sII")
_RpcMeta = message_class("brpc.policy.RpcMeta")


class Fault(Exception):
    """Ends the connection: where the next frame begins is not known, or nobody wants to wait for it."""

    def __init__(self, errno: Errno, message: str, correlation_id: int = 0) -> None:
        super().__init__(message)
        self.errno = errno
        self.message = message
        self.correlation_id = correlation_id


class Frame(msgspec.Struct, frozen=True, gc=False):
    """A whole one."""

    meta: Any
    """Its RpcMeta."""
    body: Message
    """The message, and the attachment behind it."""


class Reader:
    """Assembles the frames of one connection."""

    __slots__ = ("_begun", "_body", "_max_bytes", "_size", "got", "meta")

    def __init__(self, max_bytes: int) -> None:
        """`max_bytes`: of a message and its attachment."""
        self._max_bytes = max_bytes
        self._begun = bytearray()
        """The beginning of a frame, up to the end of its meta."""
        self._size = 0
        """The frame's size."""
        self._body = memoryview(b"")
        """A buffer of the body's size. Its memory is used only as data come."""
        self.meta: Any = None
        """The RpcMeta of the frame that has begun to come, once it is here."""
        self.got = 0
        """Bytes of that frame's body that have come."""

    @property
    def amid(self) -> bool:
        """Whether a frame has begun to come."""
        return bool(self._begun)

    def take(self, data: bytes, place: int) -> tuple[Frame | None, int]:
        """Read data[place:] up to the end of a frame. Returns the frame, None if it goes on in later data, and where
        the rest begins. Raises Fault; then nothing more may be read."""
        if not self._begun and len(data) - place >= _HEAD.size:
            size, meta_size = _lengths(data, place)
            body = place + _HEAD.size + meta_size
            end = place + size
            if end <= len(data):
                meta = self._announced(data[place + _HEAD.size : body], end - body)
                return Frame(meta, data[body:end]), end
        if self.meta is None:
            place = self._take_head(data, place)
            if self.meta is None:
                return None, place
        got = min(len(self._body), self.got + len(data) - place)
        after = place + got - self.got
        self._body[self.got : got] = memoryview(data)[place:after]
        self.got = got
        return (self._finished() if got == len(self._body) else None), after

    def _take_head(self, data: bytes, place: int) -> int:
        """Read the frame up to the end of its meta. Returns where the rest begins."""
        begun, wanted = self._begun, _HEAD.size
        while True:
            if len(begun) >= _HEAD.size:
                self._size, meta_size = _lengths(begun, 0)
                wanted = _HEAD.size + meta_size
                if len(begun) == wanted:
                    break
            after = min(len(data), place + wanted - len(begun))
            begun += data[place:after]
            place = after
            if len(begun) < wanted:
                return place
        size = self._size - wanted
        meta = self._announced(bytes(begun[_HEAD.size :]), size)
        try:
            self._body = memory(size)
        except RpcError as error:
            raise Fault(Errno.ELIMIT, error.message, meta.correlation_id) from None
        self.meta, self.got = meta, 0
        return place

    def _announced(self, data: bytes, size: int) -> Any:
        """The meta in `data`, of a frame with a body of `size` bytes."""
        try:
            meta = decode(_RpcMeta, data)
        except InvalidRequest as error:
            raise Fault(Errno.EREQUEST, str(error)) from None
        if size > self._max_bytes:
            said = f"the message is larger than max_request_size: {size:,} bytes, at most {self._max_bytes:,}"
            raise Fault(Errno.EREQUEST, said, meta.correlation_id)
        return meta

    def _finished(self) -> Frame:
        whole = self._body.toreadonly()
        frame = Frame(self.meta, whole if len(whole) > SMALL_BYTES else bytes(whole))
        self._begun.clear()
        self._body, self.meta, self.got = memoryview(b""), None, 0
        return frame


def _lengths(data: bytes | bytearray, place: int) -> tuple[int, int]:
    """The size of the frame that begins there, and of its meta. Raises Fault."""
    magic, size, meta_size = _HEAD.unpack_from(data, place)
    if magic != MAGIC:
        raise Fault(Errno.EREQUEST, "not a frame of baidu_std: expected PRPC at its beginning")
    if meta_size > size:
        said = f"the RpcMeta has {meta_size:,} bytes, which is more than the {size:,} of all that follows the head"
        raise Fault(Errno.EREQUEST, said)
    if meta_size > MAX_META_BYTES:
        raise Fault(Errno.EREQUEST, f"the RpcMeta has {meta_size:,} bytes: at most {MAX_META_BYTES:,}")
    return _HEAD.size + size, meta_size


def answer(correlation_id: int, message: Answer, compress_type: int) -> list[bytes]:
    """The pieces of a frame with an answer, which is compressed already."""
    meta = _RpcMeta(correlation_id=correlation_id, compress_type=compress_type)
    meta.response.SetInParent()
    if isinstance(message, bytes):
        return [_head(meta, len(message)), message]
    return [_head(meta, sum(map(len, message))), *message]


def refusal(correlation_id: int, errno: Errno, text: str) -> bytes:
    """A frame that says why there is no answer."""
    meta = _RpcMeta(correlation_id=correlation_id)
    meta.response.error_code = errno
    meta.response.error_text = text
    return _head(meta, 0)


def _head(meta: Any, size: int) -> bytes:
    """A frame's head and meta, before `size` bytes."""
    data: bytes = meta.SerializeToString()
    return _HEAD.pack(MAGIC, len(data) + size, len(data)) + data
