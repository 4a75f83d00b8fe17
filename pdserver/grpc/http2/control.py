"""Frames about the connection itself, and the limits for them."""

from __future__ import annotations

import asyncio
import logging
import socket
from typing import NamedTuple

from pdserver.grpc.http2 import frames
from pdserver.grpc.http2.allowance import Allowance
from pdserver.grpc.http2.frames import ConnectionFault, ErrorCode
from pdserver.grpc.http2.sender import FAREWELL, Sender
from pdserver.grpc.http2.stream import Stream

_log = logging.getLogger("pdserver.grpc")
CONNECTION_WINDOW = 16 * 1024 * 1024
_WRITE_BUFFER_BYTES = 1024 * 1024
_AT_ONCE, _PER_SECOND = 1000.0, 100.0
"""The size and the refill of both allowances. Legitimate clients never come near them."""
_BYTES_OF_USE = 512
"""One frame without use for so many bytes of data, in either direction, is normal."""
_USES_PER_RESET = 100
"""Uses that pay for one reset: ten answers."""
_SETTINGS_PER_COST = 64
"""Bytes of a SETTINGS frame that cost one."""
MIN_BYTES_PER_SECOND = 256
"""A client that reads an answer more slowly than this for `slow_client_seconds` is given up."""
_CHECK_SECONDS = 1.0
_ARE_YOU_THERE = frames.frame(frames.PING, 0, 0, b"are you?")


class Limits(NamedTuple):
    """A client's limits."""

    streams: int
    header_bytes: int
    slow_client_seconds: float
    """Time for a head, and for a reading client to make progress."""
    idle_seconds: float
    """Time without a stream after which the connection ends."""
    silent_seconds: float
    """Time without any data after which the client is sent a ping."""


