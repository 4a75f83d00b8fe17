"""Heads: reads those of gRPC requests and writes those of answers. Pure functions.

Source: https://github.com/grpc/grpc/blob/master/doc/PROTOCOL-HTTP2.md
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Iterable, Mapping
from functools import lru_cache

import msgspec

from pdserver.dialects.rpc import Code, Method, Prediction
from pdserver.grpc.http2.fields import Headers, may_be_sent
from pdserver.grpc.http2.frames import header

_OURS = frozenset({
    b"te", b"content-type", b"content-length", b"grpc-timeout", b"grpc-encoding", b"grpc-accept-encoding",
})  # fmt: skip
"""Headers of the protocol itself, which are not metadata."""
_CONTENT_TYPE = re.compile(rb"application/grpc(\+proto)?(;.*)?")
_TIMEOUT = re.compile(rb"([0-9]{1,8})([HMSmun])")
_SECONDS = {b"H": 3600.0, b"M": 60.0, b"S": 1.0, b"m": 1e-3, b"u": 1e-6, b"n": 1e-9}
_SOON_SECONDS = 1e-6
"""Stands for a deadline of 0."""
_NEVER_SECONDS = 1e8
_ENCODINGS = (b"identity", b"gzip", b"deflate")
_PRINTABLE = re.compile(r"[\x20-\x7e]*")
_USUAL = re.compile(r"[\x21-\x7e]{1,126}")
"""Text that any field may have. The length takes one byte."""
_LENGTHS = [bytes((length,)) for length in range(127)]
_NAME = re.compile(r"(?!grpc-)[0-9a-z_.-]+")
_TO_ENCODE = re.compile(rb"[^\x20-\x24\x26-\x7e]")
_MAX_SHOWN_BYTES = 100
_STATUS_200 = b"\x88"
HEAD = _STATUS_200 + header(b"content-type", b"application/grpc")
"""The head of every answer."""
ACCEPTED = header(b"grpc-accept-encoding", b",".join(_ENCODINGS))


class CallHead(msgspec.Struct, frozen=True):
    """The head of a call."""

    path: bytes
    method: Method | None
    """None if there is no method of that name."""
    metadata: Headers
    timeout_seconds: float
    """0 if the client waits for ever."""
    encoding: bytes
    """The encoding of compressed messages."""
    authorization: bytes | None
    """The token. It is not among the metadata, so that no model sees it."""
    refused: tuple[Code, str] | None = None
    http_status: int = 200
    """Not 200 if the request is not gRPC. Then the answer is plain HTTP."""
    length: int | None = None
    """The body's length in bytes, if the client says it."""
    prediction: Prediction | None = None
    """The method, if it is one, and nothing is to be checked but the length, and whether the client may call it."""


def read(headers: Headers, methods: Mapping[bytes, Method], max_bytes: int) -> CallHead:
    """The head that a header block describes. It never raises: `CallHead.refused` says what is wrong."""
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
                refused = Code.INTERNAL, f"the metadata {_shown(name)} is not base64"
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
        refused = Code.UNIMPLEMENTED, f"grpc-encoding {_shown(encoding)}: {expected}"
    path = known.get(b":path", b"")
    method = methods.get(path)
    if method is None:
        refused = Code.UNIMPLEMENTED, f"there is no method {_shown(path)}"
    status = _http_status(known)
    length = int(known[b"content-length"]) if b"content-length" in known else None
    return CallHead(
        path,
        method,
        metadata,
        seconds,
        encoding,
        tokens[0] if len(tokens) == 1 else None,
        refused,
        status,
        length,
        method if isinstance(method, Prediction) and refused is None and status == 200 else None,
    )


def _shown(text: bytes) -> str:
    """The beginning of what a client sent, for an error's text."""
    cut = text[:_MAX_SHOWN_BYTES].decode(errors="replace")
    return cut if len(text) <= _MAX_SHOWN_BYTES else f"{cut}…"


def _http_status(known: dict[bytes, bytes]) -> int:
    if known.get(b":method") != b"POST":
        return 405
    return 200 if _CONTENT_TYPE.fullmatch(known.get(b"content-type", b"")) else 415


def _timeout(text: bytes) -> tuple[float, tuple[Code, str] | None]:
    match = _TIMEOUT.fullmatch(text)
    if match is None:
        said = f"grpc-timeout {_shown(text)}: expected up to eight digits and one of H, M, S, m, u, n"
        return 0.0, (Code.INTERNAL, said)
    seconds = max(int(match[1]) * _SECONDS[match[2]], _SOON_SECONDS)
    return (seconds if seconds < _NEVER_SECONDS else 0.0), None


def head(metadata: Iterable[tuple[str, str | bytes]]) -> bytes:
    """The header block that begins an answer."""
    return HEAD + _fields(metadata) if metadata else HEAD


def trailers(code: Code, message: str, metadata: Iterable[tuple[str, str | bytes]] = ()) -> bytes:
    """The header block that ends an answer."""
    if code is Code.OK:
        return _OK + _fields(metadata) if metadata else _OK
    block = header(b"grpc-status", b"%d" % code)
    if message:
        block += header(b"grpc-message", _percent_encoded(message))
    return block + _fields(metadata)


def _fields(metadata: Iterable[tuple[str, str | bytes]]) -> bytes:
    """The metadata that gRPC can carry, as header fields."""
    block = b""
    for name, value in metadata:
        if type(value) is str and (begun := _begun(name)) and _USUAL.fullmatch(value):
            block += begun + _LENGTHS[len(value)] + value.encode()
            continue
        raw = _raw(name, value)
        if raw is not None and _NAME.fullmatch(name) and may_be_sent(name.encode(), raw):
            block += header(name.encode(), raw)
    return block


@lru_cache(maxsize=256)
def _begun(name: str) -> bytes:
    """The beginning of a field, before the length of its text. Empty if it holds no text, or can't be sent."""
    raw = name.encode(errors="replace")
    can = not name.endswith("-bin") and _NAME.fullmatch(name) and may_be_sent(raw, b"")
    return header(raw, b"")[:-1] if can else b""


def _raw(name: str, value: str | bytes) -> bytes | None:
    """The value as it is sent, or None if it can't be sent."""
    if name.endswith("-bin"):
        return base64.b64encode(value).rstrip(b"=") if isinstance(value, bytes) else None
    return value.encode() if isinstance(value, str) and _PRINTABLE.fullmatch(value) else None


def http_answer(status: int, message: str) -> bytes:
    """The header block of an answer to a request that is not gRPC. The answer has no body."""
    return header(b":status", b"%d" % status) + header(b"grpc-message", _percent_encoded(message))


def _percent_encoded(message: str) -> bytes:
    return _TO_ENCODE.sub(lambda found: b"%%%02X" % found[0][0], message.encode(errors="replace"))


_OK = header(b"grpc-status", b"0")
