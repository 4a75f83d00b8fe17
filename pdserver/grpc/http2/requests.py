"""The requests on a connection: their heads, their bodies, and their resets."""

from __future__ import annotations

import logging
import struct
from typing import Generic

from pdserver.grpc.http2 import frames
from pdserver.grpc.http2.blocks import MAX_BLOCK_BYTES, Blocks, Head
from pdserver.grpc.http2.control import CONNECTION_WINDOW, Control, Limits
from pdserver.grpc.http2.fields import Headers
from pdserver.grpc.http2.frames import ConnectionFault, ErrorCode, StreamFault
from pdserver.grpc.http2.stream import STREAM_WINDOW, Stream

_log = logging.getLogger("pdserver.grpc")
_WINDOW_UPDATE = 4 << 8 | frames.WINDOW_UPDATE
"""The first word of such a frame."""
_HEAD, _HEAD_BYTES, _LARGEST = frames.HEAD, frames.HEAD_BYTES, frames.LARGEST
_DATA, _END_STREAM, _MAX_WINDOW = frames.DATA, frames.END_STREAM, frames.MAX_WINDOW
_UPDATE = struct.Struct(">IBII")
_INCREMENT_AND_HEAD = struct.Struct(">IIBI")
"""What is in a WINDOW_UPDATE, and the head of the frame behind it."""
_USUAL_BLOCK_BYTES = 8 * 1024
_BYTES_OF_COST = 512
"""A larger header block costs more to read than a call, so it is charged for each of these bytes."""


