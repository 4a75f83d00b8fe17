"""A front end as the main process has it: takes its calls to the engine, and their outcomes back."""

from __future__ import annotations

import logging
import socket
from collections.abc import Callable, Sequence
from itertools import islice

from pdserver.engine.queue import Call
from pdserver.errors import Kind, PdError
from pdserver.front_ends.answers import Beside
from pdserver.front_ends.line import Line, told
from pdserver.front_ends.messages import Answer, FromFrontEnd, FromMain, Seen, Submitted, ToFrontEnd, ToMain
from pdserver.memory_file import MemoryFile
from pdserver.types import Failure, Outcome, Reply, Request
from pdserver.worker import wire
from pdserver.worker.files import LOST_INPUT

_log = logging.getLogger("pdserver.front_ends")


class RelayedCall(Call):
    """A prediction that a front end waits for."""

    held = 0
    form = ""

    def __init__(self, front_end: FrontEnd, submitted: Submitted, kept: Sequence[MemoryFile]) -> None:
        self.request: Request = submitted.request
        self.kept = kept
        self.arrived = submitted.arrived
        self.ticket = submitted.number
        self.held = submitted.held_bytes
        self.entrypoint = submitted.entrypoint
        self.form = submitted.form
        self._front_end = front_end

    @property
    def held_bytes(self) -> int:
        return self.held

    def chunk(self, piece: Reply) -> None:
        self._front_end.piece(self.ticket, piece)

    def settle(self, outcome: Outcome) -> None:
        self.kept = ()  # whoever still has the call does not need them
        self._front_end.settle(self.ticket, outcome)


def _sendable(answer: Answer) -> Answer:
    """The answer, or why it can't be sent: Python has text and numbers that MessagePack does not have."""
    number, outcome = answer
    try:
        wire.encode(outcome)
    except (ValueError, OverflowError) as error:
        return number, Failure(Kind.HANDLER, f"the answer can't be sent: {error}")
    return answer


class FrontEnd(Line):
    """`submit` is the engine's. `on_message` is given what the front end says of anything but predictions."""

    def __init__(
        self,
        sock: socket.socket,
        submit: Callable[[Call], None],
        on_message: Callable[[FrontEnd, FromFrontEnd], None],
        on_end: Callable[[FrontEnd], None],
    ) -> None:
        super().__init__(sock, ToMain, self._ended)
        self.seen = -1
        """The number of the last news that it has taken over."""
        self._submit = submit
        self._on_message = on_message
        self._on_end = on_end
        self._calls: dict[int, RelayedCall] = {}
        """Those without an outcome."""
        self._others: list[FromMain] = []
        self._fds: list[int] = []
        """Those that go with `_others`."""
        self._pieces: list[Answer] = []
        self._settled: list[Answer] = []

    # In

    def received(self, message: ToMain, files: list[MemoryFile] | None) -> None:
        if files == []:
            for submitted in message.calls:
                self._take(submitted, ())
        else:
            self._take_with_files(message.calls, files)
        for number in message.cancelled:
            call = self._calls.pop(number, None)
            if call is not None:
                call.cancel()
        for other in message.others:
            if isinstance(other, Seen):
                self.seen = other.revision
            self._on_message(self, other)

    def _take_with_files(self, calls: list[Submitted], files: list[MemoryFile] | None) -> None:
        given = None if files is None else iter(files)
        for submitted in calls:
            fds = submitted.request.files
            if given is None and fds:
                self.settle(submitted.number, LOST_INPUT)
                continue
            kept = list(islice(given, len(fds))) if given is not None else []
            fds[:] = [file.fd for file in kept]
            self._take(submitted, kept)

    def _take(self, submitted: Submitted, kept: Sequence[MemoryFile]) -> None:
        call = self._calls[submitted.number] = RelayedCall(self, submitted, kept)
        try:
            self._submit(call)
        except PdError as error:
            call.settle(Failure.of(error))
        except Exception as error:  # noqa: BLE001 - whatever it is, the client waits for an answer
            _log.exception("request %s could not be queued", call.request.id)
            call.settle(Failure.internal(error))

    # Out

    def say(self, message: FromMain, fds: Sequence[int] = ()) -> None:
        """`fds` are passed with it, and may be closed afterwards."""
        self._others.append(message)
        if fds:
            self._fds.extend(fds)
            self.flush()
        else:
            self.soon()

    def piece(self, number: int, piece: Reply) -> None:
        self._pieces.append((number, piece))
        self.soon()

    def settle(self, number: int, outcome: Outcome) -> None:
        self._calls.pop(number, None)
        self._settled.append((number, outcome))
        self.soon()

    def frame(self) -> None:
        others, self._others = self._others, []
        fds, self._fds = self._fds, []
        pieces, self._pieces = self._pieces, []
        settled, self._settled = self._settled, []
        beside = Beside()
        pieces, settled = beside.of(pieces), beside.of(settled)
        fds += beside.fds
        try:
            self._send(ToFrontEnd(others, pieces, settled), fds)
        except (ValueError, OverflowError):
            pieces, settled = list(map(_sendable, pieces)), list(map(_sendable, settled))
            self._send(ToFrontEnd(list(map(told, others)), pieces, settled), fds)

    def broken(self, why: str) -> None:
        _log.error("a front end %s", why)
        self.close()

    def _ended(self) -> None:
        calls, self._calls = self._calls, {}
        for call in calls.values():
            call.cancel()
        self._on_end(self)
