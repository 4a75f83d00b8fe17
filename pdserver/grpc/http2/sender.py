"""Sends answers, as fast as the client's windows allow, and ends the connection."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence

from pdserver.grpc.http2 import frames
from pdserver.grpc.http2.frames import ConnectionFault, ErrorCode
from pdserver.grpc.http2.stream import Stream

_FAREWELL_SECONDS = 0.5
"""Time for a client to notice that the server accepts no more requests."""
_LINGER_SECONDS = 2.0
FAREWELL = b"farewell"
"""The content of the ping that a client answers when it has noticed."""
_MAX_PIECE_BYTES = 64 * 1024
"""Data of one stream before others have their turn."""
_MAX_OUT_BYTES = 256 * 1024
"""Data that are gathered before they go to the transport."""
_MAX_CUT = 4096
_LAST = frames.END_HEADERS | frames.END_STREAM
_USE = 10
"""What a message of an answer counts as useful work."""


_HEAD, _HEADERS, _END_HEADERS = frames.HEAD, frames.HEADERS, frames.END_HEADERS


def _not_needed(number: int) -> bytes:
    return frames.number_frame(frames.RST_STREAM, number, ErrorCode.NO_ERROR)


class Sender(asyncio.Protocol):
    """The sending half of a connection."""

    transport: asyncio.Transport

    def __init__(self) -> None:
        self.loop = asyncio.get_running_loop()
        self.streams: dict[int, Stream] = {}
        """Streams that have begun and not ended."""
        self.initial_window = frames.DEFAULT_WINDOW
        """Bytes that each stream may send, in addition to its own `window`."""
        self.window = frames.DEFAULT_WINDOW
        """Bytes that all streams together may send."""
        self.max_frame_bytes = frames.DEFAULT_FRAME_BYTES
        self.sent_bytes = 0
        """Data that the transport has."""
        self.waiting_bytes = 0
        """Data for which the client has no room."""
        self.use = 0
        """Grows with each message that was sent."""
        self.greeted = False
        """Whether both sides have sent their prefaces."""
        self.writable = True
        """Whether the transport has room for more."""
        self.in_turn = False
        """Whether received frames are being handled. Frames to send are gathered until that is done."""
        self.last = 0
        """The stream that was begun last."""
        self.retiring = self.retired = self.discarding_input = False
        """The three steps of the end: the client was told; it has noticed; its input is thrown away."""
        self._out: list[bytes | memoryview] = []
        self._ready: dict[int, Stream] = {}
        """Streams whose data wait for the connection's window or for the transport."""
        self._starved: dict[int, Stream] = {}
        """Streams whose data wait for their own window."""
        self._cut: dict[int, int] = {}
        """Streams that ended here while their requests were still coming, and how many bytes may be on their way."""
        self._cut_before = 0
        """Streams up to this number may be such streams too."""
        self._timers: list[asyncio.TimerHandle] = []

    def call_later(self, seconds: float, function: Callable[[], object]) -> None:
        """Call `function` then, unless the connection has ended."""
        self._timers.append(self.loop.call_later(seconds, function))

    def connection_lost(self, exc: Exception | None) -> None:
        self.discarding_input = True
        for timer in self._timers:
            timer.cancel()
        for stream in list(self.streams.values()):
            self.abandon(stream)
        self._out.clear()

    def pause_writing(self) -> None:
        self.writable = False

    def resume_writing(self) -> None:
        self.writable = True
        self.flush()

    # Answers

    def write(self, data: bytes) -> None:
        """Send frames that no window limits."""
        if self.in_turn:
            self._out.append(data)
        elif not self.discarding_input and not self.transport.is_closing():
            self.transport.write(data)

    def send(self, stream: Stream, head: bytes, data: Sequence[bytes], trailers: bytes = b"") -> None:
        """Send these header blocks and pieces of data. Any may be empty. Trailers end the stream."""
        if stream.ended_here or self.discarding_input or self.transport.is_closing():
            return
        self.use += _USE
        number, size = stream.number, sum(map(len, data))
        fits = (
            size <= self.max_frame_bytes
            and size <= stream.window + self.initial_window
            and size <= self.window
            and (self.writable or not size)
            and not stream.unsent
        )
        pieces = [_HEAD.pack(len(head) << 8 | _HEADERS, _END_HEADERS, number), head] if head else []
        if fits:
            if size:
                pieces += (_HEAD.pack(size << 8, 0, number), *data)
                stream.window -= size
                self.window -= size
                self.sent_bytes += size
            if trailers:
                pieces += (_HEAD.pack(len(trailers) << 8 | _HEADERS, _LAST, number), trailers)
                if not stream.ended_there:  # the rest of the request is not needed
                    pieces.append(_not_needed(number))
            if self.in_turn:
                self._out += pieces
            else:
                self.transport.write(b"".join(pieces))
            if trailers:
                self._finish(stream)
            return
        self._out += pieces
        stream.trailers = trailers
        if not stream.unsent:
            stream.unsent = deque()
            stream.sent_bytes = stream.seen_bytes = 0
            stream.waits_since = self.loop.time()
            self._ready[number] = stream
        stream.unsent.extend(memoryview(piece) for piece in data if piece)
        self.waiting_bytes += size
        if not self.in_turn:
            self.flush()

    def flush(self) -> None:
        """Send what was gathered, and as much data as there is room for: one frame of each stream in turn."""
        if not self._ready and not self._out:
            return
        gathered = 0
        while self._ready and self.writable and self.window > 0 and not self.discarding_input:
            number = next(iter(self._ready))
            gathered += self._send_piece(self._ready.pop(number))
            if gathered >= _MAX_OUT_BYTES:
                gathered = 0
                self._write_out()
        self._write_out()

    def _send_piece(self, stream: Stream) -> int:
        """Send one frame of data. Returns its size."""
        unsent, number = stream.unsent, stream.number
        room = min(self.max_frame_bytes, _MAX_PIECE_BYTES, stream.window + self.initial_window, self.window)
        if room <= 0:
            self._starved[number] = stream
            return 0
        left, pieces = room, []
        while unsent and left:
            piece = unsent.popleft()
            if len(piece) > left:
                unsent.appendleft(piece[left:])
                piece = piece[:left]
            pieces.append(piece)
            left -= len(piece)
        size = room - left
        self._out.append(frames.HEAD.pack(size << 8, 0, number))
        self._out += pieces
        stream.window -= size
        self.window -= size
        self.sent_bytes += size
        self.waiting_bytes -= size
        stream.sent_bytes += size
        if unsent:
            self._ready[number] = stream
        elif stream.trailers:
            self._out.append(frames.frame(frames.HEADERS, _LAST, number, stream.trailers))
            if not stream.ended_there:
                self._out.append(_not_needed(number))
            self._finish(stream)
        else:
            stream.has_room()
        return size

    def _write_out(self) -> None:
        out, self._out = self._out, []
        if out and not self.transport.is_closing():
            self.transport.write(out[0] if len(out) == 1 else b"".join(out))

    def reset(self, stream: Stream, code: ErrorCode) -> None:
        """End the stream without an answer."""
        self.write(frames.number_frame(frames.RST_STREAM, stream.number, code))
        self.abandon(stream)

    def abandon(self, stream: Stream) -> None:
        """End the stream because the client wants no answer any more."""
        self._forget(stream)
        stream.abandoned()
        self._close_if_done()

    def _finish(self, stream: Stream) -> None:
        if stream.ended_there and not stream.unsent:
            stream.ended_here = True
            del self.streams[stream.number]
        else:
            self._forget(stream)
        if self.retired:
            self._close_if_done()

    def _forget(self, stream: Stream) -> None:
        stream.ended_here = True
        number = stream.number
        self.streams.pop(number, None)
        if not stream.ended_there:
            self.cut(number, stream.credit)
        if stream.unsent:
            self.waiting_bytes -= sum(map(len, stream.unsent))
            stream.unsent.clear()
            self._ready.pop(number, None)
            self._starved.pop(number, None)
        stream.has_room()

    def cut(self, number: int, credit: int) -> None:
        """Remember that the stream has ended here, and that `credit` bytes of its request may still come."""
        self._cut[number] = credit
        if len(self._cut) > _MAX_CUT:
            oldest = next(iter(self._cut))
            del self._cut[oldest]
            self._cut_before = max(self._cut_before, oldest)

    # The end

    def retire(self) -> None:
        """Accept no more requests, answer the running ones, and hang up. A request that is on its way is not lost: the
        client is told first, and has a moment to confirm."""
        if self.retiring or self.discarding_input or self.transport.is_closing():
            return
        self.retiring = True
        first_word = frames.goaway(frames.MAX_STREAM, ErrorCode.NO_ERROR)
        self.write(first_word + frames.frame(frames.PING, 0, 0, FAREWELL))
        self.call_later(_FAREWELL_SECONDS, self.retire_at_last)

    def retire_at_last(self) -> None:
        if not self.retired and not self.discarding_input and not self.transport.is_closing():
            self.retired = True
            self.write(frames.goaway(self.last, ErrorCode.NO_ERROR))
            self._close_if_done()

    def _close_if_done(self) -> None:
        if self.retired and not self.streams:
            self.hang_up()

    def fail(self, fault: ConnectionFault) -> None:
        """Send a GOAWAY that says what was wrong, and hang up."""
        if self.greeted:
            self.write(frames.goaway(self.last, fault.code, fault.message))
        self.hang_up()
        for stream in list(self.streams.values()):
            self.abandon(stream)

    def hang_up(self) -> None:
        """Close the sending side, but read on for a moment. Closing at once would reset the connection while the client
        still sends, and the client would lose the last frames."""
        if self.discarding_input:
            return
        self._write_out()
        self.discarding_input = True
        if self.transport.is_closing():
            return
        if self.transport.can_write_eof():
            self.transport.write_eof()
            self.call_later(_LINGER_SECONDS, self.transport.close)
        else:
            self.transport.close()
