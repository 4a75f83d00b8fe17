"""The engine as a front end has it: a copy of its catalogue, and calls that go to the main process."""

from __future__ import annotations

import asyncio
import itertools
import logging
import socket
from collections.abc import Callable, Sequence
from typing import Any

from pdserver.dialects.oip.shared_memory import Region
from pdserver.engine.catalogue import ServedVersion
from pdserver.engine.queue import Call, ask
from pdserver.errors import InvalidRequest, Kind, Missing, Unavailable, Unsupported, VersionNotFound
from pdserver.front_ends.line import Line, told
from pdserver.front_ends.messages import (
    Answer,
    FromFrontEnd,
    FromMain,
    News,
    NoRegion,
    RegionGone,
    RegionNews,
    Seen,
    Submitted,
    ToFrontEnd,
    ToMain,
)
from pdserver.front_ends.mirror import Mirror
from pdserver.memory_file import MemoryFile, copy, view
from pdserver.metrics.counters import Totals
from pdserver.system import descriptors
from pdserver.types import Failure, ModelRef, Outcome, Request
from pdserver.worker import files, wire

_log = logging.getLogger("pdserver.front_ends")


class RemoteEngine(Line):
    """An `InferenceEngine`. `on_message` is given what the main process says of anything but predictions."""

    def __init__(self, sock: socket.socket, on_message: Callable[[FromMain], None], ended: Callable[[], None]) -> None:
        super().__init__(sock, ToFrontEnd, ended)
        self.mirror = Mirror()
        self.mirror.regions.on_change = self._region_changed
        self.catalogue = self.mirror.catalogue
        self._on_message = on_message
        self._numbers = itertools.count(1)
        self._calls: dict[int, Call] = {}
        """Those without an outcome."""
        self._fewer = asyncio.Event()
        """Set when there may be fewer of them."""
        self._new: list[Call] = []
        self._cancelled: list[int] = []
        self._others: list[FromFrontEnd] = []

    # As the dialects have it

    def submit(self, call: Call) -> None:
        request = call.request
        try:
            served = self.catalogue.asked(request.model, request.version)
        except VersionNotFound:
            if ModelRef(request.model, request.version or "") not in self.catalogue.leaving:
                raise
        else:
            self._check(served)
        call.ticket = number = next(self._numbers)
        call.queue = self
        self._calls[number] = call
        self._new.append(call)
        self.soon()

    def _check(self, served: ServedVersion) -> None:
        """Raises Unavailable if the main process would refuse a request, and another server may answer it."""
        ref = served.spec.ref
        missing = Missing(ref.name, ref.version)
        if served.unavailable and self.catalogue.elsewhere.serves(missing):
            raise Unavailable(served.unavailable, missing)

    def drop(self, call: Call) -> bool:
        """Nobody needs the call's outcome any more."""
        if self._calls.pop(call.ticket, None) is None:
            return False
        self._cancelled.append(call.ticket)
        self._fewer.set()
        self.soon()
        return True

    async def ask(self, request: Request, kept: Sequence[MemoryFile] = ()) -> Outcome:
        return await ask(self.submit, request, kept)

    async def settled(self) -> None:
        """Wait until no call is without an outcome."""
        while self._calls:
            self._fewer.clear()
            await self._fewer.wait()

    def statistics(self, ref: ModelRef) -> Totals:
        raise Unsupported("the statistics are the main process's, which answers whoever asks for them")

    # Out

    def say(self, message: FromFrontEnd) -> None:
        self._others.append(message)
        self.soon()

    def frame(self) -> None:
        others, self._others = self._others, []
        new, self._new = self._new, []
        cancelled, self._cancelled = self._cancelled, []
        calls = [call for call in new if not call.cancelled]
        try:
            self._send(ToMain(others, list(map(_submitted, calls)), cancelled), _fds(calls))
        except (ValueError, OverflowError):
            calls = self._sendable(calls)
            self._send(ToMain(list(map(told, others)), list(map(_submitted, calls)), cancelled), _fds(calls))

    def _sendable(self, calls: list[Call]) -> list[Call]:
        """The calls that can be sent. The others fail: JSON has text and numbers that MessagePack does not have."""
        sendable = []
        for call in calls:
            try:
                wire.encode(_submitted(call))
            except (ValueError, OverflowError) as unsendable:
                refused = InvalidRequest(f"the request can't be passed to a worker: {unsendable}")
                self._settle(call.ticket, Failure.of(refused))
            else:
                sendable.append(call)
        return sendable

    # In

    def received(self, message: ToFrontEnd, files_: list[MemoryFile] | None) -> None:
        for other in message.others:
            if not isinstance(other, News | RegionNews | NoRegion):
                self._on_message(other)
                continue
            self.mirror.take(other, files_.pop(0) if files_ and isinstance(other, RegionNews) else None)
            self.say(Seen(other.revision))
        if files_ != []:
            contents = None if files_ is None else list(map(_contents, files_))
            _put_in_place(message.pieces, contents)
            _put_in_place(message.settled, contents)
        for number, piece in message.pieces:
            self._piece(number, piece)
        for number, outcome in message.settled:
            self._settle(number, outcome)
        self._fewer.set()

    def _piece(self, number: int, piece: Outcome) -> None:
        call = self._calls.get(number)
        if call is None:
            return
        if isinstance(piece, Failure):  # it was lost on the way
            self.drop(call)
            call.settle(piece)
            return
        call.streaming = True
        call.chunk(piece)
        if call.cancelled:
            self.drop(call)

    def _settle(self, number: int, outcome: Outcome) -> None:
        call = self._calls.pop(number, None)
        if call is None:
            return
        try:
            call.settle(outcome)
        except Exception as error:  # noqa: BLE001 - an answer that can't be written is not its neighbours' fault
            _log.exception("the answer to request %s could not be written", call.request.id)
            call.settle(Failure(Kind.HANDLER, f"the answer could not be written: {type(error).__name__}"))

    def _region_changed(self, name: str, region: Region | None) -> None:
        if region is None:
            self.say(RegionGone(name))

    def broken(self, why: str) -> None:
        _log.error("the main process %s", why)
        self.close()


def _fds(calls: list[Call]) -> list[int]:
    return [fd for call in calls for fd in call.request.files]


def _submitted(call: Call) -> Submitted:
    request: Any = call.request
    return Submitted(call.ticket, request, call.arrived, call.held_bytes, call.entrypoint, call.form)


def _contents(file: MemoryFile) -> bytes:
    contents = view(file.fd) if descriptors.are_plenty(file.fd) else copy(file.fd)
    return contents  # type: ignore[return-value]


def _put_in_place(answers: list[Answer], contents: list[bytes] | None) -> None:
    outcomes: list[Outcome] = [outcome for _, outcome in answers]
    files.put_answers_in_place(outcomes, contents)
    answers[:] = [(number, outcome) for (number, _), outcome in zip(answers, outcomes, strict=True)]
