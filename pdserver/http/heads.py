"""Checks of a request's head. Pure functions: parsed bytes in, their meaning out, or Refused.

The parser (llhttp) has already refused what is not HTTP. These functions refuse valid HTTP that is ambiguous or too
large. Source: RFC 9112.
"""

from __future__ import annotations

from pdserver.dialects.base import Headers
from pdserver.formats.values import shown
from pdserver.security.refused import Refused

MAX_TARGET_BYTES = 8 * 1024
MAX_HEAD_BYTES = 64 * 1024
MAX_HEADERS = 128
_ONCE = frozenset({
    b"host", b"content-length", b"transfer-encoding", b"authorization", b"origin", b"sec-fetch-site", b"expect",
})  # fmt: skip
_LOOKED_AT = _ONCE | {b"upgrade", b"x-request-id", b"access-control-request-method"}


def looked_at(headers: Headers) -> dict[bytes, bytes]:
    """The headers that the server itself uses, by name. Raises Refused for a repeated one."""
    seen: dict[bytes, bytes] = {}
    for name, value in headers:
        if name in _LOOKED_AT:
            if name in seen and name in _ONCE:
                raise Refused(400, f"the header {name.decode()} came twice")
            seen[name] = value
    return seen


def check_size(headers: Headers) -> None:
    """Raises Refused."""
    if len(headers) > MAX_HEADERS:
        raise Refused(431, f"more than {MAX_HEADERS} headers")
    if sum(len(name) + len(value) + 4 for name, value in headers) > MAX_HEAD_BYTES:
        raise head_too_large()


def path_of(target: bytes, version: str, seen: dict[bytes, bytes]) -> bytes:
    """The path and query of a target. A target in absolute form has a host, which replaces the header's in `seen`.

    Raises Refused.
    """
    if version not in ("1.0", "1.1"):
        raise Refused(400, f"HTTP/{version} is not supported: expected HTTP/1.1")
    if target.startswith(b"/"):
        return target
    scheme, _, rest = target.partition(b"://")
    authority = rest.partition(b"?")[0].partition(b"/")[0]
    path = rest[len(authority) :]
    if scheme.lower() not in (b"http", b"https") or seen.get(b"host", authority) != authority:
        raise Refused(400, f"the target {text(target)} is not a path of the host that is named")
    seen[b"host"] = authority
    return path if path.startswith(b"/") else b"/" + path


def expects_continue(seen: dict[bytes, bytes], version: str) -> bool:
    """Whether the client waits for `100 Continue`. Raises Refused for a transfer coding other than chunked."""
    coding, expectation = seen.get(b"transfer-encoding"), seen.get(b"expect")
    if coding is not None and (coding.lower() != b"chunked" or version != "1.1"):
        raise Refused(400, f"the header transfer-encoding: {text(coding)}: expected chunked, with HTTP/1.1")
    if expectation is not None and expectation.lower() != b"100-continue":
        raise Refused(417, f"the header expect: {text(expectation)}: expected 100-continue")
    return expectation is not None and version != "1.0"  # clients of HTTP/1.0 don't know `100 Continue`


def without_upgrade(method: bytes, target: bytes, version: str, headers: Headers) -> bytes:
    """The head without the client's offer to change the protocol, which the server never accepts."""
    line = b"%b %b HTTP/%b\r\n" % (method, target, version.encode())
    return b"".join([line, *(b"%b: %b\r\n" % header for header in headers if header[0] != b"upgrade"), b"\r\n"])


def head_too_large() -> Refused:
    return Refused(431, f"the head is larger than {MAX_HEAD_BYTES:,} bytes")


def target_too_long() -> Refused:
    return Refused(414, f"the target is longer than {MAX_TARGET_BYTES:,} bytes")


def text(sent: bytes) -> str:
    """Bytes that a client sent, as they are shown in an error."""
    return shown(sent.decode("latin-1"))