class Control(Sender):
    """A connection, without its requests."""

    def __init__(self, limits: Limits) -> None:
        super().__init__()
        self.limits = limits
        self.credit = CONNECTION_WINDOW
        """Bytes of data that the client may send."""
        self.heard = False
        """Whether something came since the last check."""
        self.unfinished_since: float | None = self.loop.time()
        """When the data that must be completed next began to come, or None."""
        self._granted_bytes = 0
        self._asks_nothing = Allowance("frames that ask for nothing", _AT_ONCE, _PER_SECOND)
        self._resets = Allowance("requests that were begun and ended by a reset", _AT_ONCE, _PER_SECOND)
        self._widest = 0
        """An upper bound of all streams' windows."""
        self._check_timer: asyncio.TimerHandle | None = None
        self._heard_at = self._busy_at = self._read_at = self.loop.time()
        """When something last came; when there last was a stream; when the client last read, or had nothing to read."""
        self._asked_at: float | None = None
        self._last_seen = 0
        self._read_bytes = 0
        """Bytes of answers that the client had read at the last check."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        self.transport = transport
        transport.set_write_buffer_limits(_WRITE_BUFFER_BYTES)
        sock = transport.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        self._check_timer = self.loop.call_later(_CHECK_SECONDS, self._check_progress)

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        if self._check_timer is not None:
            self._check_timer.cancel()

    # Allowances. These methods raise ConnectionFault when one is used up

    def spend(self, cost: float = 1) -> None:
        """Pay for a frame that asks for no answer."""
        allowance = self._asks_nothing
        allowance.left -= cost
        if allowance.left < 0:
            received = self._granted_bytes + CONNECTION_WINDOW - self.credit
            allowance.refill(self.use + (self.sent_bytes + received) / _BYTES_OF_USE)

    def spend_reset(self) -> None:
        """Pay for a request that is reset before its end, by either side (CVE-2023-44487, CVE-2025-8671)."""
        self._resets.left -= 1
        if self._resets.left < 0:
            self._resets.refill(self.use / _USES_PER_RESET)

    def grant_connection(self) -> None:
        """Open the connection's window again. The streams' own windows limit what is held in memory."""
        if self.credit < 0:
            raise ConnectionFault(ErrorCode.FLOW_CONTROL_ERROR, "more data than the connection's window")
        more = CONNECTION_WINDOW - self.credit
        self.write(frames.number_frame(frames.WINDOW_UPDATE, 0, more))
        self._granted_bytes += more
        self.credit = CONNECTION_WINDOW

    # Frames

    def take_settings(self, flags: int, number: int, payload: bytes) -> None:
        if number:
            raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "SETTINGS: for a stream")
        if flags & frames.ACK:
            if payload:
                raise ConnectionFault(ErrorCode.FRAME_SIZE_ERROR, "SETTINGS: an acknowledgement with content")
            self.spend()
            return
        self.spend(1 + len(payload) / _SETTINGS_PER_COST)
        for setting, value in frames.read_settings(payload):
            if setting == frames.INITIAL_WINDOW_SIZE:
                self._open_windows(value)
            elif setting == frames.MAX_FRAME_SIZE:
                self.max_frame_bytes = value
        self.write(_ACKNOWLEDGED)

    def _open_windows(self, initial: int) -> None:
        """Change the initial window, from which each stream's window is counted."""
        if initial > self.initial_window:
            if initial + self._widest > frames.MAX_WINDOW:  # the widest may be of a stream that has ended
                self._widest = max([stream.window for stream in self.streams.values()], default=0)
                if initial + self._widest > frames.MAX_WINDOW:
                    raise ConnectionFault(ErrorCode.FLOW_CONTROL_ERROR, "SETTINGS: a stream's window gets too large")
            self._ready |= self._starved
            self._starved.clear()
        self.initial_window = initial

    def take_ping(self, flags: int, number: int, payload: bytes) -> None:
        if number:
            raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "PING: for a stream")
        if len(payload) != 8:
            raise ConnectionFault(ErrorCode.FRAME_SIZE_ERROR, "PING: expected 8 bytes")
        self.spend()
        if not flags & frames.ACK:
            self.write(frames.frame(frames.PING, frames.ACK, 0, payload))
        elif payload == FAREWELL and self.retiring:
            self.retire_at_last()

    def take_window_update(self, number: int, payload: bytes) -> None:
        if len(payload) != 4:
            raise ConnectionFault(ErrorCode.FRAME_SIZE_ERROR, "WINDOW_UPDATE: expected 4 bytes")
        self.spend()
        more = int.from_bytes(payload, "big") & frames.MAX_WINDOW
        if number:
            stream = self.stream(number)
            if stream is not None:
                self._open_window(stream, more)
            return
        if not more:
            raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "WINDOW_UPDATE: by nothing")
        self.window += more
        if self.window > frames.MAX_WINDOW:
            raise ConnectionFault(ErrorCode.FLOW_CONTROL_ERROR, "WINDOW_UPDATE: the connection's window gets too large")

    def _open_window(self, stream: Stream, more: int) -> None:
        stream.window += more
        if not more:
            self.give_up(stream, ErrorCode.PROTOCOL_ERROR)
        elif stream.window + self.initial_window > frames.MAX_WINDOW:
            self.give_up(stream, ErrorCode.FLOW_CONTROL_ERROR)
        else:
            self._widest = max(self._widest, stream.window)
            if stream.number in self._starved:
                self._ready[stream.number] = self._starved.pop(stream.number)

    def take_goaway(self, number: int, size: int) -> None:
        """The client will begin no more requests. The running ones are answered."""
        if number or size < 8:
            raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "GOAWAY: expected 8 bytes or more, for the connection")
        self.spend()

    def take_priority(self, number: int, size: int) -> None:
        """Ignore it: RFC 9113 has no priorities any more."""
        if not number:
            raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "PRIORITY: for no stream")
        if size != 5:
            raise ConnectionFault(ErrorCode.FRAME_SIZE_ERROR, "PRIORITY: expected 5 bytes")
        self.spend()

    # Streams

    def stream(self, number: int) -> Stream | None:
        """The stream, or None if it has ended. Raises ConnectionFault if it has not begun."""
        stream = self.streams.get(number)
        if stream is None and (number % 2 == 0 or (number > self.last and not self.retired)):
            raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, f"there is no stream {number}")
        return stream

    def give_up(self, stream: Stream, code: ErrorCode) -> None:
        """Reset the stream through the client's own fault. Raises ConnectionFault if there are too many of these."""
        self.reset(stream, code)
        self.spend_reset()

    # Time

    def _check_progress(self) -> None:
        """Check regularly that the client makes progress."""
        self._check_timer = self.loop.call_later(_CHECK_SECONDS, self._check_progress)
        now = self.loop.time()
        if not self._reads_answers(now):
            self._log("does not read its answers: hung up")
            self._end("the answers are not read")
        if self.discarding_input or self.transport.is_closing():
            return
        if not self._is_alive(now):
            self._log("does not answer a ping: hung up")
            self.transport.abort()
            return
        if self.unfinished_since is not None and now - self.unfinished_since > self.limits.slow_client_seconds:
            self._end("the head did not come in time")
            return
        for stream in list(self._starved.values()):
            if not self._makes_progress(stream, now):
                self._log("does not take an answer: reset")
                self.reset(stream, ErrorCode.ENHANCE_YOUR_CALM)
        for stream in list(self.streams.values()):
            stream.check()
        if self.streams or self.last != self._last_seen:
            self._busy_at, self._last_seen = now, self.last
        elif now - self._busy_at > self.limits.idle_seconds:
            self.retire()

    def _end(self, why: str) -> None:
        """Send a GOAWAY that says why, if possible, and hang up."""
        if self.transport.get_write_buffer_size():
            self.transport.abort()
        else:
            self.fail(ConnectionFault(ErrorCode.ENHANCE_YOUR_CALM, why))

    def _reads_answers(self, now: float) -> bool:
        """Whether the client reads its answers."""
        unread = self.transport.get_write_buffer_size()
        read = self.sent_bytes - unread
        if (not unread and not self._ready) or read - self._read_bytes >= MIN_BYTES_PER_SECOND * _CHECK_SECONDS:
            self._read_at = now
        self._read_bytes = read
        return now - self._read_at <= self.limits.slow_client_seconds

    def _is_alive(self, now: float) -> bool:
        """Whether the client is alive. If it is silent, it must answer a ping."""
        if self.heard or not self.greeted:
            self.heard, self._heard_at, self._asked_at = False, now, None
        elif self._asked_at is not None:
            return now - self._asked_at <= self.limits.slow_client_seconds
        elif now - self._heard_at > self.limits.silent_seconds:
            self._asked_at = now
            self.write(_ARE_YOU_THERE)
        return True

    def _makes_progress(self, stream: Stream, now: float) -> bool:
        """Whether the client opens the stream's window while there is something to send."""
        if stream.sent_bytes - stream.seen_bytes >= MIN_BYTES_PER_SECOND * _CHECK_SECONDS:
            stream.waits_since = now
        stream.seen_bytes = stream.sent_bytes
        return now - stream.waits_since <= self.limits.slow_client_seconds

    def _log(self, what: str) -> None:
        _log.info("%s %s", self.transport.get_extra_info("peername"), what)


_ACKNOWLEDGED = frames.frame(frames.SETTINGS, frames.ACK, 0)
