"""Requests that are not HTTP, or that two readers could understand in two ways; each with its answer.

What they teach is known from other servers: RFC 9112, section 11, and the weaknesses that were found in them.
"""

from __future__ import annotations

from typing import NamedTuple

BIG = b"9" * 21
HOST = b"host: localhost\r\n"
NEXT = b"GET /ping HTTP/1.1\r\nhost: localhost\r\n\r\n"
"""Follows every one of them, and must never be answered."""


class Bad(NamedTuple):
    """`data` has %(path)b where the port's own path goes."""

    name: str
    data: bytes
    status: int
    words: str
    """In the message."""


def _framed(name: str, headers: bytes, words: str, body: bytes = b"hello", status: int = 400) -> Bad:
    return Bad(name, b"POST %(path)b HTTP/1.1\r\n" + HOST + headers + b"\r\n" + body, status, words)


def _head(name: str, headers: bytes, words: str, status: int = 400) -> Bad:
    return Bad(name, b"GET %(path)b HTTP/1.1\r\n" + headers + b"\r\n", status, words)


def _line(name: str, line: bytes, words: str, status: int = 400) -> Bad:
    return Bad(name, line + b"\r\n" + HOST + b"\r\n", status, words)


def _chunks(name: str, body: bytes, words: str = "in the body", status: int = 400) -> Bad:
    return _framed(f"chunks: {name}", b"transfer-encoding: chunked\r\n", words, body, status)


FRAMING = [
    _framed("length and chunks", b"content-length: 5\r\ntransfer-encoding: chunked\r\n", "Transfer-Encoding"),
    _framed("chunks and length", b"transfer-encoding: chunked\r\ncontent-length: 5\r\n", "Content-Length"),
    _framed("two lengths", b"content-length: 5\r\ncontent-length: 6\r\n", "Content-Length"),
    _framed("one length twice", b"content-length: 5\r\ncontent-length: 5\r\n", "Content-Length"),
    *(
        _framed(f"length {value.decode('latin-1')!r}", b"content-length: " + value + b"\r\n", "Content-Length")
        for value in (b"5, 5", b"+5", b"-1", b"0x5", b"1_0", b"5 5", b"5;", b"five", b"1e1", b"5.0", b"\xd9\xa5", BIG,
                      b"", b"\"5\"", b"5,", b"99999999999999999999")
    ),
    *(
        _framed(f"coding {value.decode('latin-1')!r}", b"transfer-encoding: " + value + b"\r\n", words)
        for value, words in (
            (b"chunked, identity", "Transfer-Encoding"), (b"xchunked", "Transfer-Encoding"),
            (b"identity", "Transfer-Encoding"), (b"gzip", "Transfer-Encoding"), (b"chunked, gzip", "Transfer-Encoding"),
            (b"gzip, chunked", "transfer-encoding"), (b"identity, chunked", "transfer-encoding"),
            (b"chunked, chunked", "transfer-encoding"), (b"\"chunked\"", "Transfer-Encoding"),
            (b"\x0bchunked", ""), (b"chunked\x0b", ""), (b"chunked;q=1", "Transfer-Encoding"), (b"", ""),
        )
    ),
    _framed("coding twice", b"transfer-encoding: chunked\r\ntransfer-encoding: chunked\r\n", "", b"0\r\n\r\n"),
    _framed("coding, spaced", b"transfer-encoding : chunked\r\n", "header", b"0\r\n\r\n"),
    Bad("coding, with 1.0", b"POST %(path)b HTTP/1.0\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n", 400, "HTTP/1.1"),
]  # fmt: skip

CHUNKS = [
    _chunks("+", b"+5\r\nhello\r\n0\r\n\r\n"),
    _chunks("-", b"-1\r\nhello\r\n0\r\n\r\n"),
    _chunks("0x", b"0x5\r\nhello\r\n0\r\n\r\n"),
    _chunks("2 to the 64", b"10000000000000000\r\nhello\r\n0\r\n\r\n"),
    _chunks("endless", b"f" * 40 + b"\r\nhello\r\n0\r\n\r\n"),
    _chunks("no size", b"\r\nhello\r\n0\r\n\r\n"),
    _chunks("a space before", b" 5\r\nhello\r\n0\r\n\r\n"),
    _chunks("a space behind", b"5 \r\nhello\r\n0\r\n\r\n"),
    _chunks("letters", b"five\r\nhello\r\n0\r\n\r\n"),
    _chunks("underscore", b"0_5\r\nhello\r\n0\r\n\r\n"),
    _chunks("too short", b"3\r\nhello\r\n0\r\n\r\n"),
    _chunks("too long", b"7\r\nhello\r\n0\r\n\r\nxyz"),
    _chunks("bare line feed", b"5\nhello\r\n0\r\n\r\n"),
    _chunks("bare line feed behind", b"5\r\nhello\n0\r\n\r\n"),
    _chunks("line feed in an extension", b"5;a\nb\r\nhello\r\n0\r\n\r\n"),
    _chunks("a size for a trailer", b"0\r\nx y: z\r\n\r\n"),
    _chunks("nothing behind the trailer's name", b"0\r\nnonsense\r\n\r\n"),
]

