"""What goes out on a connection: answers, as fast as the client's windows let them, and the end."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

from pdserver.http2 import frames
from pdserver.http2.frames import ErrorCode
from pdserver.http2.stream import Stream

_FAREWELL_SECONDS = 0.5
"""For a client to take note that no more is taken in."""
_LINGER_SECONDS = 2.0
FAREWELL = b"farewell"
"""A ping's content."""


class Sender(asyncio.Protocol):
    """A connection's one half."""

    transport: asyncio.Transport

    def __init__(self) -> None:
        self.loop = asyncio.get_running_loop()
        self.streams: dict[int, Stream] = {}
        """Those that have begun, and not ended."""
        self.initial_window = frames.DEFAULT_WINDOW
        """What a new stream may send. Bytes, as all windows are."""
        self.window = frames.DEFAULT_WINDOW
        """What all of them together may send."""
        self.max_frame_bytes = frames.DEFAULT_FRAME_BYTES
        self.sent_bytes = 0
        """Of data, given to the transport."""
        self.writable = True
        """Whether the transport takes more."""
        self.last = 0
        """The stream that was begun last."""
        self.retiring = self.retired = self.deaf = False
        """The end's three steps: the client was told, takes note, and is not listened to any more."""
        self.resets = 0.0
        """Requests that the client took back, less those that it let be answered."""
        self._blocked: dict[int, Stream] = {}
        """Those that have more to send than there was room for."""
        self._timers: list[asyncio.TimerHandle] = []

    def call_later(self, seconds: float, function: Callable[[], object]) -> None:
        """Unless the connection has ended by then."""
        self._timers.append(self.loop.call_later(seconds, function))

    def connection_lost(self, exc: Exception | None) -> None:
        for timer in self._timers:
            timer.cancel()
        for stream in list(self.streams.values()):
            self.abandon(stream)

    def pause_writing(self) -> None:
        self.writable = False

    def resume_writing(self) -> None:
        self.writable = True
        self.flush_blocked()

    def send(self, stream: Stream, head: bytes, data: Sequence[bytes], trailers: bytes = b"") -> None:
        """Send these header blocks and pieces of data, of which any may be empty; trailers end the stream."""
        if stream.ended_here or self.deaf or self.transport.is_closing():
            return
        number, size = stream.number, sum(map(len, data))
        pieces = [frames.frame(frames.HEADERS, frames.END_HEADERS, number, head)] if head else []
        fits = size <= self.max_frame_bytes and size <= stream.window and size <= self.window
        if fits and not stream.unsent:
            if data:
                pieces += (frames.HEAD.pack(size << 8, 0, number), *data)
                self._spend(stream, size)
            if trailers:
                pieces.append(self._last_frame(stream, trailers))
            self.transport.write(b"".join(pieces))
            if trailers:
                self._finish(stream)
        else:
            self.transport.write(b"".join(pieces))
            stream.trailers = trailers
            stream.unsent.extend(memoryview(piece) for piece in data if piece)
            self.flush(stream)

    def _spend(self, stream: Stream, size: int) -> None:
        stream.window -= size
        self.window -= size
        self.sent_bytes += size

    def _last_frame(self, stream: Stream, trailers: bytes) -> bytes:
        last = frames.frame(frames.HEADERS, frames.END_HEADERS | frames.END_STREAM, stream.number, trailers)
        if not stream.ended_there:  # the rest of the request is not wanted
            last += frames.number_frame(frames.RST_STREAM, stream.number, ErrorCode.NO_ERROR)
        return last

    def flush(self, stream: Stream) -> None:
        """Send what there is room for."""
        unsent = stream.unsent
        while unsent:
            size = min(len(unsent[0]), self.max_frame_bytes, stream.window, self.window)
            if size <= 0 or not self.writable:
                self._blocked[stream.number] = stream
                return
            piece = unsent.popleft()
            if size < len(piece):
                unsent.appendleft(piece[size:])
            self._spend(stream, size)
            self.transport.writelines([frames.HEAD.pack(size << 8, 0, stream.number), piece[:size]])
        self._blocked.pop(stream.number, None)
        if stream.trailers:
            self.transport.write(self._last_frame(stream, stream.trailers))
            self._finish(stream)
        elif self.writable:
            stream.has_room()

    def wait_for_room(self, stream: Stream) -> None:
        """It is told when all that it sends has left."""
        self._blocked[stream.number] = stream

    def flush_blocked(self) -> None:
        for stream in list(self._blocked.values()):
            if not self.writable:
                return
            self.flush(stream)

    @property
    def unsent_bytes(self) -> int:
        """Of answers that the client has not taken."""
        waiting = sum(len(piece) for stream in self._blocked.values() for piece in stream.unsent)
        return waiting + self.transport.get_write_buffer_size()

    def reset(self, stream: Stream, code: ErrorCode) -> None:
        """End it without an answer."""
        self.transport.write(frames.number_frame(frames.RST_STREAM, stream.number, code))
        self.abandon(stream)

    def abandon(self, stream: Stream) -> None:
        """The client wants no answer any more."""
        self._forget(stream)
        stream.abandoned()
        self._close_if_done()

    def _finish(self, stream: Stream) -> None:
        self.resets = max(0.0, self.resets - 1)
        self._forget(stream)
        self._close_if_done()

    def _forget(self, stream: Stream) -> None:
        stream.ended_here = True
        self.streams.pop(stream.number, None)
        self._blocked.pop(stream.number, None)
        stream.unsent.clear()
        stream.has_room()

    # The end

    def retire(self) -> None:
        """Take no more requests, answer those that there are, and hang up. One that is on its way is not lost: the
        client is told first, and has a moment to answer."""
        if self.retiring or self.deaf or self.transport.is_closing():
            return
        self.retiring = True
        first_word = frames.goaway(frames.MAX_STREAM, ErrorCode.NO_ERROR)
        self.transport.write(first_word + frames.frame(frames.PING, 0, 0, FAREWELL))
        self.call_later(_FAREWELL_SECONDS, self.retire_at_last)

    def retire_at_last(self) -> None:
        if not self.retired and not self.deaf and not self.transport.is_closing():
            self.retired = True
            self.transport.write(frames.goaway(self.last, ErrorCode.NO_ERROR))
            self._close_if_done()

    def _close_if_done(self) -> None:
        if self.retired and not self.streams:
            self.hang_up()

    def hang_up(self) -> None:
        """Say that nothing more comes, but read on for a little: closing at once would reset the connection while the
        client still sends, and what was said last would be lost with it."""
        if self.deaf:
            return
        self.deaf = True
        if self.transport.can_write_eof():
            self.transport.write_eof()
            self.call_later(_LINGER_SECONDS, self.transport.close)
        else:
            self.transport.close()