class Requests(Control, Generic[Head]):
    """Its methods raise ConnectionFault, or anything else (mostly StreamFault) for an error of one stream."""

    def __init__(self, limits: Limits) -> None:
        super().__init__(limits)
        self.expected: int | None = frames.SETTINGS
        """The kind of the next frame, if only one kind may come."""
        self._blocks = Blocks(self.read_head)
        self._known = self._blocks.known
        self._block: tuple[int, int, bytearray] | None = None
        """(stream, flags, bytes) of a header block that continues in the next frame."""

    # What a subclass adds

    def read_head(self, headers: Headers) -> Head:
        raise NotImplementedError

    def open(self, number: int, head: Head) -> Stream:
        raise NotImplementedError

    # Frames

    def take_whole(self, number: int, data: bytes, begin: int, end: int) -> int:
        """Take a request that came whole: a head that is known, data[begin:end], and all of its body in the next frame.
        In between, a client may open the stream's window, and behind it the connection's, as gRPC's C library does.

        A request is worth more than what these two frames cost, so they need not be paid for.

        Returns where the frame after it begins; 0 for any other request, of which nothing is taken then.
        """
        head = self._known.get(data[begin:end])
        if head is None or number <= self.last or not number & 1 or self.retired or self.expected is not None:
            return 0
        start, more = end + _HEAD_BYTES, 0
        try:
            word, flags, of = _HEAD.unpack_from(data, end)
            if word == _WINDOW_UPDATE and of == number:
                more, word, flags, of = _INCREMENT_AND_HEAD.unpack_from(data, start)
                start += _INCREMENT_AND_HEAD.size
                if not more or more + self.initial_window > _MAX_WINDOW:
                    return 0
        except struct.error:
            return 0
        after: int = start + (word >> 8)
        if word & 0xFF != _DATA or flags != _END_STREAM or of != number:
            return 0
        if not word or word > _LARGEST or after > len(data) or len(self.streams) >= self.limits.streams:
            return 0
        self.last = number
        self.credit -= after - start
        if self.credit < CONNECTION_WINDOW // 2:
            self.grant_connection()
        try:
            stream = self.streams[number] = self.open(number, head)
            stream.ended_there = True
            if more:
                stream.window = more
                if more > self._widest:
                    self._widest = more
            stream.take_whole(data, start, after)
        except Exception as error:  # noqa: BLE001
            self.went_wrong(number, error)
        if after + _UPDATE.size <= len(data):
            word, _, of, more = _UPDATE.unpack_from(data, after)
            if word == _WINDOW_UPDATE and not of and more and self.window + more <= _MAX_WINDOW:
                self.window += more
                return after + _UPDATE.size
        return after

    def take_data(self, flags: int, number: int, data: bytes, begin: int, end: int) -> None:
        size = end - begin
        self.credit -= size
        if self.credit < CONNECTION_WINDOW // 2:
            self.grant_connection()
        if flags & frames.PADDED:
            begin, end = _without_padding(data, begin, end)
        ends = bool(flags & frames.END_STREAM)
        stream = self.streams.get(number) or self.stream(number)
        if stream is None:
            self._take_late(number, size, ends=ends)
            return
        if stream.ended_there:
            raise StreamFault(ErrorCode.STREAM_CLOSED, "data behind the end")
        stream.credit -= size
        if stream.credit < 0:
            raise StreamFault(ErrorCode.FLOW_CONTROL_ERROR, "more data than the stream's window")
        stream.ended_there = ends
        stream.owed += size - (end - begin)
        if end > begin:
            stream.receive(data, begin, end)
        elif not ends:
            self.spend()
        if ends and not stream.ended_here:
            stream.end()

    def _take_late(self, number: int, size: int, *, ends: bool) -> None:
        """Take data of a stream that has ended here, which the client did not know when it sent them."""
        if number in self._cut:
            self._cut[number] -= size
            if self._cut[number] < 0:
                raise ConnectionFault(ErrorCode.FLOW_CONTROL_ERROR, "more data than the stream's window")
            if ends:
                del self._cut[number]
        elif self._cut_before < number <= self.last:
            raise ConnectionFault(ErrorCode.STREAM_CLOSED, f"data behind the end of stream {number}")
        self.spend()

    def grant(self, stream: Stream, count: int) -> None:
        """Let the client send `count` more bytes, because as many received ones are used up."""
        stream.owed += count
        if stream.owed >= STREAM_WINDOW // 2 and not stream.ended_there and not stream.ended_here:
            self.write(frames.number_frame(frames.WINDOW_UPDATE, stream.number, stream.owed))
            stream.credit += stream.owed
            stream.owed = 0

    def take_headers(self, flags: int, number: int, data: bytes, begin: int, end: int) -> None:
        if flags & frames.PADDED:
            begin, end = _without_padding(data, begin, end)
        if flags & frames.PRIORITISED:
            begin += 5
        if number % 2 == 0 or begin > end:
            raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "HEADERS: not for a stream of the client's, or too short")
        if flags & frames.END_HEADERS:
            self._take_block(number, flags, data[begin:end])
        else:
            self.unfinished_since = self.loop.time()
            self._block = number, flags, bytearray(data[begin:end])
            self.expected = frames.CONTINUATION

    def take_continuation(self, flags: int, number: int, payload: bytes) -> None:
        if self._block is None or self._block[0] != number:
            raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "CONTINUATION without HEADERS")
        self.spend()
        _, first_flags, block = self._block
        block += payload
        if len(block) > MAX_BLOCK_BYTES:
            raise ConnectionFault(ErrorCode.ENHANCE_YOUR_CALM, f"a header block is larger than {MAX_BLOCK_BYTES} bytes")
        if flags & frames.END_HEADERS:
            self._block = self.expected = self.unfinished_since = None
            self._take_block(number, first_flags, bytes(block))

    def _take_block(self, number: int, flags: int, block: bytes) -> None:
        if len(block) > _USUAL_BLOCK_BYTES:
            self.spend((len(block) - _USUAL_BLOCK_BYTES) / _BYTES_OF_COST)
        ends = bool(flags & frames.END_STREAM)
        if number <= self.last:
            self._take_second_block(number, block, ends=ends)
        elif self.retired:  # the client did not know yet, and will ask elsewhere
            self._blocks.pass_over(block)
            self.spend()
        else:
            self.last = number
            self._begin(number, self._blocks.head(block), ends=ends)

    def _begin(self, number: int, head: Head, *, ends: bool) -> None:
        if len(self.streams) >= self.limits.streams:
            raise StreamFault(ErrorCode.REFUSED_STREAM, "too many streams at the same time")
        stream = self.streams[number] = self.open(number, head)
        stream.ended_there = ends
        stream.begin()
        if ends and not stream.ended_here:
            stream.end()

    def _take_second_block(self, number: int, block: bytes, *, ends: bool) -> None:
        """Take a header block after a request's body (trailers), or after its end."""
        stream = self.streams.get(number)
        if stream is None:
            self._blocks.pass_over(block)
            if number not in self._cut and number > self._cut_before:
                raise ConnectionFault(ErrorCode.STREAM_CLOSED, f"a head behind the end of stream {number}")
            self.spend()
            return
        self._blocks.check_trailers(block)
        if stream.ended_there:
            raise StreamFault(ErrorCode.STREAM_CLOSED, "a head behind the end")
        if not ends:
            raise StreamFault(ErrorCode.PROTOCOL_ERROR, "a second head")
        stream.ended_there = True
        stream.end()

    def take_reset(self, number: int, size: int) -> None:
        if size != 4:
            raise ConnectionFault(ErrorCode.FRAME_SIZE_ERROR, "RST_STREAM: expected 4 bytes")
        stream = self.stream(number)
        if stream is None:
            self.spend()
            return
        stream.ended_there = True
        self.abandon(stream)
        self.spend_reset()

    def went_wrong(self, number: int, error: Exception) -> None:
        """End a stream after an error. Raises ConnectionFault if that is the error, and if there is no stream."""
        if isinstance(error, StreamFault):
            self.refuse(number, error)
            return
        if isinstance(error, ConnectionFault):
            raise error
        peer = self.transport.get_extra_info("peername")
        _log.error("stream %d of %s failed", number, peer, exc_info=error)
        stream = self.streams.get(number)
        if stream is None:
            raise ConnectionFault(ErrorCode.INTERNAL_ERROR, "internal error; the server's log has more") from None
        self.reset(stream, ErrorCode.INTERNAL_ERROR)

    def refuse(self, number: int, fault: StreamFault) -> None:
        """Reset a stream through the client's fault. Raises ConnectionFault if there are too many of these."""
        stream = self.streams.get(number)
        if stream is not None:
            self.reset(stream, fault.code)
        else:
            self.write(frames.number_frame(frames.RST_STREAM, number, fault.code))
            self.cut(number, STREAM_WINDOW)
        self.spend_reset()


def _without_padding(data: bytes, begin: int, end: int) -> tuple[int, int]:
    """The range of a padded frame's content within data[begin:end]. Raises ConnectionFault."""
    if begin == end or data[begin] >= end - begin:
        raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "more padding than there is room for")
    return begin + 1, end - data[begin]