HEADERS = [
    _head("no host", b"", "host is missing"),
    _head("two hosts", HOST + HOST, "host came twice"),
    _head("two hosts, one evil", HOST + b"host: evil.com\r\n", "host came twice"),
    _head("an empty host", b"host:\r\n", "not a host name"),
    *(
        _head(f"host {value.decode('latin-1')!r}", b"host: " + value + b"\r\n", "not a host name")
        for value in (b"localhost/../x", b"a@b", b"user:pass@localhost", b"localhost:80x",
                      b"localhost:999999", b"localhost, evil.com", b"localhost evil.com", b"[::1", b"::1", b"[evil]",
                      b"localhost#x", b"localhost?x", b"localhost\\x", b"\"localhost\"", b"local\x80host",
                      b"%6cocalhost")
    ),
    *(
        _head(f"host {value.decode()!r}", b"host: " + value + b"\r\n", "allowed_hosts", 421)
        for value in (b"evil.com", b"evil.com:8080", b"localhost.evil.com", b"127.0.0.1.evil.com", b"evil-localhost",
                      b"LOCALHOST.EVIL", b"127.1", b"2130706433", b"0x7f.0.0.1", b"localhos", b"xn--localhst-9ya")
    ),
    _head("folded", HOST + b"x: a\r\n b\r\n", ""),
    _head("folded with a tab", HOST + b"x: a\r\n\tb\r\n", ""),
    _head("folded first", b" x: a\r\n" + HOST, ""),
    _head("space before the colon", HOST + b"x : a\r\n", "header"),
    _head("tab before the colon", HOST + b"x\t: a\r\n", "header"),
    _head("no colon", HOST + b"nonsense\r\n", "header"),
    _head("no name", HOST + b": a\r\n", "header"),
    _head("a zero in a value", HOST + b"x: a\0b\r\n", "header"),
    _head("a zero in a name", HOST + b"a\0b: c\r\n", "header"),
    _head("a bell in a value", HOST + b"x: \x07\r\n", "header"),
    _head("a bracket in a name", HOST + b"a(b: c\r\n", "header"),
    _head("a name in Latin-1", HOST + b"\xe9: c\r\n", "header"),
    _head("a carriage return in a value", HOST + b"x: a\rb\r\n", ""),
    _head("bare line feeds", b"host: localhost\nx: a\n", ""),
    _head("a header twice that may come once", HOST + b"authorization: a\r\nauthorization: b\r\n", "came twice"),
    _head("too many", HOST + b"".join(b"x%d: y\r\n" % n for n in range(128)), "128 headers", 431),
    _head("too large", HOST + b"".join(b"x%d: " % n + b"y" * 6000 + b"\r\n" for n in range(12)), "65,536 bytes", 431),
    _head("one too large", HOST + b"x: " + b"y" * 70_000 + b"\r\n", "65,536 bytes", 431),
    _head("an endless one", HOST + b"x: " + b"y" * 600_000 + b"\r\n", "65,536 bytes", 431),
    _head("another expectation", HOST + b"expect: 200-ok\r\n", "100-continue", 417),
]  # fmt: skip

LINES = [
    _line("old", b"GET %(path)b", ""),
    _line("HTTP/1.2", b"GET %(path)b HTTP/1.2", "version"),
    _line("HTTP/2.0", b"GET %(path)b HTTP/2.0", "HTTP/2.0"),
    _line("HTTP/3.7", b"GET %(path)b HTTP/3.7", "version"),
    _line("HTTP/1.10", b"GET %(path)b HTTP/1.10", ""),
    _line("HTTP/+1.1", b"GET %(path)b HTTP/+1.1", "version"),
    _line("HTTX", b"GET %(path)b HTTX/1.1", "HTTP"),
    _line("http", b"GET %(path)b http/1.1", "HTTP"),
    _line("a space in the target", b"GET %(path)b x HTTP/1.1", ""),
    _line("a tab in the target", b"GET\t%(path)b HTTP/1.1", ""),
    _line("a zero in the target", b"GET %(path)b\0 HTTP/1.1", ""),
    _line("no target", b"GET HTTP/1.1", ""),
    _line("no slash", b"GET ping HTTP/1.1", ""),
    _line("an asterisk", b"OPTIONS * HTTP/1.1", "not a path"),
    _line("another server's", b"GET http://evil.com%(path)b HTTP/1.1", "evil.com"),
    _line("another scheme's", b"GET ftp://localhost%(path)b HTTP/1.1", "not a path"),
    _line("a tunnel", b"CONNECT localhost:80 HTTP/1.1", "not a path"),
    _line("too long", b"GET %(path)b?" + b"x" * 8200 + b" HTTP/1.1", "8,192 bytes", 414),
    _line("endless", b"GET %(path)b?" + b"x" * 600_000 + b" HTTP/1.1", "8,192 bytes", 414),
    _line("an unknown method", b"FOO %(path)b HTTP/1.1", "method"),
    _line("a method in small letters", b"get %(path)b HTTP/1.1", "method"),
    _line("no method", b"%(path)b HTTP/1.1", "method"),
    _line("HTTP/2's first words", b"PRI * HTTP/2.0", ""),
    _line("a colon", b"GET: %(path)b HTTP/1.1", ""),
    Bad("TLS", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\0" * 64, 400, "speaks http, not https"),
    Bad("SSH", b"SSH-2.0-OpenSSH_9.6\r\n", 400, ""),
    Bad("zeros", b"\0" * 64, 400, "method"),
    Bad("an answer", b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n", 400, ""),
    Bad("a mail", b"HELO localhost\r\nMAIL FROM:<a@b>\r\n", 400, ""),
    Bad("JSON", b'{"op": "echo"}\r\n\r\n', 400, "method"),
]

ALL = [*FRAMING, *CHUNKS, *HEADERS, *LINES]
