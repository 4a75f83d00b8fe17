"""What the head of a gRPC request says, and the bytes of an answer's. Pure.

Source: https://github.com/grpc/grpc/blob/master/doc/PROTOCOL-HTTP2.md
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Iterable, Mapping

import msgspec

from pdserver.dialects.rpc import Code, Method
from pdserver.http2.blocks import Headers
from pdserver.http2.frames import header

_OURS = frozenset({b"te", b"content-type", b"grpc-timeout", b"grpc-encoding", b"grpc-accept-encoding"})
"""What is between client and server, and no metadata."""
_CONTENT_TYPE = re.compile(rb"application/grpc(\+proto)?(;.*)?")
_TIMEOUT = re.compile(rb"([0-9]{1,8})([HMSmun])")
_SECONDS = {b"H": 3600.0, b"M": 60.0, b"S": 1.0, b"m": 1e-3, b"u": 1e-6, b"n": 1e-9}
_SOON_SECONDS = 1e-6
"""For a deadline of nothing."""
_NEVER_SECONDS = 1e8
_ENCODINGS = (b"identity", b"gzip", b"deflate")
_PRINTABLE = re.compile(r"[\x20-\x7e]*")
_STATUS_200 = b"\x88"
HEAD = _STATUS_200 + header(b"content-type", b"application/grpc")
"""The head of every answer."""
ACCEPTED = header(b"grpc-accept-encoding", b",".join(_ENCODINGS))


class Head(msgspec.Struct, frozen=True):
    """A call's."""

    path: bytes
    method: Method | None
    """None: there is none of that name."""
    metadata: Headers
    timeout_seconds: float
    """0: the client waits for ever."""
    encoding: bytes
    """Of compressed messages."""
    authorization: bytes | None
    """A token. It is not among the metadata: it is no model's business."""
    refused: tuple[Code, str] | None = None
    http_status: int = 200
    """What is no gRPC gets an answer of HTTP's."""


def read(headers: Headers, methods: Mapping[bytes, Method], max_bytes: int) -> Head:
    """Of a header block. Raises nothing: what is wrong is in the head."""
    known: dict[bytes, bytes] = {}
    metadata: Headers = []
    tokens: list[bytes] = []
    refused: tuple[Code, str] | None = None
    size = 0
    for name, value in headers:
        size += len(name) + len(value) + 32  # as SETTINGS_MAX_HEADER_LIST_SIZE counts
        if name[:1] == b":" or name in _OURS:
            known[name] = value
        elif name == b"authorization":
            tokens.append(value)
        elif name.endswith(b"-bin"):
            try:
                metadata += [
                    (name, base64.b64decode(each + b"=" * (-len(each) % 4), validate=True))
                    for each in value.split(b",")
                ]
            except binascii.Error:
                refused = Code.INTERNAL, f"the metadata {name.decode(errors='replace')} is not base64"
        else:
            metadata.append((name, value))
    if size > max_bytes:
        refused = Code.RESOURCE_EXHAUSTED, f"the metadata are {size:,} bytes: at most {max_bytes:,}"
    seconds = 0.0
    if b"grpc-timeout" in known:
        seconds, wrong = _timeout(known[b"grpc-timeout"])
        refused = refused or wrong
    encoding = known.get(b"grpc-encoding", b"identity")
    if encoding not in _ENCODINGS:
        expected = f"expected one of {', '.join(each.decode() for each in _ENCODINGS)}"
        refused = Code.UNIMPLEMENTED, f"grpc-encoding {encoding.decode(errors='replace')}: {expected}"
    path = known.get(b":path", b"")
    return Head(
        path,
        methods.get(path),
        metadata,
        seconds,
        encoding,
        tokens[0] if len(tokens) == 1 else None,
        refused,
        _http_status(known),
    )


def _http_status(known: dict[bytes, bytes]) -> int:
    if known.get(b":method") != b"POST":
        return 405
    return 200 if _CONTENT_TYPE.fullmatch(known.get(b"content-type", b"")) else 415


def _timeout(text: bytes) -> tuple[float, tuple[Code, str] | None]:
    match = _TIMEOUT.fullmatch(text)
    if match is None:
        said = f"grpc-timeout {text.decode(errors='replace')}: expected up to eight digits and one of H, M, S, m, u, n"
        return 0.0, (Code.INTERNAL, said)
    seconds = max(int(match[1]) * _SECONDS[match[2]], _SOON_SECONDS)
    return (seconds if seconds < _NEVER_SECONDS else 0.0), None


def trailers(code: Code, message: str, metadata: Iterable[tuple[str, str]] = ()) -> bytes:
    """The header block that ends an answer. Metadata that HTTP/2 can't carry are left out."""
    if code is Code.OK and not metadata:
        return _OK
    block = header(b"grpc-status", b"%d" % code)
    if message:
        block += header(b"grpc-message", _percent_encoded(message))
    for name, value in metadata:
        if _PRINTABLE.fullmatch(value):
            block += header(name.encode(), value.encode())
    return block


def http_answer(status: int, message: str) -> bytes:
    """The header block of an answer to what is no gRPC; there is nothing behind it."""
    return header(b":status", b"%d" % status) + header(b"grpc-message", _percent_encoded(message))


def _percent_encoded(message: str) -> bytes:
    return b"".join(
        b"%c" % byte if 0x20 <= byte <= 0x7E and byte != 0x25 else b"%%%02X" % byte for byte in message.encode()
    )


_OK = header(b"grpc-status", b"0")
