"""A client's connection: parses its frames.

Everything that a client can send has a limit. An error of the connection ends it with a GOAWAY that says why. An error
of one request ends only that request.
"""

from __future__ import annotations

from pdserver.grpc.http2 import frames
from pdserver.grpc.http2.blocks import Head
from pdserver.grpc.http2.control import CONNECTION_WINDOW, Limits
from pdserver.grpc.http2.frames import ConnectionFault, ErrorCode
from pdserver.grpc.http2.requests import Requests
from pdserver.grpc.http2.stream import STREAM_WINDOW
from pdserver.grpc.http2.turns import Turns

_WORK_BETWEEN_LOOKS = 16
"""Work between two looks at the clock, and the least work in each turn. A frame counts one, and one more for each
`_BYTES_OF_WORK` to be understood."""
_BYTES_OF_WORK = 128
_WORK_OF_REQUEST = 4
"""Of one that came whole."""
_HEAD, _HEAD_BYTES, _LARGEST = frames.HEAD, frames.HEAD_BYTES, frames.LARGEST
_HEADERS, _END_HEADERS = frames.HEADERS, frames.END_HEADERS


class Connection(Requests[Head]):
    """A subclass defines heads and makes streams."""

    def __init__(self, limits: Limits, turns: Turns) -> None:
        super().__init__(limits)
        self._turns = turns
        self._begun = b""
        """Received data that are not a whole frame yet."""
        self._backlog: tuple[bytes, int] | None = None
        """Received data that wait for the next turn, and the place where the rest begins."""
        self._paused = False
        """Whether reading is paused."""
        self._waits = False
        """Whether the connection waits for its turn."""
        self._is_over = False
        """Whether the turn is over."""

    # What a subclass adds

    def not_http2(self, data: bytes) -> None:
        """The first data are not HTTP/2. The connection is closed after this."""

    # What the transport calls

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self._backlog, self._begun = None, b""

    def pause_writing(self) -> None:
        super().pause_writing()
        self._regulate()

    def resume_writing(self) -> None:
        super().resume_writing()
        self._regulate()

    def data_received(self, data: bytes) -> None:
        self.heard = True
        if self.discarding_input:
            return
        if self._backlog is None:
            self._take_turn(data, 0)
        else:  # data arrived although reading is paused
            before, place = self._backlog
            self._backlog = before[place:] + data, 0

    def hang_up(self) -> None:
        super().hang_up()
        self._backlog, self._begun = None, b""
        self._regulate()

    # Turns

    def _next_turn(self) -> None:
        """Go on with what the last turn left."""
        self._waits = False
        if self._backlog is not None and self.writable:
            (data, place), self._backlog = self._backlog, None
            self._take_turn(data, place)

    def _take_turn(self, data: bytes, place: int) -> None:
        """Parse the received data as far as there is time. Frames that are sent meanwhile leave together at the end."""
        self.in_turn = True
        self._is_over = False
        try:
            self._parse(data, place)
        except ConnectionFault as fault:
            self.fail(fault)
        finally:
            self.in_turn = False
        self.flush()
        if self._is_over or self._paused:
            self._regulate()

    def _regulate(self) -> None:
        """Pause reading while received data wait, or while the client does not read its answers."""
        backlog = self._backlog is not None
        pauses = backlog or not (self.writable or self.discarding_input)
        if pauses != self._paused and not self.transport.is_closing():
            self._paused = pauses
            if pauses:
                self.transport.pause_reading()
            else:
                self.transport.resume_reading()
        if backlog and self.writable and not self._waits:
            self._waits = True
            self._turns.wait(self._next_turn)

    def _parse(self, data: bytes, place: int) -> None:
        """Parse `data` from `place` on. Raises ConnectionFault."""
        while self._begun and place < len(data):  # complete the begun frame without copying what follows it
            begun = self._begun + data[place : place + self._missing()]
            place += len(begun) - len(self._begun)
            self._begun = begun[self._frames(begun, 0) :]
        if place < len(data) and not self._is_over:
            place = self._frames(data, place)
        if self._is_over:
            self._backlog = data, place
        elif place < len(data):
            self._begun = data[place:]

    def _missing(self) -> int:
        """How many bytes of the begun frame are missing, as far as that is known."""
        if not self.greeted:
            return len(frames.PREFACE) - len(self._begun)
        size = frames.HEAD_BYTES
        if len(self._begun) >= size:
            size += frames.HEAD.unpack_from(self._begun)[0] >> 8
        return size - len(self._begun)

    def _frames(self, data: bytes, place: int) -> int:
        """Take the whole frames until the turn is over. Returns where the rest begins. Raises ConnectionFault."""
        if not self.greeted:
            place += self._greet(data[place:])
            if not self.greeted:
                return place
        size = len(data)
        work = 0
        while place + _HEAD_BYTES <= size and not self.discarding_input:
            word, flags, number = _HEAD.unpack_from(data, place)
            if word > _LARGEST:
                limit = f"more than {frames.DEFAULT_FRAME_BYTES} bytes in a frame"
                raise ConnectionFault(ErrorCode.FRAME_SIZE_ERROR, limit)
            kind = word & 0xFF
            begin = place + _HEAD_BYTES
            end = begin + (word >> 8)
            if end > size:
                break
            if kind == _HEADERS and flags == _END_HEADERS and (after := self.take_whole(number, data, begin, end)):
                place = after
                work += _WORK_OF_REQUEST
            else:
                place = end
                number &= frames.MAX_STREAM
                try:
                    self._take(kind, flags, number, data, begin, end)
                except Exception as error:  # noqa: BLE001
                    self.went_wrong(number, error)
                work += 1 + ((word >> 8) // _BYTES_OF_WORK if kind else 0)
            if work >= _WORK_BETWEEN_LOOKS:
                work = 0
                self._is_over = self._turns.is_over()
                if self._is_over:
                    break
        return place

    def _greet(self, data: bytes) -> int:
        if data.startswith(frames.PREFACE):
            self.send_preface()
            return len(frames.PREFACE)
        if frames.PREFACE.startswith(data):
            return 0
        self.not_http2(data)
        raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "not HTTP/2")

    def send_preface(self) -> None:
        """Send the server's own preface."""
        self.greeted = True
        ours = frames.settings([
            (frames.MAX_CONCURRENT_STREAMS, self.limits.streams),
            (frames.INITIAL_WINDOW_SIZE, STREAM_WINDOW),
            (frames.MAX_HEADER_LIST_SIZE, self.limits.header_bytes),
        ])  # fmt: skip
        self.write(ours + frames.number_frame(frames.WINDOW_UPDATE, 0, CONNECTION_WINDOW - frames.DEFAULT_WINDOW))

    def _take(self, kind: int, flags: int, number: int, data: bytes, begin: int, end: int) -> None:
        """Take one frame. Raises ConnectionFault, or anything else (mostly StreamFault) for an error of this stream."""
        if self.expected is not None and kind != self.expected:
            raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, f"a frame {kind} where {self.expected} has to come")
        if kind == frames.DATA:
            self.take_data(flags, number, data, begin, end)
        elif kind == frames.HEADERS:
            self.take_headers(flags, number, data, begin, end)
        elif kind == frames.WINDOW_UPDATE:
            self.take_window_update(number, data[begin:end])
        elif kind == frames.CONTINUATION:
            self.take_continuation(flags, number, data[begin:end])
        elif kind == frames.SETTINGS:
            self.take_settings(flags, number, data[begin:end])
            if self.expected is not None and not flags & frames.ACK:
                self.expected = self.unfinished_since = None
        elif kind == frames.PING:
            self.take_ping(flags, number, data[begin:end])
        elif kind == frames.RST_STREAM:
            self.take_reset(number, end - begin)
        elif kind == frames.PUSH_PROMISE:
            raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "PUSH_PROMISE from a client")
        elif kind == frames.PRIORITY:
            self.take_priority(number, end - begin)
        elif kind == frames.GOAWAY:
            self.take_goaway(number, end - begin)
        else:
            self.spend()
