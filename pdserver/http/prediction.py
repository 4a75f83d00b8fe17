"""One prediction on one connection: its body comes, is decoded, and is queued here or passed on to another node."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
from collections.abc import Sequence
from functools import partial

from pdserver.dialects.base import Body, Decode, Headers
from pdserver.dialects.rpc import is_forwarded
from pdserver.errors import Missing, PdError, Unavailable
from pdserver.http.call import HttpCall
from pdserver.http.connection import NoEvent
from pdserver.http.passing import sent_headers, told_missing, with_token
from pdserver.memory_file import THRESHOLD_BYTES, MemoryFile
from pdserver.peers.http import Asked, HttpPeers
from pdserver.security.refused import Refused
from pdserver.types import Failure, Request

_log = logging.getLogger("pdserver.http")

_RETRY = ((b"retry-after", b"1"),)


class Prediction(HttpCall):
    """One prediction on one connection."""

    kept: Sequence[MemoryFile] = ()
    body: list[bytes]
    """The pieces of the body that have come, unless it is large. One that came whole with its head has none."""
    message_event = NoEvent()
    body_bytes = 0
    decode: Decode | None = None
    """What has decoded the body, once it is here."""
    file: MemoryFile | None = None
    """Holds the body once it is large, until it is decoded."""
    reading: asyncio.Task[Request] | None = None
    """The task that decodes a large body."""
    received = False
    """Whether the whole body is here."""
    refused: Refused | None = None
    turn = False
    """Whether all earlier requests of the connection are answered."""
    sent: bytes | tuple[Headers, bytes | None] = b""
    """If it may be passed on: the whole request, or its headers and its token."""
    passing: asyncio.Task[None] | None = None
    """The task that has another node answer."""

    def __repr__(self) -> str:
        states = [name for name in ("received", "turn", "cancelled", "response_complete") if getattr(self, name)]
        return f"<Prediction {self.id} {self.method!r} {self.target!r}: {', '.join(states) or 'begun'}>"

    @property
    def disconnected(self) -> bool:
        return self.cancelled

    @disconnected.setter
    def disconnected(self, value: bool) -> None:
        assert value, "who has left does not come back"  # noqa: S101
        self.cancel()
        for task in (self.reading, self.passing):
            if task is not None:
                task.cancel()

    @property
    def held_bytes(self) -> int:
        return self.body_bytes

    # Its body

    def receive(self, data: bytes) -> None:
        """Take a piece of the body. Raises Refused when there is no room for it."""
        self.body_bytes += len(data)
        try:
            if self.file is not None:
                self.file.append(data)
                return
            self.body.append(data)
            if self.body_bytes >= THRESHOLD_BYTES:
                pieces, self.body = self.body, []
                self.file = MemoryFile(pieces)
        except Unavailable as error:
            raise Refused(503, str(error), _RETRY) from None

    def refuse(self, refused: Refused) -> None:
        """Refuse the request, whatever part of it has come."""
        self.refused = refused
        self.received = True
        self.keep_alive = False
        self.body = []
        self.file = None
        self.begin_when_ready()

    # Its turn

    def begin_turn(self) -> None:
        self.turn = True
        self.begin_when_ready()

    def begin_when_ready(self) -> None:
        """Submit the request once its whole body is here and it is its turn."""
        if not (self.received and self.turn) or self.response_complete:
            return
        if self.refused is not None:
            self.answer_refused(self.refused)
            return
        pieces, self.body = self.body, []
        file, self.file = self.file, None
        try:
            if file is not None:
                file.seal()
            decode = self.door.prepare(self.target, self.headers)
        except Exception as error:  # noqa: BLE001 - whatever it is, the client waits for an answer
            self._fail(error)
        else:
            self.begin(decode, Body(pieces[0] if len(pieces) == 1 else b"".join(pieces), file))

    def begin(self, decode: Decode, body: Body) -> None:
        """Decode the request, and submit it."""
        self.decode = decode
        try:
            request = decode(self.headers, body, self.id)
            if isinstance(request, Request):
                self._submit(request, body)
            else:
                self.reading = request
                request.add_done_callback(partial(self._read, body))
        except Exception as error:  # noqa: BLE001 - the same
            self._fail(error, body)

    def _submit(self, request: Request, body: Body) -> None:
        """Queue the request. Raises PdError."""
        self.request = request
        self.kept = body.kept
        self.front.submit(self)

    def _read(self, body: Body, reading: asyncio.Task[Request]) -> None:
        """Submit a request whose decoding task has ended."""
        self.reading = None
        error = None if reading.cancelled() else reading.exception()
        if self.cancelled:
            return
        if error is not None:  # not raised here: its traceback would keep this frame, and with it the body's files
            self._fail(error, body)
            return
        self.body_bytes = sum(os.fstat(file.fd).st_size for file in body.kept)
        try:
            self._submit(reading.result(), body)
        except Exception as refused:  # noqa: BLE001 - the same
            self._fail(refused, body)

    def _fail(self, error: BaseException, body: Body | None = None) -> None:
        """The request could not be queued, or passed on."""
        if isinstance(error, PdError):
            try:
                if error.missing is None or body is None:
                    self.settle(Failure.of(error))
                else:
                    self._lack(error, error.missing, body)
                return
            except Exception as unwritable:  # noqa: BLE001
                error = unwritable
        _log.error("%s could not be read, queued or passed on", self.described(), exc_info=error)
        self.settle(Failure.internal(error))

    # What is not served here

    def _lack(self, error: PdError, missing: Missing, body: Body) -> None:
        """What the request asks for is not served here."""
        peers = self.front.peers
        if peers is not None and peers.takes(missing, self.headers):
            sent = self.sent
            headers = sent_headers(sent) if isinstance(sent, bytes) else with_token(*sent)
            asked = Asked(missing, self.method, self.target, headers, body, self.arrived, self.id)
            self.kept = ()  # `asked` has the body, until the other node has it
            self.passing = asyncio.ensure_future(self._pass(peers, asked))
        elif is_forwarded(self.headers):
            self.write(told_missing(self.door.encode(self.request, Failure.of(error))), self.answer)
        else:
            self.settle(Failure.of(error))

    async def _pass(self, peers: HttpPeers, asked: Asked) -> None:
        model = asked.missing.model
        try:
            answer = await peers.ask(asked)
            del asked  # a slow client need not hold the body of its request
            with contextlib.closing(answer):
                await self.pass_on(answer, model)
        except Exception as error:  # noqa: BLE001 - the same
            if self.response_started:
                self.break_off()
            else:
                self._fail(error)
