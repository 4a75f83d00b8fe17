"""The rules of HTTP/2 and HPACK, one by one: what h2spec tries, and some more, on a server without a model.

Source of the rules: RFC 9113 and RFC 7541, whose sections the names begin with; of the list, h2spec
(https://github.com/summerwind/h2spec), whose sections are those of RFC 7540. What we answer differently, on purpose:

- 5.1.1, a stream's number that was passed over: STREAM_CLOSED, as for any stream that has ended; it is not remembered
  which ones were used. h2spec wants PROTOCOL_ERROR.
- 5.3.1, a stream that depends on itself: ignored, as RFC 9113 has no priorities any more. h2spec wants PROTOCOL_ERROR.
- 8.1.1, a body that is not as long as its content-length says: PROTOCOL_ERROR for gRPC calls. h2spec's request is no
  gRPC, and has its answer, 415, before the body.
- 8.1, a second head without END_STREAM ends its stream alone.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import NamedTuple

import hpack
import pytest
from hyperframe import frame as frames
from hyperframe.frame import Frame

from tests.grpc_testbed import asked, ours
from tests.http2_client import PREFACE, Http2, head
from tests.http2_wire import CHAT, UNARY, framed

DATA, HEADERS, PRIORITY, RST_STREAM, SETTINGS, PUSH_PROMISE, PING, GOAWAY, WINDOW_UPDATE, CONTINUATION = range(10)
END_STREAM = ACK = 1
END_HEADERS, PADDED, PRIORITISED = 4, 8, 32
PROTOCOL_ERROR, FLOW_CONTROL_ERROR, STREAM_CLOSED, FRAME_SIZE_ERROR, REFUSED, CALM = 1, 3, 5, 6, 7, 11
COMPRESSION_ERROR = 9
MAX_WINDOW = 2**31 - 1


def f(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    return struct.pack(">IBI", len(payload) << 8 | kind, flags, stream) + payload


def number(value: int) -> bytes:
    return struct.pack(">I", value)


def setting(name: int, value: int) -> bytes:
    return f(SETTINGS, 0, 0, struct.pack(">HI", name, value))


def block(headers: list[tuple[str, str]]) -> bytes:
    """That leaves the table as it is."""
    return b"".join(b"\0" + text(name) + text(value) for name, value in headers)


def text(value: str) -> bytes:
    raw = value.encode("latin-1")
    assert len(raw) < 127
    return bytes((len(raw),)) + raw


OK = block(head(UNARY))
OPEN = f(HEADERS, END_HEADERS, 1, block(head(CHAT)))
"""A stream that goes on."""
BODY = framed(asked(size=4))
WHOLE = f(HEADERS, END_HEADERS, 1, OK) + f(DATA, END_STREAM, 1, BODY)
SLOW = f(HEADERS, END_HEADERS, 1, OK) + f(DATA, END_STREAM, 1, framed(asked(seconds=5)))
"""A call that waits for its answer."""


class Ends(NamedTuple):
    """The connection ends with this code."""

    code: int


class Resets(NamedTuple):
    """Stream 1 ends with this code, and the connection goes on."""

    code: int


class Answers(NamedTuple):
    """Stream 1 has an answer with these fields, and the connection goes on."""

    fields: dict[str, str]


GOES_ON = Answers({})
FINE = Answers({":status": "200", "grpc-status": "0"})
Outcome = Ends | Resets | Answers


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    with ours() as server:
        yield server.address


def outcome(client: Http2, waits_for_answer: bool) -> tuple[list[Frame], dict[str, str]]:
    """What came until the connection ended, or a ping was answered and, if one is waited for, an answer was there."""
    client.sock.sendall(f(PING, 0, 0, b"go on ? "))
    said: list[Frame] = []
    decoder, fields = hpack.Decoder(), dict[str, str]()
    pinged = ended = False
    for found in client.frames():
        said.append(found)
        pinged |= isinstance(found, frames.PingFrame) and found.opaque_data == b"go on ? "
        if isinstance(found, frames.HeadersFrame):
            decoded = {str(name): str(value) for name, value in decoder.decode(found.data)}
            fields |= decoded if found.stream_id == 1 else {}
        ended |= "END_STREAM" in found.flags and found.stream_id == 1
        if pinged and (ended or not waits_for_answer):
            break
    return said, fields


def check(address: str, said: bytes, expected: Outcome) -> None:
    with Http2(address) as client:
        client.sock.sendall(said)
        waits = isinstance(expected, Answers) and bool(expected.fields)
        heard, fields = outcome(client, waits)
        farewells = [found.error_code for found in heard if isinstance(found, frames.GoAwayFrame)]
        resets = [
            found.error_code for found in heard if isinstance(found, frames.RstStreamFrame) and found.stream_id == 1
        ]
        if isinstance(expected, Ends):
            assert farewells == [expected.code]
        else:
            assert farewells == []
        if isinstance(expected, Resets):
            assert resets == [expected.code]
        elif isinstance(expected, Answers):
            assert [code for code in resets if code] == []
            assert expected.fields.items() <= fields.items()


def headers(stream: int, payload: bytes, flags: int = END_HEADERS) -> bytes:
    return f(HEADERS, flags, stream, payload)


def changed(**fields: str) -> bytes:
    """A whole call with other values for some of its fields; an empty one leaves it out."""
    return headers(1, block(head(fields.pop("path", UNARY), **fields))) + f(DATA, END_STREAM, 1, BODY)


def added(*fields: tuple[str, str]) -> bytes:
    return headers(1, block(head(UNARY, *fields))) + f(DATA, END_STREAM, 1, BODY)


def parts(*pieces: bytes) -> bytes:
    """The head of a whole call, continued so often."""
    first, *rest = pieces
    continued = b"".join(
        f(CONTINUATION, END_HEADERS if each == len(rest) - 1 else 0, 1, piece) for each, piece in enumerate(rest)
    )
    return headers(1, first, 0) + continued + f(DATA, END_STREAM, 1, BODY)


FRAMES: dict[str, tuple[bytes, Outcome]] = {
    "3.4 settings alone": (b"", GOES_ON),
    "4.1 an unknown kind": (f(0x16, 0, 0, bytes(8)) + WHOLE, FINE),
    "4.1 unknown flags": (f(PING, 0x16, 0, bytes(8)) + WHOLE, FINE),
    "4.1 the reserved bit": (f(PING, 0, 1 << 31, bytes(8)) + WHOLE, FINE),
    "4.2 a frame of 2^14 bytes": (
        headers(1, OK) + f(DATA, END_STREAM, 1, framed(asked(bytes(16_379 - len(asked()))))),
        FINE,
    ),
    "4.2 larger DATA": (OPEN + f(DATA, 0, 1, bytes(16_385)), Ends(FRAME_SIZE_ERROR)),
    "4.2 larger HEADERS": (headers(1, bytes(16_385)), Ends(FRAME_SIZE_ERROR)),
    "4.3 a block that is none": (headers(1, b"\x00\x80"), Ends(COMPRESSION_ERROR)),
    "4.3 PRIORITY amid a block": (headers(1, OK, 0) + f(PRIORITY, 0, 1, bytes(5)), Ends(PROTOCOL_ERROR)),
    "4.3 another stream's HEADERS amid a block": (headers(1, OK, 0) + headers(3, OK), Ends(PROTOCOL_ERROR)),
    "5.5 an unknown kind amid a block": (headers(1, OK, 0) + f(0x16, 0, 1, bytes(8)), Ends(PROTOCOL_ERROR)),
    "6.1 DATA of no stream": (f(DATA, 0, 0, b"test"), Ends(PROTOCOL_ERROR)),
    "6.1 DATA in many frames": (
        headers(1, OK) + b"".join(f(DATA, 0, 1, BODY[at : at + 1]) for at in range(len(BODY))) + f(DATA, 1, 1),
        FINE,
    ),
    "6.1 padded DATA": (headers(1, OK) + f(DATA, END_STREAM | PADDED, 1, b"\6" + BODY + bytes(6)), FINE),
    "6.1 as much padding as there is room for": (OPEN + f(DATA, PADDED, 1, b"\3\0\0\0"), GOES_ON),
    "6.1 more padding than there is room for": (OPEN + f(DATA, PADDED, 1, b"\4\0\0\0"), Ends(PROTOCOL_ERROR)),
    "6.1 padding without a length": (OPEN + f(DATA, PADDED, 1), Ends(PROTOCOL_ERROR)),
    "6.2 padded HEADERS": (
        headers(1, b"\7" + OK + bytes(7), END_HEADERS | PADDED) + f(DATA, END_STREAM, 1, BODY),
        FINE,
    ),
    "6.2 HEADERS with a priority": (
        headers(1, number(3) + b"\xff" + OK, END_HEADERS | PRIORITISED) + f(DATA, END_STREAM, 1, BODY),
        FINE,
    ),
    "6.2 HEADERS of no stream": (headers(0, OK), Ends(PROTOCOL_ERROR)),
    "6.2 too much padding of HEADERS": (headers(1, b"\xff" + OK, END_HEADERS | PADDED), Ends(PROTOCOL_ERROR)),
    "6.2 half a priority": (headers(1, b"\0\0\0", END_HEADERS | PRIORITISED), Ends(PROTOCOL_ERROR)),
    "6.3 PRIORITY": (f(PRIORITY, 0, 1, number(0) + b"\0") + WHOLE, FINE),
    "6.3 PRIORITY with the largest weight": (f(PRIORITY, 0, 1, number(0) + b"\xff") + WHOLE, FINE),
    "6.3 PRIORITY with a dependency": (f(PRIORITY, 0, 3, number(1) + b"\xff") + WHOLE, FINE),
    "6.3 an exclusive PRIORITY": (f(PRIORITY, 0, 3, number(1 << 31 | 1) + b"\xff") + WHOLE, FINE),
    "6.3 PRIORITY of an idle stream": (f(PRIORITY, 0, 7, number(0) + b"\xff") + WHOLE, FINE),
    "6.3 PRIORITY of no stream": (f(PRIORITY, 0, 0, bytes(5)), Ends(PROTOCOL_ERROR)),
    "6.3 PRIORITY of four bytes": (f(PRIORITY, 0, 1, bytes(4)), Ends(FRAME_SIZE_ERROR)),
    "5.3.1 HEADERS that depend on themselves": (
        headers(1, number(1) + b"\xff" + OK, END_HEADERS | PRIORITISED) + f(DATA, END_STREAM, 1, BODY),
        FINE,
    ),
    "5.3.1 PRIORITY that depends on itself": (f(PRIORITY, 0, 1, number(1) + b"\xff") + WHOLE, FINE),
    "6.4 RST_STREAM": (OPEN + f(RST_STREAM, 0, 1, number(8)), GOES_ON),
    "6.4 RST_STREAM of no stream": (f(RST_STREAM, 0, 0, number(8)), Ends(PROTOCOL_ERROR)),
    "6.4 RST_STREAM of an idle stream": (f(RST_STREAM, 0, 1, number(8)), Ends(PROTOCOL_ERROR)),
    "6.4 RST_STREAM of three bytes": (OPEN + f(RST_STREAM, 0, 1, bytes(3)), Ends(FRAME_SIZE_ERROR)),
    "6.4 RST_STREAM with an unknown code": (OPEN + f(RST_STREAM, 0, 1, number(0xFF)), GOES_ON),
    "6.5 SETTINGS": (setting(4, 70_000) + WHOLE, FINE),
    "6.5 an acknowledgement with content": (f(SETTINGS, ACK, 0, bytes(6)), Ends(FRAME_SIZE_ERROR)),
    "6.5 SETTINGS of a stream": (f(SETTINGS, 0, 1), Ends(PROTOCOL_ERROR)),
    "6.5 SETTINGS of three bytes": (f(SETTINGS, 0, 0, bytes(3)), Ends(FRAME_SIZE_ERROR)),
    "6.5.2 ENABLE_PUSH of 2": (setting(2, 2), Ends(PROTOCOL_ERROR)),
    "6.5.2 too large a window": (setting(4, 2**31), Ends(FLOW_CONTROL_ERROR)),
    "6.5.2 frames that are too small": (setting(5, 2**14 - 1), Ends(PROTOCOL_ERROR)),
    "6.5.2 frames that are too large": (setting(5, 2**24), Ends(PROTOCOL_ERROR)),
    "6.5.2 an unknown setting": (setting(0xFF, 1) + WHOLE, FINE),
    "6.5.3 a setting twice": (f(SETTINGS, 0, 0, struct.pack(">HIHI", 4, 0, 4, 100)) + WHOLE, FINE),
    "6.6 PUSH_PROMISE": (OPEN + f(PUSH_PROMISE, END_HEADERS, 1, number(2) + OK), Ends(PROTOCOL_ERROR)),
    "6.7 PING": (f(PING, 0, 0, b"12345678") + WHOLE, FINE),
    "6.7 an answer to no PING": (f(PING, ACK, 0, b"12345678") + WHOLE, FINE),
    "6.7 PING of a stream": (f(PING, 0, 1, bytes(8)), Ends(PROTOCOL_ERROR)),
    "6.7 PING of six bytes": (f(PING, 0, 0, bytes(6)), Ends(FRAME_SIZE_ERROR)),
    "6.8 GOAWAY": (f(GOAWAY, 0, 0, bytes(8)), GOES_ON),
    "6.8 GOAWAY with an unknown code": (f(GOAWAY, 0, 0, number(0) + number(0xFF)), GOES_ON),
    "6.8 GOAWAY of a stream": (f(GOAWAY, 0, 1, bytes(8)), Ends(PROTOCOL_ERROR)),
    "6.9 WINDOW_UPDATE of the connection": (f(WINDOW_UPDATE, 0, 0, number(1)) + WHOLE, FINE),
    "6.9 WINDOW_UPDATE of a stream": (OPEN + f(WINDOW_UPDATE, 0, 1, number(1)), GOES_ON),
    "6.9 WINDOW_UPDATE of the connection by nothing": (f(WINDOW_UPDATE, 0, 0, number(0)), Ends(PROTOCOL_ERROR)),
    "6.9 WINDOW_UPDATE of a stream by nothing": (OPEN + f(WINDOW_UPDATE, 0, 1, number(0)), Resets(PROTOCOL_ERROR)),
    "6.9 WINDOW_UPDATE of three bytes": (f(WINDOW_UPDATE, 0, 0, bytes(3)), Ends(FRAME_SIZE_ERROR)),
    "6.9.1 too large a window of the connection": (
        f(WINDOW_UPDATE, 0, 0, number(MAX_WINDOW)) * 2,
        Ends(FLOW_CONTROL_ERROR),
    ),
    "6.9.1 too large a window of a stream": (
        OPEN + f(WINDOW_UPDATE, 0, 1, number(MAX_WINDOW)) * 2,
        Resets(FLOW_CONTROL_ERROR),
    ),
    "6.9.2 a window that gets too large by a setting": (
        OPEN + f(WINDOW_UPDATE, 0, 1, number(MAX_WINDOW - 70_000)) + setting(4, 70_001),
        Ends(FLOW_CONTROL_ERROR),
    ),
    "6.10 CONTINUATION": (parts(OK[:9], OK[9:]), FINE),
    "6.10 many CONTINUATIONs": (parts(OK[:1], OK[1:2], b"", OK[2:30], OK[30:]), FINE),
    "6.10 CONTINUATION that something else follows": (
        headers(1, OK[:9], 0) + f(CONTINUATION, 0, 1, OK[9:]) + f(DATA, 0, 1),
        Ends(PROTOCOL_ERROR),
    ),
    "6.10 CONTINUATION of no stream": (headers(1, OK[:9], 0) + f(CONTINUATION, 4, 0, OK[9:]), Ends(PROTOCOL_ERROR)),
    "6.10 CONTINUATION of another stream": (
        headers(1, OK[:9], 0) + f(CONTINUATION, 4, 3, OK[9:]),
        Ends(PROTOCOL_ERROR),
    ),
    "6.10 CONTINUATION behind the end of a block": (OPEN + f(CONTINUATION, END_HEADERS, 1, OK), Ends(PROTOCOL_ERROR)),
    "6.10 CONTINUATION behind one that ends": (
        headers(1, OK[:9], 0) + f(CONTINUATION, 4, 1, OK[9:]) + f(CONTINUATION, 4, 1, OK),
        Ends(PROTOCOL_ERROR),
    ),
    "6.10 CONTINUATION behind DATA": (OPEN + f(DATA, 0, 1) + f(CONTINUATION, 4, 1, OK), Ends(PROTOCOL_ERROR)),
}
RESET = OPEN + f(RST_STREAM, 0, 1, number(8))
STREAMS: dict[str, tuple[bytes, Outcome]] = {
    "5.1 idle: DATA": (f(DATA, END_STREAM, 1, b"test"), Ends(PROTOCOL_ERROR)),
    "5.1 idle: WINDOW_UPDATE": (f(WINDOW_UPDATE, 0, 1, number(100)), Ends(PROTOCOL_ERROR)),
    "5.1 idle: CONTINUATION": (f(CONTINUATION, END_HEADERS, 1, OK), Ends(PROTOCOL_ERROR)),
    "5.1 half closed: WINDOW_UPDATE": (WHOLE + f(WINDOW_UPDATE, 0, 1, number(100)), FINE),
    "5.1 half closed: PRIORITY": (WHOLE + f(PRIORITY, 0, 1, bytes(5)), FINE),
    "5.1 half closed: RST_STREAM": (SLOW + f(RST_STREAM, 0, 1, number(8)), GOES_ON),
    "5.1 half closed: DATA": (SLOW + f(DATA, END_STREAM, 1, b"test"), Resets(STREAM_CLOSED)),
    "5.1 half closed: HEADERS": (SLOW + headers(1, block([("x", "y")]), 5), Resets(STREAM_CLOSED)),
    "5.1 half closed: CONTINUATION": (SLOW + f(CONTINUATION, END_HEADERS, 1, OK), Ends(PROTOCOL_ERROR)),
    "5.1 closed by a reset: DATA": (RESET + f(DATA, END_STREAM, 1, b"test"), Ends(STREAM_CLOSED)),
    "5.1 closed by a reset: HEADERS": (RESET + headers(1, OK, 5), Ends(STREAM_CLOSED)),
    "5.1 closed by a reset: CONTINUATION": (RESET + f(CONTINUATION, END_HEADERS, 1, OK), Ends(PROTOCOL_ERROR)),
    "5.1 closed by a reset: PRIORITY": (RESET + f(PRIORITY, 0, 1, bytes(5)), GOES_ON),
    "5.1 closed by a reset: WINDOW_UPDATE": (RESET + f(WINDOW_UPDATE, 0, 1, number(1)), GOES_ON),
    "5.1 closed by a reset: RST_STREAM": (RESET + f(RST_STREAM, 0, 1, number(8)), GOES_ON),
    "5.1 closed by the server: the rest of the request": (
        headers(1, block(head("/nowhere"))) + f(DATA, 0, 1, b"test") * 3 + headers(1, block([("x", "y")]), 5),
        Answers({"grpc-status": "12"}),
    ),
    "5.1 closed by the server: more than its window": (
        headers(1, block(head("/nowhere"))) + f(DATA, 0, 1, bytes(16_384)) * 65,
        Ends(FLOW_CONTROL_ERROR),
    ),
    "5.1.1 an even number": (headers(2, OK), Ends(PROTOCOL_ERROR)),
    "5.1.1 a smaller number": (headers(5, OK) + headers(3, OK), Ends(STREAM_CLOSED)),
    "8.1 a second head": (OPEN + headers(1, OK), Resets(PROTOCOL_ERROR)),
    "8.1 trailers": (headers(1, OK) + f(DATA, 0, 1, BODY) + headers(1, block([("x-test", "ok")]), 5), FINE),
    "8.1 trailers that do not end": (OPEN + headers(1, block([("x-test", "ok")])), Resets(PROTOCOL_ERROR)),
}
FIELDS: dict[str, tuple[bytes, Outcome]] = {
    "8.2.1 a capital letter": (added(("X-TEST", "ok")), Resets(PROTOCOL_ERROR)),
    "8.2.1 a name that is empty": (added(("", "ok")), Resets(PROTOCOL_ERROR)),
    "8.2.1 a space in a name": (added(("x test", "ok")), Resets(PROTOCOL_ERROR)),
    "8.2.1 a colon in a name": (added(("x:test", "ok")), Resets(PROTOCOL_ERROR)),
    "8.2.1 a name that is not ASCII": (added(("x-\xe4", "ok")), Resets(PROTOCOL_ERROR)),
    "8.2.1 a line feed in a value": (added(("x", "a\nb: c")), Resets(PROTOCOL_ERROR)),
    "8.2.1 a carriage return in a value": (added(("x", "a\rb")), Resets(PROTOCOL_ERROR)),
    "8.2.1 a NUL in a value": (added(("x", "a\0b")), Resets(PROTOCOL_ERROR)),
    "8.2.1 a space before a value": (added(("x", " a")), Resets(PROTOCOL_ERROR)),
    "8.2.1 a tab behind a value": (added(("x", "a\t")), Resets(PROTOCOL_ERROR)),
    "8.2.1 an empty value": (added(("x", "")), FINE),
    "8.2.1 a value that is not ASCII": (added(("x", "gr\xfc\xdfe")), FINE),
    **{
        f"8.2.2 {name}": (added((name, "x")), Resets(PROTOCOL_ERROR))
        for name in ("connection", "proxy-connection", "keep-alive", "transfer-encoding", "upgrade")
    },
    "8.2.2 TE other than trailers": (changed(te="trailers, deflate"), Resets(PROTOCOL_ERROR)),
    "8.3 an unknown pseudo-header": (headers(1, block([(":test", "ok"), *head(UNARY)])), Resets(PROTOCOL_ERROR)),
    "8.3 one of answers": (headers(1, block([(":status", "200"), *head(UNARY)])), Resets(PROTOCOL_ERROR)),
    "8.3 a pseudo-header in trailers": (OPEN + headers(1, block([(":method", "POST")]), 5), Resets(PROTOCOL_ERROR)),
    "8.3 a capital letter in trailers": (OPEN + headers(1, block([("X", "y")]), 5), Resets(PROTOCOL_ERROR)),
    "8.3 a pseudo-header behind others": (
        headers(1, block([*head(""), (":path", UNARY)])),
        Resets(PROTOCOL_ERROR),
    ),
    "8.3.1 an empty :path": (headers(1, block([(":path", ""), *head("")])), Resets(PROTOCOL_ERROR)),
    **{f"8.3.1 no :{name}": (changed(**{name: ""}), Resets(PROTOCOL_ERROR)) for name in ("method", "scheme", "path")},
    **{
        f"8.3.1 two :{name}": (headers(1, block([(f":{name}", "POST"), *head(UNARY)])), Resets(PROTOCOL_ERROR))
        for name in ("method", "scheme", "path", "authority")
    },
    "8.3.1 a line break in :path": (changed(path="/a\r\nb"), Resets(PROTOCOL_ERROR)),
    "8.3.1 no :authority": (changed(authority=""), FINE),
    "8.1.1 a content-length": (changed(content_length=str(len(BODY))), FINE),
    "8.1.1 a longer body": (changed(content_length=str(len(BODY) - 1)), Resets(PROTOCOL_ERROR)),
    "8.1.1 a shorter body": (changed(content_length=str(len(BODY) + 1)), Resets(PROTOCOL_ERROR)),
    **{
        f"8.1.1 a content-length that is none: {text:.5}": (added(("content-length", text)), Resets(PROTOCOL_ERROR))
        for text in ("-1", "+1", "1_0", "x", "", "1e3", "3,3", "\xb2")
    },
    "8.1.1 a content-length without end": (changed(content_length="1" * 100), Resets(PROTOCOL_ERROR)),
    "8.1 GET": (headers(1, block(head("/", method="GET")), 5), Answers({":status": "405"})),
    "8.1 HEAD": (headers(1, block(head("/", method="HEAD")), 5), Answers({":status": "405"})),
    "8.1 a POST that is no gRPC": (
        headers(1, block(head("/", content_type="text/html"))) + f(DATA, END_STREAM, 1, b"test"),
        Answers({":status": "415"}),
    ),
}


def coded(kind: int, prefix: int, index: int, rest: bytes = b"") -> bytes:
    """A field of a block: its kind, an index of so many bits, and strings."""
    most = 2**prefix - 1
    if index < most:
        return bytes((kind | index,)) + rest
    assert index - most < 128
    return bytes((kind | most, index - most)) + rest


def call(*fields: bytes, before: bytes = b"") -> bytes:
    return headers(1, before + OK + b"".join(fields)) + f(DATA, END_STREAM, 1, BODY)


HUFFMAN_NAME, HUFFMAN_VALUE = b"\x85\xf2\xb2\x4a\x84\xff", b"\x84\x9c\x48\xac\xa4"
"""x-test, h2spec."""
PLAIN_NAME, PLAIN_VALUE = text("x-test"), text("h2spec")
KEPT, NEVER, INDEXED, RESIZE = 0x40, 0x10, 0x80, 0x20
HPACK: dict[str, tuple[bytes, Outcome]] = {
    "6.1 an indexed field": (call(coded(INDEXED, 7, 58)), FINE),
    "6.2.1 kept, with an indexed name": (call(coded(KEPT, 6, 58, PLAIN_VALUE)), FINE),
    "6.2.1 kept, with an indexed name and a value by Huffman": (call(coded(KEPT, 6, 58, HUFFMAN_VALUE)), FINE),
    "6.2.1 kept, with a new name": (call(coded(KEPT, 6, 0, PLAIN_NAME + PLAIN_VALUE)), FINE),
    "6.2.1 kept, by Huffman": (call(coded(KEPT, 6, 0, HUFFMAN_NAME + HUFFMAN_VALUE)), FINE),
    "6.2.2 not kept, with an indexed name": (call(coded(0, 4, 58, PLAIN_VALUE)), FINE),
    "6.2.2 not kept, with an indexed name and a value by Huffman": (call(coded(0, 4, 58, HUFFMAN_VALUE)), FINE),
    "6.2.2 not kept, with a new name": (call(coded(0, 4, 0, PLAIN_NAME + PLAIN_VALUE)), FINE),
    "6.2.2 not kept, by Huffman": (call(coded(0, 4, 0, HUFFMAN_NAME + HUFFMAN_VALUE)), FINE),
    "6.2.3 never kept, with an indexed name": (call(coded(NEVER, 4, 58, PLAIN_VALUE)), FINE),
    "6.2.3 never kept, with an indexed name and a value by Huffman": (call(coded(NEVER, 4, 58, HUFFMAN_VALUE)), FINE),
    "6.2.3 never kept, with a new name": (call(coded(NEVER, 4, 0, PLAIN_NAME + PLAIN_VALUE)), FINE),
    "6.2.3 never kept, by Huffman": (call(coded(NEVER, 4, 0, HUFFMAN_NAME + HUFFMAN_VALUE)), FINE),
    "6.3 a new size": (call(before=coded(RESIZE, 5, 0)), FINE),
    "4.2 two new sizes": (call(before=coded(RESIZE, 5, 0) + coded(RESIZE, 5, 64)), FINE),
    "4.2 three new sizes": (call(before=coded(RESIZE, 5, 0) * 3), Ends(COMPRESSION_ERROR)),
    "4.2 a new size at the end": (call(coded(RESIZE, 5, 0)), Ends(COMPRESSION_ERROR)),
    "6.3 too large a size": (call(before=b"\x3f\xe2\x1f"), Ends(COMPRESSION_ERROR)),
    "2.3.3 an index that is not there": (call(coded(INDEXED, 7, 70)), Ends(COMPRESSION_ERROR)),
    "2.3.3 a name that is not there": (call(coded(KEPT, 6, 70, PLAIN_VALUE)), Ends(COMPRESSION_ERROR)),
    "6.1 index 0": (call(coded(INDEXED, 7, 0)), Ends(COMPRESSION_ERROR)),
    "5.1 a number without end": (call(b"\xff" + b"\xff" * 20), Ends(COMPRESSION_ERROR)),
    "5.2 a string that breaks off": (call(coded(0, 4, 58, b"\x0aabc")), Ends(COMPRESSION_ERROR)),
    "5.2 more than seven bits of padding": (
        call(coded(0, 4, 0, HUFFMAN_NAME + b"\x85\x9c\x48\xac\xa4\xff")),
        Ends(COMPRESSION_ERROR),
    ),
    "5.2 padding of zeros": (call(coded(0, 4, 0, b"\x85\xf2\xb2\x4a\x87\xff" + b"\x81\x50")), Ends(COMPRESSION_ERROR)),
    "5.2 the end of a string within it": (
        call(coded(0, 4, 0, HUFFMAN_NAME + b"\x88\x9c\x48\xac\xa4\xff\xff\xff\xff")),
        Ends(COMPRESSION_ERROR),
    ),
}


@pytest.mark.parametrize("name", FRAMES)
def test_frames(address: str, name: str) -> None:
    check(address, *FRAMES[name])


@pytest.mark.parametrize("name", STREAMS)
def test_streams(address: str, name: str) -> None:
    check(address, *STREAMS[name])


@pytest.mark.parametrize("name", FIELDS)
def test_fields(address: str, name: str) -> None:
    check(address, *FIELDS[name])


@pytest.mark.parametrize("name", HPACK)
def test_header_blocks(address: str, name: str) -> None:
    check(address, *HPACK[name])


# What takes more than one step


@pytest.fixture
def client(address: str) -> Iterator[Http2]:
    with Http2(address) as client:
        yield client


def test_3_4_the_server_says_its_settings_first(client: Http2) -> None:
    first = next(client.frames())
    assert isinstance(first, frames.SettingsFrame)
    assert "ACK" not in first.flags


@pytest.mark.parametrize(
    "said", [b"INVALID CONNECTION PREFACE\r\n\r\n", PREFACE[:20] + b"XM\r\n\r\n", PREFACE[:-1] + b"x"]
)
def test_3_4_another_preface(address: str, said: bytes) -> None:
    with Http2(address, preface=said) as other:
        assert not any(isinstance(found, frames.SettingsFrame) for found in other.frames())


def test_5_1_2_more_streams_than_may_be(client: Http2) -> None:
    heads = b"".join(headers(2 * each + 1, block(head(CHAT))) for each in range(1025))
    client.sock.sendall(heads)
    refused = next(found for found in client.frames() if isinstance(found, frames.RstStreamFrame))
    assert (refused.stream_id, refused.error_code) == (2049, REFUSED)


def test_6_5_3_settings_are_acknowledged_in_order(client: Http2) -> None:
    client.sock.sendall(setting(4, 100) + f(PING, 0, 0, b"between!") + setting(4, 200) + f(PING, 0, 0, b"behind !"))
    order = []
    for found in client.frames():
        if "ACK" in found.flags:
            order.append(found.type)
        if len(order) == 5:
            break
    assert order == [SETTINGS, SETTINGS, PING, SETTINGS, PING]


def test_6_7_a_ping_is_answered_with_its_content(client: Http2) -> None:
    client.sock.sendall(f(PING, 0, 0, b"h2spec!!"))
    answer = next(found for found in client.frames() if isinstance(found, frames.PingFrame))
    assert (answer.opaque_data, "ACK" in answer.flags) == (b"h2spec!!", True)


@pytest.mark.parametrize(
    "opened", [setting(4, 1), f(WINDOW_UPDATE, 0, 1, number(1))], ids=["SETTINGS", "WINDOW_UPDATE"]
)
def test_6_9_a_window_of_one_byte(address: str, opened: bytes) -> None:
    with Http2(address, (4, 0)) as client:
        client.sock.sendall(WHOLE)
        next(found for found in client.frames() if isinstance(found, frames.HeadersFrame))
        client.sock.sendall(opened)
        data = next(found for found in client.frames() if isinstance(found, frames.DataFrame))
        assert len(data.data) == 1


def test_6_9_2_a_window_below_zero(address: str) -> None:
    with Http2(address, (4, 3)) as client:
        client.sock.sendall(WHOLE)
        assert len(next(found for found in client.frames() if isinstance(found, frames.DataFrame)).data) == 3
        client.sock.sendall(setting(4, 2) + f(PING, 0, 0, bytes(8)) + f(WINDOW_UPDATE, 0, 1, number(2)))
        assert len(next(found for found in client.frames() if isinstance(found, frames.DataFrame)).data) == 1


def test_2_3_2_entries_are_found_again_until_they_are_pushed_out(address: str) -> None:
    """By all of an encoder's ways: blocks that are read and blocks that are too large to be, on one table."""
    encoder = hpack.Encoder()
    with Http2(address) as client:
        client.sock.sendall(f(WINDOW_UPDATE, 0, 0, number(2**30)))
        for each in range(60):
            stream = 2 * each + 1
            large = each % 7 == 3
            more = [("x-large", "y" * 60_000)] if large else [(f"x-{each % 5}", f"{each % 3}" * 700)]
            payload = encoder.encode([*head(UNARY), *more])
            pieces = [payload[at : at + 16_384] for at in range(0, len(payload), 16_384)]
            said = headers(stream, pieces[0], END_HEADERS if len(pieces) == 1 else 0)
            for at, piece in enumerate(pieces[1:], 2):
                said += f(CONTINUATION, END_HEADERS if at == len(pieces) else 0, stream, piece)
            client.sock.sendall(said + f(DATA, END_STREAM, stream, BODY))
            answer = client.answers([stream])[stream]
            assert answer.headers.get("reset") == (str(CALM) if large else None)
            assert large or answer.headers["grpc-status"] == "0"
