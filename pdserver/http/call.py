"""A call over HTTP, and how it is answered: whole, in pieces, with another node's answer, or by a refusal."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable

import msgspec

from pdserver.dialects.base import Door, Headers, Response
from pdserver.engine.queue import Call
from pdserver.errors import Kind
from pdserver.http.answer_heads import LENGTH
from pdserver.http.connection import Connection, Refusal
from pdserver.http.front import Front
from pdserver.http.passing import Answered, on_the_wire
from pdserver.peers.http import PeerAnswer
from pdserver.security.refused import Refused
from pdserver.types import Failure, Outcome, Reply, Request

_log = logging.getLogger("pdserver.http")

_COPY_BYTES = 64 * 1024
"""A larger body is written by itself rather than copied behind its head."""
_MAX_UNREAD_BYTES = 64 * 1024 * 1024
"""If a client leaves more of a streamed answer unread, the server hangs up."""
_NOT_DECODED = Request("", None, "", [])
_NOTHING = Response(0, b"", b"")


class HttpCall(Call):
    """A call over HTTP whose outcome is written to its client. It has the attributes of uvicorn's request-response
    cycle, under uvicorn's names."""

    entrypoint = "REST"
    request = _NOT_DECODED
    chunked = False
    """Whether a streamed answer can use chunks, which HTTP/1.0 does not have."""
    response_complete = False
    response_started = False
    """Whether the head of a streamed answer is written."""
    writing: asyncio.Task[None] | None = None
    """The task that writes the latest piece of a streamed answer, if that takes long."""

    def __init__(
        self, protocol: Connection, front: Front, door: Door, method: bytes, headers: Headers, request_id: str
    ) -> None:
        self.arrived = time.monotonic()
        self.protocol = protocol
        self.front = front
        self.door = door
        self.method = method
        self.target = protocol.url
        self.headers = headers
        self.id = request_id
        self.keep_alive = protocol.keep_alive

    def chunk(self, piece: Reply) -> None:
        self.write(self.door.encode_chunk(self.request, piece), self._answer_chunk)

    def settle(self, outcome: Outcome) -> None:
        self.kept = ()
        if not self.streaming:
            response = self.door.encode(self.request, outcome)
            if type(response) is Response:
                self.answer(response)
            else:
                self.write(response, self.answer)
        elif isinstance(outcome, Reply):
            self.write(self.door.encode_chunk(self.request, outcome), self._answer_last_chunk)
        else:
            self.write(_NOTHING, self.break_off)

    def write(self, response: Answered, write: Callable[[Response], None]) -> None:
        """Write the answer, or a piece of it after the pieces before it."""
        if isinstance(response, Response) and self.writing is None:
            write(response)
        else:
            self.writing = asyncio.ensure_future(self._write_in_turn(self.writing, response, write))

    async def _write_in_turn(
        self, earlier: asyncio.Task[None] | None, response: Answered, write: Callable[[Response], None]
    ) -> None:
        """Never raises."""
        if earlier is not None:
            await earlier
        try:
            write(response if isinstance(response, Response) else await response)
        except Exception as error:  # noqa: BLE001 - whatever it is, the client waits for an answer
            _log.error("%s: the answer could not be written", self.described(), exc_info=error)
            self.break_off()

    def described(self) -> str:
        """For the log."""
        model = f" for {self.request.model}" if self.request.model else ""
        return f"{self.protocol.peer}: request {self.id}{model}"

    def answer(self, response: Response) -> None:
        """Write the answer. The connection's next request then has its turn."""
        if self.response_complete:
            return
        self.response_complete = True
        self._note(response.status)
        if not self.protocol.transport.is_closing():
            self._write(response)
        self.protocol.on_response_complete()

    def answer_refused(self, refused: Refused) -> None:
        """Write why the request is refused. If it is too large, the dialect words the error."""
        if refused.status == 413:
            failure = Failure(Kind.TOO_LARGE, refused.message)
            self.write(self.door.encode(self.request, failure), self.answer)
        else:
            self.response_complete = True
            self.protocol.write_refusal(Refusal(self.protocol, refused, self.method))

    async def pass_on(self, answer: PeerAnswer, model: str) -> None:
        """Write another node's answer, as fast as the client reads it. Raises PdError."""
        self.keep_alive = self.keep_alive and (self.chunked or answer.length is not None)
        protocol, common, kept = self.protocol, self.protocol.server_state.default_headers, self.keep_alive
        async for data in on_the_wire(answer, common, self.id, kept=kept, chunked=self.chunked):
            await protocol.flow.drain()
            if protocol.transport.is_closing():
                return
            self.response_started = True
            protocol.transport.write(data)
        if not self.request.model:
            self.request = msgspec.structs.replace(self.request, model=model)
        self.response_complete = True
        self._note(answer.head.status)
        if not protocol.transport.is_closing():
            self._finish()
        protocol.on_response_complete()

    def break_off(self, _: Response = _NOTHING) -> None:
        """Close without a last chunk, so that no client takes the answer for complete."""
        self.response_complete = True
        self._note(500)
        self.protocol.transport.close()

    def _note(self, status: int) -> None:
        front = self.front
        front.statuses[status] += 1
        if front.access is not None:
            seconds, model = time.monotonic() - self.arrived, self.request.model
            front.access((time.time(), self.protocol.peer, self.method, self.target, status, seconds, self.id, model))

    def _write(self, response: Response) -> None:
        body, more = response.body, response.more
        length = len(body) if not more else len(body) + sum(map(len, more))
        head = self._head(response, LENGTH) % (self.id.encode(), length)
        transport = self.protocol.transport
        if length > _COPY_BYTES:
            transport.writelines([head, body, *more])
        elif more:
            transport.write(b"".join([head, body, *more]))
        else:
            transport.write(head + body)
        self._finish()

    def _head(self, response: Response, length: bytes) -> bytes:
        """A template of the lines before the body (`AnswerHeads.of`)."""
        kept, common = self.keep_alive, self.protocol.server_state.default_headers
        return self.front.answer_heads.of(common, response, length, kept, not self.chunked)

    def _finish(self) -> None:
        """The answer is written."""
        protocol = self.protocol
        if protocol.discarding_input and not protocol.pipeline:  # a waiting cycle would be the next request's refusal
            protocol.hang_up()
        elif not self.keep_alive:
            protocol.end()

    # Streamed answers

    def _answer_chunk(self, response: Response) -> None:
        """Write a piece of a streamed answer. The first one is preceded by the head."""
        transport = self.protocol.transport
        if transport.is_closing():
            return
        if not self.response_started:
            self.response_started = True
            self.keep_alive = self.keep_alive and self.chunked
            length = b"transfer-encoding: chunked\r\n" if self.chunked else b""
            transport.write(self._head(response, length) % self.id.encode())
        if not self.chunked:
            transport.write(response.body)
        elif response.body:
            transport.write(b"%x\r\n%b\r\n" % (len(response.body), response.body))
        if transport.get_write_buffer_size() > _MAX_UNREAD_BYTES:
            transport.abort()

    def _answer_last_chunk(self, response: Response) -> None:
        """Write the last piece of a streamed answer."""
        self._answer_chunk(response)
        self.response_complete = True
        self._note(200)
        transport = self.protocol.transport
        if not transport.is_closing():
            if self.chunked:
                transport.write(b"0\r\n\r\n")
            if not self.keep_alive:
                self.protocol.end()
        self.protocol.on_response_complete()
