"""A client's connection: its frames, taken apart and put together.

Everything that a client can send has a limit, and what is broken ends the connection with a GOAWAY that says why.
"""

from __future__ import annotations

import asyncio
import logging
import socket
from typing import Generic

from pdserver.http2 import frames
from pdserver.http2.blocks import MAX_BLOCK_BYTES, Blocks, Head, Headers
from pdserver.http2.frames import ConnectionFault, ErrorCode
from pdserver.http2.sender import FAREWELL, Sender
from pdserver.http2.stream import STREAM_WINDOW, Stream

_log = logging.getLogger("pdserver.grpc")
_CONNECTION_WINDOW = 16 * 1024 * 1024
_MAX_UNREAD_BYTES = 1024 * 1024
"""Of answers to the connection's own questions: nobody asks so much without reading who means well."""
_MAX_RESETS, _RESETS_PER_SECOND = 1000.0, 100.0
"""Of requests that the client takes back at once: more than that are an attack (CVE-2023-44487)."""
_LOOK_SECONDS = 1.0


class Connection(Sender, Generic[Head]):
    """A subclass says what a head is, and makes streams."""

    def __init__(self, max_streams: int, max_header_bytes: int, slow_client_seconds: float) -> None:
        super().__init__()
        self._max_streams = max_streams
        self._max_header_bytes = max_header_bytes
        self._slow_client_seconds = slow_client_seconds
        self._data = b""
        """What was received, and is not a whole frame yet."""
        self._greeted = False
        self._blocks = Blocks(self.read_head)
        self._expected: int | None = frames.SETTINGS
        """The kind of the next frame, where there is only one that may come."""
        self._block: tuple[int, int, bytearray] | None = None
        """(stream, flags, bytes) of a header block that goes on in the next frame."""
        self._credit = _CONNECTION_WINDOW
        self._look_timer: asyncio.TimerHandle | None = None
        self._unfinished_since = self._unread_since = self.loop.time()
        """When what has to come next began to come; and when the client last read, or had nothing to read."""
        self._read = 0
        """Bytes of answers that the client had read when it was last looked at."""
        self._unread_replies = 0
        """Bytes of answers to its own questions, since it last kept up with reading."""

    # What a subclass adds

    def read_head(self, headers: Headers) -> Head:
        raise NotImplementedError

    def open(self, number: int, head: Head) -> Stream:
        raise NotImplementedError

    def greeted_otherwise(self, data: bytes) -> None:
        """What came first is not HTTP/2; the connection is closed next."""

    # What the transport calls

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        self.transport = transport
        transport.set_write_buffer_limits(1024 * 1024)
        sock = transport.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)  # connections are idle for hours, and peers vanish
        self._look_timer = self.loop.call_later(_LOOK_SECONDS, self._look)

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        if self._look_timer is not None:
            self._look_timer.cancel()

    def data_received(self, data: bytes) -> None:
        place = 0
        try:
            while self._data and place < len(data):  # the frame that has begun, without copying what is behind it
                begun = self._data + data[place : place + self._missing()]
                place += len(begun) - len(self._data)
                self._data = self._parse(begun, 0)
            if place < len(data):
                self._data = self._parse(data, place)
        except ConnectionFault as fault:
            self.fail(fault)

    def _missing(self) -> int:
        """How many bytes are missing of what has begun to come, as far as that is known."""
        if not self._greeted:
            return len(frames.PREFACE) - len(self._data)
        size = frames.HEAD_BYTES
        if len(self._data) >= size:
            size += frames.HEAD.unpack_from(self._data)[0] >> 8
        return size - len(self._data)

    def _parse(self, data: bytes, place: int) -> bytes:
        """Take what begins there; gives what of it is not whole yet. Raises ConnectionFault."""
        if self.deaf or self.transport.is_closing():
            return b""
        return data[self._frames(data, place if self._greeted else self._greet(data)) :]

    def _greet(self, data: bytes) -> int:
        if data.startswith(frames.PREFACE):
            self.greet_back()
            return len(frames.PREFACE)
        if frames.PREFACE.startswith(data):
            return 0
        self.greeted_otherwise(data)
        raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "not HTTP/2")

    def greet_back(self) -> None:
        """What has to be said first."""
        self._greeted = True
        ours = frames.settings([
            (frames.MAX_CONCURRENT_STREAMS, self._max_streams),
            (frames.INITIAL_WINDOW_SIZE, STREAM_WINDOW),
            (frames.MAX_HEADER_LIST_SIZE, self._max_header_bytes),
        ])  # fmt: skip
        window = frames.number_frame(frames.WINDOW_UPDATE, 0, _CONNECTION_WINDOW - frames.DEFAULT_WINDOW)
        self.transport.write(ours + window)

    def _frames(self, data: bytes, place: int) -> int:
        """Take the whole frames in it; gives where the rest begins. Raises ConnectionFault."""
        size = len(data)
        while self._greeted and place + frames.HEAD_BYTES <= size and not self.deaf:
            word, flags, number = frames.HEAD.unpack_from(data, place)
            if word >> 8 > frames.DEFAULT_FRAME_BYTES:
                limit = f"more than {frames.DEFAULT_FRAME_BYTES} bytes in a frame"
                raise ConnectionFault(ErrorCode.FRAME_SIZE_ERROR, limit)
            begin = place + frames.HEAD_BYTES
            place = begin + (word >> 8)
            if place > size:
                return begin - frames.HEAD_BYTES
            self._take(word & 0xFF, flags, number & frames.MAX_STREAM, data, begin, place)
        return place

    def _take(self, kind: int, flags: int, number: int, data: bytes, begin: int, end: int) -> None:
        if self._expected is not None and kind != self._expected:
            raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, f"a frame {kind} where {self._expected} has to come")
        if kind == frames.DATA:
            self._take_data(flags, number, data, begin, end)
        elif kind == frames.HEADERS:
            self._take_headers(flags, number, data, begin, end)
        elif kind == frames.WINDOW_UPDATE:
            self._take_window_update(number, data[begin:end])
        elif kind == frames.CONTINUATION:
            self._take_continuation(flags, number, data[begin:end])
        elif kind == frames.SETTINGS:
            self._take_settings(flags, number, data[begin:end])
        elif kind == frames.PING:
            self._take_ping(flags, number, data[begin:end])
        elif kind == frames.RST_STREAM:
            self._take_reset(number, end - begin)
        elif kind == frames.PUSH_PROMISE:
            raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "PUSH_PROMISE from a client")
        elif kind == frames.PRIORITY and end - begin != 5:
            raise ConnectionFault(ErrorCode.FRAME_SIZE_ERROR, "PRIORITY: expected 5 bytes")
        elif kind == frames.GOAWAY and (number or end - begin < 8):
            raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "GOAWAY: expected 8 bytes or more, for the connection")

    def _stream(self, number: int) -> Stream | None:
        """None for one that has ended. Raises ConnectionFault for one that has not begun."""
        stream = self.streams.get(number)
        if stream is None and (number > self.last or number % 2 == 0):
            raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, f"there is no stream {number}")
        return stream

    # Requests

    def _take_data(self, flags: int, number: int, data: bytes, begin: int, end: int) -> None:
        size = end - begin
        self._credit -= size
        if self._credit < _CONNECTION_WINDOW // 2:
            if self._credit < 0:
                raise ConnectionFault(ErrorCode.FLOW_CONTROL_ERROR, "more data than the connection's window")
            self.transport.write(frames.number_frame(frames.WINDOW_UPDATE, 0, _CONNECTION_WINDOW - self._credit))
            self._credit = _CONNECTION_WINDOW
        if flags & frames.PADDED:
            begin, end = _without_padding(data, begin, end)
        stream = self._stream(number)
        if stream is None:
            return
        if stream.ended_there:
            self.reset(stream, ErrorCode.STREAM_CLOSED)
            return
        stream.credit -= size
        if stream.credit < 0:
            raise ConnectionFault(ErrorCode.FLOW_CONTROL_ERROR, "more data than the stream's window")
        stream.ended_there = bool(flags & frames.END_STREAM)
        stream.owed += size - (end - begin)
        if end > begin:
            stream.receive(data, begin, end)
        if stream.ended_there and not stream.ended_here:
            stream.end()

    def grant(self, stream: Stream, count: int) -> None:
        """So many bytes that it received are used up."""
        stream.owed += count
        if stream.owed >= STREAM_WINDOW // 2 and not stream.ended_there and not stream.ended_here:
            self.transport.write(frames.number_frame(frames.WINDOW_UPDATE, stream.number, stream.owed))
            stream.credit += stream.owed
            stream.owed = 0

    def _take_headers(self, flags: int, number: int, data: bytes, begin: int, end: int) -> None:
        if flags & frames.PADDED:
            begin, end = _without_padding(data, begin, end)
        if flags & frames.PRIORITISED:
            begin += 5
        if number % 2 == 0 or begin > end:
            raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "HEADERS: of no stream of a client's, or too short")
        if flags & frames.END_HEADERS:
            self._take_block(number, flags, data[begin:end])
        else:
            self._unfinished_since = self.loop.time()
            self._block = number, flags, bytearray(data[begin:end])
            self._expected = frames.CONTINUATION

    def _take_continuation(self, flags: int, number: int, payload: bytes) -> None:
        if self._block is None or self._block[0] != number:
            raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "CONTINUATION of nothing")
        _, first_flags, block = self._block
        block += payload
        if len(block) > MAX_BLOCK_BYTES:
            raise ConnectionFault(ErrorCode.ENHANCE_YOUR_CALM, f"a header block is larger than {MAX_BLOCK_BYTES} bytes")
        if flags & frames.END_HEADERS:
            self._block = self._expected = None
            self._take_block(number, first_flags, bytes(block))

    def _take_block(self, number: int, flags: int, block: bytes) -> None:
        head = self._blocks.head(block)
        stream = self.streams.get(number)
        if stream is not None:
            if stream.ended_there or not flags & frames.END_STREAM:
                raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, f"stream {number} has a head already")
            stream.ended_there = True
            stream.end()
        elif number > self.last and not self.retired:
            self.last = number
            self._begin(number, head, ended=bool(flags & frames.END_STREAM))

    def _begin(self, number: int, head: Head, *, ended: bool) -> None:
        if len(self.streams) >= self._max_streams:
            self.transport.write(frames.number_frame(frames.RST_STREAM, number, ErrorCode.REFUSED_STREAM))
            return
        stream = self.streams[number] = self.open(number, head)
        stream.ended_there = ended
        stream.begin()
        if ended and not stream.ended_here:
            stream.end()

    def _take_reset(self, number: int, size: int) -> None:
        if size != 4:
            raise ConnectionFault(ErrorCode.FRAME_SIZE_ERROR, "RST_STREAM: expected 4 bytes")
        stream = self._stream(number)
        if stream is not None:
            self.resets += 1
            if self.resets > _MAX_RESETS:
                raise ConnectionFault(ErrorCode.ENHANCE_YOUR_CALM, "too many requests were begun and reset")
            self.abandon(stream)

    # The connection itself

    def _take_settings(self, flags: int, number: int, payload: bytes) -> None:
        if number or (flags & frames.ACK and payload):
            raise ConnectionFault(ErrorCode.FRAME_SIZE_ERROR, "SETTINGS: of a stream, or an answer with content")
        if flags & frames.ACK:
            return
        if self._expected == frames.SETTINGS:
            self._expected = None
        for setting, value in frames.read_settings(payload):
            if setting == frames.INITIAL_WINDOW_SIZE:
                more, self.initial_window = value - self.initial_window, value
                for stream in self.streams.values():
                    stream.window += more
                    if stream.window > frames.MAX_WINDOW:
                        raise ConnectionFault(ErrorCode.FLOW_CONTROL_ERROR, "a window is too large")
            elif setting == frames.MAX_FRAME_SIZE:
                self.max_frame_bytes = value
        self._reply(frames.frame(frames.SETTINGS, frames.ACK, 0))
        self.flush_blocked()

    def _take_ping(self, flags: int, number: int, payload: bytes) -> None:
        if number or len(payload) != 8:
            raise ConnectionFault(ErrorCode.FRAME_SIZE_ERROR, "PING: expected 8 bytes, for the connection")
        if not flags & frames.ACK:
            self._reply(frames.frame(frames.PING, frames.ACK, 0, payload))
        elif payload == FAREWELL and self.retiring:
            self.retire_at_last()

    def _reply(self, answer: bytes) -> None:
        self._unread_replies = 0 if self.writable else self._unread_replies + len(answer)
        if self._unread_replies > _MAX_UNREAD_BYTES:
            self.transport.abort()  # answers to SETTINGS and PING are not read, and no more would be
        else:
            self.transport.write(answer)

    def _take_window_update(self, number: int, payload: bytes) -> None:
        more = int.from_bytes(payload, "big") & frames.MAX_WINDOW
        if len(payload) != 4:
            raise ConnectionFault(ErrorCode.FRAME_SIZE_ERROR, "WINDOW_UPDATE: expected 4 bytes")
        if not number:
            self.window += more
            if not more or self.window > frames.MAX_WINDOW:
                raise ConnectionFault(ErrorCode.FLOW_CONTROL_ERROR, "WINDOW_UPDATE: by nothing, or too much")
            self.flush_blocked()
            return
        stream = self._stream(number)
        if stream is None:
            return
        stream.window += more
        if not more or stream.window > frames.MAX_WINDOW:
            self.reset(stream, ErrorCode.PROTOCOL_ERROR if not more else ErrorCode.FLOW_CONTROL_ERROR)
        elif stream.unsent:
            self.flush(stream)

    def fail(self, fault: ConnectionFault) -> None:
        """Say what was wrong, and hang up."""
        if self._greeted:
            self.transport.write(frames.goaway(self.last, fault.code, fault.message))
        self.hang_up()
        for stream in list(self.streams.values()):
            self.abandon(stream)

    def _look(self) -> None:
        self._look_timer = self.loop.call_later(_LOOK_SECONDS, self._look)
        self.resets = max(0.0, self.resets - _RESETS_PER_SECOND * _LOOK_SECONDS)
        now = self.loop.time()
        unread = self.transport.get_write_buffer_size()
        if not unread or self.sent_bytes - unread > self._read:
            self._unread_since = now
        self._read = self.sent_bytes - unread
        if now - self._unread_since > self._slow_client_seconds:
            _log.info("%s does not read its answers: hung up", self.transport.get_extra_info("peername"))
            self.transport.abort()
        elif self._expected is not None and now - self._unfinished_since > self._slow_client_seconds:
            self.fail(ConnectionFault(ErrorCode.ENHANCE_YOUR_CALM, "the head did not come in time"))
        for stream in list(self.streams.values()):
            stream.check()


def _without_padding(data: bytes, begin: int, end: int) -> tuple[int, int]:
    """Of a frame with data[begin:end]. Raises ConnectionFault."""
    if begin == end or data[begin] >= end - begin:
        raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "more padding than there is room for")
    return begin + 1, end - data[begin]
