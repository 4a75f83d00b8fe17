"""The bytes of HTTP/2's frames. Pure functions."""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator
from enum import IntEnum

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
"""A client's first bytes."""
HEAD = struct.Struct(">IBI")
"""A frame's head: its payload's size times 256 plus its kind; its flags; its stream's number."""
HEAD_BYTES = HEAD.size
DATA, HEADERS, PRIORITY, RST_STREAM, SETTINGS, PUSH_PROMISE, PING, GOAWAY, WINDOW_UPDATE, CONTINUATION = range(10)
"""Kinds of frames. A receiver ignores those that it doesn't know."""
ACK = END_STREAM = 0x1
END_HEADERS = 0x4
PADDED = 0x8
PRIORITISED = 0x20
"""Flags."""
HEADER_TABLE_SIZE, ENABLE_PUSH, MAX_CONCURRENT_STREAMS, INITIAL_WINDOW_SIZE, MAX_FRAME_SIZE, MAX_HEADER_LIST_SIZE = (
    range(1, 7)
)
"""Settings."""
DEFAULT_WINDOW = 65_535
DEFAULT_FRAME_BYTES = 16_384
LARGEST = DEFAULT_FRAME_BYTES << 8 | 0xFF
"""The greatest first word that a frame's head may have, whatever the frame's kind is."""
MAX_FRAME_BYTES = 2**24 - 1
MAX_WINDOW = MAX_STREAM = 2**31 - 1
_SETTING = struct.Struct(">HI")


class ErrorCode(IntEnum):
    """Why a stream or a connection ends."""

    NO_ERROR = 0x0
    PROTOCOL_ERROR = 0x1
    INTERNAL_ERROR = 0x2
    FLOW_CONTROL_ERROR = 0x3
    SETTINGS_TIMEOUT = 0x4
    STREAM_CLOSED = 0x5
    FRAME_SIZE_ERROR = 0x6
    REFUSED_STREAM = 0x7
    CANCEL = 0x8
    COMPRESSION_ERROR = 0x9
    CONNECT_ERROR = 0xA
    ENHANCE_YOUR_CALM = 0xB
    INADEQUATE_SECURITY = 0xC


class Fault(Exception):
    """The client broke the protocol's rules."""

    def __init__(self, code: ErrorCode, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.message = message


class ConnectionFault(Fault):
    """A fault that ends the connection."""


class StreamFault(Fault):
    """A fault that ends one stream."""


def frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    return HEAD.pack(len(payload) << 8 | kind, flags, stream) + payload


def number_frame(kind: int, stream: int, number: int) -> bytes:
    """A RST_STREAM with a code, or a WINDOW_UPDATE with an increment."""
    return HEAD.pack(4 << 8 | kind, 0, stream) + number.to_bytes(4, "big")


def goaway(last_stream: int, code: ErrorCode, message: str = "") -> bytes:
    payload = last_stream.to_bytes(4, "big") + code.to_bytes(4, "big") + message.encode()
    return frame(GOAWAY, 0, 0, payload)


def settings(values: Iterable[tuple[int, int]]) -> bytes:
    return frame(SETTINGS, 0, 0, b"".join(_SETTING.pack(*pair) for pair in values))


def read_settings(payload: bytes) -> Iterator[tuple[int, int]]:
    """The pairs (setting, value), checked. Raises ConnectionFault."""
    if len(payload) % _SETTING.size:
        raise ConnectionFault(ErrorCode.FRAME_SIZE_ERROR, "SETTINGS: the size is no multiple of 6")
    for setting, value in _SETTING.iter_unpack(payload):
        if setting == ENABLE_PUSH and value > 1:
            raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, f"ENABLE_PUSH={value}: expected 0 or 1")
        if setting == INITIAL_WINDOW_SIZE and value > MAX_WINDOW:
            raise ConnectionFault(ErrorCode.FLOW_CONTROL_ERROR, f"INITIAL_WINDOW_SIZE={value}: at most {MAX_WINDOW}")
        if setting == MAX_FRAME_SIZE and not DEFAULT_FRAME_BYTES <= value <= MAX_FRAME_BYTES:
            expected = f"expected {DEFAULT_FRAME_BYTES} to {MAX_FRAME_BYTES}"
            raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, f"MAX_FRAME_SIZE={value}: {expected}")
        yield setting, value


def header(name: bytes, value: bytes) -> bytes:
    """A field of a header block, as a literal that is not added to the table (RFC 7541, 6.2.2)."""
    return b"\0" + _string(name) + _string(value)


def _string(text: bytes) -> bytes:
    length = len(text)
    if length < 0x7F:
        return bytes((length,)) + text
    length -= 0x7F
    prefix = bytearray(b"\x7f")
    while length > 0x7F:
        prefix.append(length & 0x7F | 0x80)
        length >>= 7
    prefix.append(length)
    return bytes(prefix) + text
