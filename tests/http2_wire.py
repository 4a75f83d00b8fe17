"""A connection of the gRPC transport without a network: what a client says is handed in, what it hears is kept."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import Any

import hpack
from hyperframe import frame as frames
from hyperframe.frame import Frame

from pdserver.grpc.connection import GrpcConnection
from pdserver.grpc.http2.turns import Turns
from pdserver.grpc.port import GrpcPort, PortLimits
from pdserver.system.budget import Budget
from pdserver.system.connections import Connections
from tests.grpc_testbed import LIMITS, NAME, SERVICE
from tests.http2_client import PREFACE, Answer, Headers, head

METHODS = {f"/{NAME}/{name}".encode(): method for name, method in SERVICE.methods.items()}
UNARY, CHAT, STREAM = (f"/{NAME}/{name}" for name in ("Unary", "Chat", "Stream"))


def framed(message: bytes) -> bytes:
    return b"\0" + len(message).to_bytes(4, "big") + message


class Transport(asyncio.Transport):
    """Takes all that is written, or, while it is `full`, keeps it as the part that the client has not read."""

    def __init__(self, connection: Wire) -> None:
        super().__init__()
        self.connection = connection
        self.written: list[bytes] = []
        self.unread = 0
        self.full = self.paused = self.closed = False

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return {"peername": ("127.0.0.1", 1), "socket": self}.get(name)

    def setsockopt(self, *_: object) -> None: ...

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        self.high = high or 0

    def get_write_buffer_size(self) -> int:
        return self.unread

    def write(self, data: Any) -> None:
        assert not self.closed
        self.written.append(bytes(data))
        if self.full:
            self.unread += len(data)
            if self.unread > self.high and self.connection.writable:
                self.connection.pause_writing()

    def drain(self) -> None:
        """The client has read everything."""
        self.unread = 0
        self.full = False
        if not self.connection.writable:
            self.connection.resume_writing()

    def pause_reading(self) -> None:
        assert not self.paused
        self.paused = True

    def resume_reading(self) -> None:
        assert self.paused
        self.paused = False

    def is_closing(self) -> bool:
        return self.closed

    def can_write_eof(self) -> bool:
        return False

    def close(self) -> None:
        self.closed = True

    abort = close


class Wire(GrpcConnection):
    """What a client of it does."""

    wire: Transport

    def __init__(self, port: GrpcPort, *settings: tuple[int, int]) -> None:
        super().__init__(port)
        self.encoder = hpack.Encoder()
        self.decoder = hpack.Decoder()
        self._parsed = 0
        self.wire = Transport(self)
        self.connection_made(self.wire)
        self.hears(PREFACE, frames.SettingsFrame(settings=dict(settings)))

    def hears(self, *said: Frame | bytes) -> None:
        """In one piece, as far as reading isn't paused."""
        self.data_received(b"".join(each if isinstance(each, bytes) else each.serialize() for each in said))

    def call(self, stream: int, message: bytes | None = None, path: str = UNARY, *more: tuple[str, str]) -> bytes:
        """The frames of a whole call, or, without a message, those of one that only begins."""
        block = self.encoder.encode(head(path, *more))
        begun = frames.HeadersFrame(stream, block, flags=["END_HEADERS"]).serialize()
        if message is None:
            return bytes(begun)
        return bytes(begun + frames.DataFrame(stream, framed(message), flags=["END_STREAM"]).serialize())

    def said(self) -> list[Frame]:
        """What it said since it was asked last."""
        data = b"".join(self.wire.written)[self._parsed :]
        self._parsed += len(data)
        found = []
        while data:
            frame, size = Frame.parse_frame_header(memoryview(data[:9]))
            frame.parse_body(memoryview(data[9 : 9 + size]))
            found.append(frame)
            data = data[9 + size :]
        return found

    def answers(self, said: Iterable[Frame] | None = None) -> dict[int, Answer]:
        """By stream, what `said` has of them."""
        found: dict[int, Answer] = {}
        for frame in self.said() if said is None else said:
            answer = found.setdefault(frame.stream_id, Answer({}, b""))
            if isinstance(frame, frames.HeadersFrame):
                fields: Headers = [(str(name), str(text)) for name, text in self.decoder.decode(frame.data)]
                answer.headers.update(fields)
            elif isinstance(frame, frames.DataFrame):
                found[frame.stream_id] = Answer(answer.headers, answer.data + frame.data)
            elif isinstance(frame, frames.RstStreamFrame):
                answer.headers["reset"] = str(frame.error_code)
            elif isinstance(frame, frames.GoAwayFrame):
                answer.headers["goaway"] = str(frame.error_code)
        return found


def port(memory: Budget | None = None, methods: Any = None, **limits: Any) -> GrpcPort:
    changed: PortLimits = type(LIMITS)(**{name: getattr(LIMITS, name) for name in LIMITS.__struct_fields__} | limits)
    return GrpcPort(
        methods=methods or METHODS,
        limits=changed,
        memory=memory or Budget(512 * 1024 * 1024),
        check=None,
        error_of=lambda _: None,
        http_1_answer=b"",
        access=None,
        stopping=asyncio.Event(),
        left=lambda: None,
        turns=Turns(),
        connections=Connections(),
    )
