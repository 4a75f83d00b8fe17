"""A client's connection. It begins the calls that come, as many as may run at a time, and answers each as it is done.

Everything that a client can send has a limit. What is wrong with one call is answered as that call's error. What leaves
open where the next frame begins is answered, too, and ends the connection.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Sequence

from pdserver.prpc import frames
from pdserver.prpc.call import PrpcCall
from pdserver.prpc.errors import Errno
from pdserver.prpc.frames import Fault, Frame, Reader
from pdserver.prpc.port import PrpcPort

_log = logging.getLogger("pdserver.prpc")
_MAX_CALLS = 1024
"""Calls of one connection that may run. As long as there are so many, nothing more is read."""
_FRAMES_IN_A_ROW = 32
"""Frames that are begun before others have their turn."""
_CHECK_SECONDS = 1.0
_MIN_BYTES_PER_SECOND = 256
"""A client that sends a frame or reads an answer more slowly than this for `slow_client_seconds` is given up."""
_FAREWELL_SECONDS = 0.5
"""Time for frames that are on their way when the server stops."""
_LINGER_SECONDS = 2.0
_COPY_BYTES = 64 * 1024
"""The pieces of a larger answer are written one by one."""
_NOTHING, _FRAME, _CALL, _ANSWER = range(4)
"""What a client owes: nothing; the rest of a frame; its next call; to read its answers."""


class PrpcConnection(asyncio.Protocol):
    """A connection of a `PrpcPort`."""

    transport: asyncio.Transport

    def __init__(self, port: PrpcPort) -> None:
        self.port = port
        self.loop = asyncio.get_running_loop()
        self.host = self.client = "-"
        self.authorization: bytes | None = None
        self._reader = Reader(port.limits.max_message_bytes)
        self._calls: set[PrpcCall] = set()
        """Those that run."""
        self._data = b""
        """Received data that are not read yet, from `_place` on."""
        self._place = 0
        self._reading = self._turn_is_due = self._paused = False
        """Whether data are being read; whether that is about to go on; whether nothing more is received."""
        self._writable = True
        self._retired = self._discarding = False
        """Whether new calls are turned away, because the server stops; whether further data are thrown away."""
        self._held_bytes = 0
        """What the frame that is coming has of the memory for requests."""
        self._held_by_all_bytes = 0
        """The same, with what calls have."""
        self._owed = _FRAME
        self._since = self.loop.time()
        self._received_bytes = self._seen_bytes = 0
        """Now, and at the last check: bytes that were received."""
        self._unread_bytes = 0
        """Bytes of answers that were unread at the last check."""
        self._timers: list[asyncio.TimerHandle] = []
        self._check_timer: asyncio.TimerHandle | None = None

    # What the transport calls

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        self.transport = transport
        peer = transport.get_extra_info("peername")  # None: the client has left already
        if peer:
            self.host, self.client = peer[0], f"{peer[0]}:{peer[1]}"
        self.port.connections.add(self)
        self._check_timer = self.loop.call_later(_CHECK_SECONDS, self._check_progress)

    def connection_lost(self, exc: Exception | None) -> None:
        self._discarding = True
        for timer in (*self._timers, self._check_timer):
            if timer is not None:
                timer.cancel()
        for call in list(self._calls):
            call.abandon()
        self._drop_data()
        self.port.connections.discard(self)

    def eof_received(self) -> None:
        """The client has left: one that waits for answers keeps its side open, as all of brpc's do. The transport
        closes."""

    def pause_writing(self) -> None:
        self._writable = False

    def resume_writing(self) -> None:
        self._writable = True
        self._go_on()

    def data_received(self, data: bytes) -> None:
        if self._discarding:
            return
        self._received_bytes += len(data)
        if self._data:  # it came although nothing more is received
            data = self._data[self._place :] + data
        self._data, self._place = data, 0
        if not self._turn_is_due:
            self._read()

    # Reading

    def _read(self) -> None:
        """Begin the calls that have come, as long as there is room and time for them."""
        self._reading = True
        try:
            for _ in range(_FRAMES_IN_A_ROW):
                if self._place == len(self._data) or len(self._calls) >= _MAX_CALLS or not self._writable:
                    break
                frame, self._place = self._reader.take(self._data, self._place)
                if frame is not None:
                    self._begin(frame)
            if self._reader.got > self._held_bytes:
                self._hold_frame()
        except Fault as fault:
            self._refuse(fault)
        self._reading = False
        if self._place == len(self._data):
            self._data, self._place = b"", 0
        if self._data or self._paused or not self._has_room():
            self._go_on()

    def _has_room(self) -> bool:
        return len(self._calls) < _MAX_CALLS and self._writable

    def _go_on(self) -> None:
        """Read what has come in the next turn, if there is room. Receive more once that is read."""
        if self._reading or self.transport.is_closing():
            return
        waits = bool(self._data) or not self._has_room()
        if waits != self._paused and not self._discarding:
            self._paused = waits
            if waits:
                self.transport.pause_reading()
            else:
                self.transport.resume_reading()
        if self._data and self._has_room() and not self._turn_is_due:
            self._turn_is_due = True
            self.loop.call_soon(self._turn)

    def _turn(self) -> None:
        self._turn_is_due = False
        if not self._discarding:
            self._read()

    def _begin(self, frame: Frame) -> None:
        meta = frame.meta
        if self._held_bytes:
            self.hold(-self._held_bytes, 0)
            self._held_bytes = 0
        shown = meta.user_fields.get("authorization", "").encode() or meta.authentication_data
        if shown:
            self.authorization = shown if shown[:7].lower() == b"bearer " else b"Bearer " + shown
        call = PrpcCall(self, meta)
        self._calls.add(call)
        if self._retired:
            call.turn_away()
        else:
            call.begin(frame.body)

    def _hold_frame(self) -> None:
        """Reserve memory for what has come of a frame, which is more than before. Raises Fault."""
        more = self._reader.got - self._held_bytes
        if not self.hold(more, self._held_bytes):
            said = "other requests that are being received take all of receive_buffer_bytes; try again in a moment"
            raise Fault(Errno.ELIMIT, said, self._reader.meta.correlation_id)
        self._held_bytes += more

    # What calls do

    def unread_bytes(self) -> int:
        """Bytes of answers that the client has not read."""
        return 0 if self.transport.is_closing() else self.transport.get_write_buffer_size()

    def send(self, pieces: Sequence[bytes]) -> None:
        if self.transport.is_closing():
            return
        if len(pieces) == 1:
            self.transport.write(pieces[0])
        elif sum(map(len, pieces)) <= _COPY_BYTES:
            self.transport.write(b"".join(pieces))
        else:
            self.transport.writelines(pieces)

    def hold(self, more_bytes: int, own_bytes: int) -> bool:
        """Reserve more memory for a request that has `own_bytes` already; a negative number returns it. False if there
        is not enough."""
        if more_bytes < 0:
            self.port.memory.give_back(-more_bytes)
        else:
            alone = self._held_by_all_bytes == own_bytes
            if not alone and self._held_by_all_bytes + more_bytes > self.port.limits.max_held_bytes:
                return False
            if not self.port.memory.take(more_bytes, own_bytes):
                return False
        self._held_by_all_bytes += more_bytes
        return True

    def ended(self, call: PrpcCall) -> None:
        """The call has been answered, or nobody waits for the answer."""
        self._calls.discard(call)
        if self._discarding or self._retired:
            self._close_when_done()
        elif self._paused or self._data:
            self._go_on()

    # The end

    def shutdown(self) -> None:
        """The server stops. Calls that run, and frames that are on their way, are still answered. Later ones are turned
        away, so that brpc's clients ask another server."""
        self._timers.append(self.loop.call_later(_FAREWELL_SECONDS, self._retire))

    def _retire(self) -> None:
        if self._reader.amid or self._data:
            self.shutdown()
        else:
            self._retired = True
            self._close_when_done()

    @property
    def is_busy(self) -> bool:
        """Whether calls run, or a frame has begun to come."""
        return bool(self._calls or self._reader.amid or self._data)

    def _close_when_done(self) -> None:
        """Close once all calls are answered."""
        if self._calls or self.transport.is_closing():
            return
        if not self._discarding:
            self.transport.close()
        elif self.transport.can_write_eof():
            self.transport.write_eof()

    def _refuse(self, fault: Fault) -> None:
        """Say why nothing more is read, and hang up when all calls are answered. The sending side closes first: closing
        at once would reset the connection while the client still sends, and the client would lose the answers."""
        self.send([frames.refusal(fault.correlation_id, fault.errno, fault.message)])
        if self.port.access is not None:
            self.port.access((time.time(), self.client, b"PRPC", b"-", fault.errno.name, 0.0, "", ""))
        self._discarding = True
        self._drop_data()
        if self._paused and not self.transport.is_closing():
            self._paused = False
            self.transport.resume_reading()
        self._linger()
        self._close_when_done()

    def _linger(self) -> None:
        """Close in a while, when all calls are answered."""
        if self._calls:
            self._timers.append(self.loop.call_later(_LINGER_SECONDS, self._linger))
        else:
            self._timers.append(self.loop.call_later(_LINGER_SECONDS, self.transport.close))

    def _drop_data(self) -> None:
        self._data, self._place = b"", 0
        if self._held_bytes:
            self.hold(-self._held_bytes, 0)
            self._held_bytes = 0

    # Time

    def _check_progress(self) -> None:
        """Check regularly that the client makes progress."""
        self._check_timer = self.loop.call_later(_CHECK_SECONDS, self._check_progress)
        now, unread = self.loop.time(), self.unread_bytes()
        received = self._received_bytes - self._seen_bytes
        owed, progress, least = _NOTHING, 0, 0
        if unread:
            owed, progress, least = _ANSWER, self._unread_bytes - unread, _MIN_BYTES_PER_SECOND
        elif self._reader.amid and not (self._paused or self._discarding):
            owed, progress, least = _FRAME, received, _MIN_BYTES_PER_SECOND
        elif not (self._calls or self._discarding):
            owed, progress, least = _CALL, received, 1
        self._seen_bytes, self._unread_bytes = self._received_bytes, unread
        limits = self.port.limits
        patience = limits.idle_seconds if owed == _CALL else limits.slow_client_seconds
        if owed != self._owed or progress >= least:
            self._owed, self._since = owed, now
        elif now - self._since > patience:
            self._give_up(patience)

    def _give_up(self, patience: float) -> None:
        if self._owed == _ANSWER:
            _log.info("%s does not read its answers: hung up", self.client)
            self.transport.abort()
        elif self._owed == _FRAME and self._reader.meta is not None:
            came = f"the message stopped after {self._reader.got:,} bytes"
            slow = f"less than {_MIN_BYTES_PER_SECOND} bytes a second for {patience:g} s"
            self._refuse(Fault(Errno.EREQUEST, f"{came}: {slow}", self._reader.meta.correlation_id))
        else:
            self.transport.close()
