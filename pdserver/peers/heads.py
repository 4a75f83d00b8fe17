"""The heads of requests that are passed on, and of their answers. Pure functions.

Headers that are about one connection alone are left out. Source: RFC 9110, section 7.6.1.
"""

from __future__ import annotations

import math
from urllib.parse import urlsplit

from pdserver.dialects.base import TIMEOUT_HEADER, Headers, parse_timeout
from pdserver.dialects.rpc import FORWARDED_BY, LACKS_MODEL
from pdserver.errors import InvalidRequest

_ID = b"x-request-id"
_HOPS = frozenset({
    b"connection", b"keep-alive", b"proxy-connection", b"proxy-authenticate", b"proxy-authorization", b"te", b"trailer",
    b"transfer-encoding", b"upgrade", b"content-length",
})  # fmt: skip
CHECKED_HERE = frozenset({b"host", b"origin", b"sec-fetch-site", b"expect"})
"""By these, a server judges whether a page may call it; the node that has the connection has done so."""
_WITH_BODY = frozenset({b"POST", b"PUT", b"PATCH"})


def deadline_of(headers: Headers, arrived: float) -> float:
    """When the client stops waiting, on the clock of `arrived`; infinity: it doesn't say. What is no time counts as
    nothing: the node that serves the model refuses it."""
    for name, value in headers:
        if name == TIMEOUT_HEADER:
            try:
                return arrived + parse_timeout(value)
            except InvalidRequest:
                break
    return math.inf


def request_head(
    method: bytes, target: bytes, headers: Headers, *, url: str, node: str, id: str, length: int, seconds: float
) -> bytes:
    """The head for the server at `url`. `seconds`: what is left of the client's time; infinity: it doesn't say."""
    dropped = _HOPS | CHECKED_HERE | _named_by_connection(headers) | {_ID}
    if seconds < math.inf:
        dropped |= {TIMEOUT_HEADER}
    lines = [b"%b %b HTTP/1.1\r\nhost: %b\r\n" % (method, target, urlsplit(url).netloc.encode())]
    lines += [b"%b: %b\r\n" % header for header in headers if header[0] not in dropped]
    lines.append(b"%b: %b\r\n%b: %b\r\n" % (_ID, id.encode(), FORWARDED_BY, node.encode()))
    if seconds < math.inf:
        lines.append(b"%b: %d\r\n" % (TIMEOUT_HEADER, max(1, int(seconds * 1000))))
    if length or method in _WITH_BODY:
        lines.append(b"content-length: %d\r\n" % length)
    return b"".join([*lines, b"\r\n"])


def answer_headers(headers: Headers) -> tuple[Headers, int | None]:
    """What the client is to see of an answer's headers, and the length of the body; None: it comes in chunks."""
    dropped = _HOPS | _named_by_connection(headers) | {LACKS_MODEL}
    length = dict(headers).get(b"content-length")
    return [header for header in headers if header[0] not in dropped], None if length is None else int(length)


def _named_by_connection(headers: Headers) -> frozenset[bytes]:
    return frozenset(
        each.strip().lower() for name, value in headers if name == b"connection" for each in value.split(b",")
    )
