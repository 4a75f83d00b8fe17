"""Which header fields a message may have, in either direction. Pure functions.

Source: RFC 9113, 8.2 and 8.3.
"""

from __future__ import annotations

import re

from pdserver.grpc.http2.frames import ErrorCode, StreamFault

Headers = list[tuple[bytes, bytes]]
_NAME = re.compile(rb"[!#$%&'*+\-.^_`|~0-9a-z]+")
_BAD_VALUE = re.compile(rb"[\0\r\n]|\A[ \t]|[ \t]\Z")
_LENGTH = re.compile(rb"[0-9]{1,18}")
_OF_REQUESTS = frozenset({b":method", b":scheme", b":path", b":authority"})
_REQUIRED = frozenset({b":method", b":scheme", b":path"})
_OF_CONNECTIONS = frozenset({b"connection", b"proxy-connection", b"keep-alive", b"transfer-encoding", b"upgrade"})
"""HTTP/1.1's headers about a connection. HTTP/2 has frames instead."""


def check_request(headers: Headers) -> None:
    """Check the fields of a request's head. Raises StreamFault."""
    seen: set[bytes] = set()
    regular = False
    for name, value in headers:
        if name[:1] != b":":
            regular = True
            _check(name, value)
            if name == b"content-length" and not _LENGTH.fullmatch(value):
                raise _malformed("a content-length that is no number, or too large a one")
        elif regular or name in seen or name not in _OF_REQUESTS:
            raise _malformed("a pseudo-header that is unknown, twice there, or behind other fields")
        elif _BAD_VALUE.search(value):
            raise _malformed("a pseudo-header with a line break, a NUL, or white space at its ends")
        elif name == b":path" and not value:
            raise _malformed("an empty :path")
        else:
            seen.add(name)
    if not seen >= _REQUIRED:
        raise _malformed("a request without :method, :scheme or :path")


def check_trailers(headers: Headers) -> None:
    """Check the fields after a request's body. Raises StreamFault."""
    for name, value in headers:
        _check(name, value)


def may_be_sent(name: bytes, value: bytes) -> bool:
    """Whether an answer may have this field."""
    try:
        _check(name, value)
    except StreamFault:
        return False
    return True


def _check(name: bytes, value: bytes) -> None:
    if not _NAME.fullmatch(name):
        raise _malformed("a field's name has a character that it must not have, as capital letters are")
    if _BAD_VALUE.search(value):
        raise _malformed("a field's value has a line break, a NUL, or white space at its ends")
    if name in _OF_CONNECTIONS or (name == b"te" and value != b"trailers"):
        raise _malformed("a field about the connection")


def _malformed(why: str) -> StreamFault:
    return StreamFault(ErrorCode.PROTOCOL_ERROR, why)
