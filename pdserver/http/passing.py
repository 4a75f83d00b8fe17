"""Requests for what is not served here: another node answers them, and its answers go to this one's clients."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncGenerator

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send
from uvicorn.protocols.http.httptools_impl import STATUS_LINE

from pdserver.dialects import base
from pdserver.dialects.base import ErrorWords, Headers, Pieces, retry_headers
from pdserver.dialects.request_id import request_id
from pdserver.dialects.rpc import LACKS_MODEL
from pdserver.errors import Missing, PdError
from pdserver.peers.http import Asked, HttpPeers, NodeFailed, PeerAnswer
from pdserver.types import Failure

SENT = "sent"
"""In the state of an ASGI scope: the headers of a request that may be passed on, with its token."""
Answered = base.Response | asyncio.Task[base.Response]
_ADDED = frozenset({b"x-request-id", b"cache-control"})
"""Headers that every answer to a prediction has already."""


def sent_headers(data: bytes) -> Headers:
    """The headers at the beginning of a whole request, which was parsed before and found sound."""
    lines = data[: data.index(b"\r\n\r\n")].split(b"\r\n")[1:]
    parts = (line.partition(b":") for line in lines)
    return [(name.lower(), value.strip(b" \t")) for name, _, value in parts]


def with_token(headers: Headers, authorization: bytes | None) -> Headers:
    """The headers with the token, which has been taken out of them if the server asks for tokens."""
    token = b"authorization", authorization
    return headers if authorization is None or token in headers else [*headers, (token[0], authorization)]


def told_missing(response: Answered) -> Answered:
    """An answer that tells the node that has passed the request on that the model is not here either."""
    if isinstance(response, asyncio.Task):
        return response
    return msgspec.structs.replace(response, headers=[*response.headers, (LACKS_MODEL, b"1")])


async def on_the_wire(
    answer: PeerAnswer, common: Headers, id: str, *, kept: bool, chunked: bool
) -> AsyncGenerator[bytes, None]:
    """What is written to a client of HTTP/1.1: the head, with the first piece of the body, and the other pieces.

    `common` are the headers of all answers. `kept`: whether the connection is. `chunked`: whether the client knows
    chunks; if not, the end of the connection is the end of an answer without a length. Raises PdError.
    """
    own = {name for name, _ in common} | _ADDED
    head = [b"HTTP/1.1 %d %b\r\n" % (answer.head.status, answer.head.reason)]
    headers = [*common, (b"cache-control", b"no-store"), (b"x-request-id", id.encode())]
    headers += [header for header in answer.headers if header[0] not in own]
    in_chunks = answer.length is None and chunked and answer.has_body
    if answer.length is not None:
        headers.append((b"content-length", b"%d" % answer.length))
    elif in_chunks:
        headers.append((b"transfer-encoding", b"chunked"))
    if not kept or not chunked:
        headers.append((b"connection", b"keep-alive" if kept else b"close"))
    head += [b"%b: %b\r\n" % header for header in headers]
    begun = b"".join([*head, b"\r\n"])
    async for piece in answer.pieces():
        yield begun + (b"%x\r\n%b\r\n" % (len(piece), piece) if in_chunks else piece)
        begun = b""
    if begun or in_chunks:
        yield begun + (b"0\r\n\r\n" if in_chunks else b"")


class PassedOn(Response):
    """Another node's answer, in place of an error of an ASGI application."""

    def __init__(self, peers: HttpPeers, request: Request, missing: Missing, words: ErrorWords) -> None:
        self._peers = peers
        self._request = request
        self._missing = missing
        self._words = words
        self._arrived = time.monotonic()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        pieces = Pieces()
        async for piece in self._request.stream():
            pieces.add(piece)
        passing = asyncio.ensure_future(self._pass(pieces, scope, receive, send))
        leaving = asyncio.ensure_future(_left(receive))
        try:
            await asyncio.wait([passing, leaving], return_when=asyncio.FIRST_COMPLETED)
            if passing.done():
                passing.result()
        finally:
            for task in (passing, leaving):
                task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await passing

    async def _pass(self, pieces: Pieces, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            answer = await self._peers.ask(self._asked(pieces, scope))
            if answer.head.status not in STATUS_LINE:
                answer.close()
                raise NodeFailed(f"the node that answers has the status {answer.head.status}, which is none")
        except PdError as error:
            failure = Failure.of(error)
            status, body = self._words.failure(failure)
            response = Response(body, status, media_type="application/json")
            response.headers.raw.extend(retry_headers(failure))
            await response(scope, receive, send)
            return
        with contextlib.closing(answer):
            headers = list(answer.headers)
            if answer.length is not None and answer.has_body:
                headers.append((b"content-length", b"%d" % answer.length))
            await send({"type": "http.response.start", "status": answer.head.status, "headers": headers})
            with contextlib.suppress(PdError):  # the server then closes the connection: the answer is not complete
                async for piece in answer.pieces():
                    await send({"type": "http.response.body", "body": piece, "more_body": True})
                await send({"type": "http.response.body", "body": b"", "more_body": False})

    def _asked(self, pieces: Pieces, scope: Scope) -> Asked:
        headers: Headers = scope["state"][SENT]
        query = scope["query_string"]
        return Asked(
            self._missing,
            scope["method"].encode(),
            scope["raw_path"] + (b"?" + query if query else b""),
            headers,
            pieces.body(),
            self._arrived,
            request_id(dict(headers).get(b"x-request-id", b"")),
        )


def may_pass(peers: HttpPeers, request: Request, missing: Missing) -> bool:
    """Whether another node is to be asked in place of an application that lacks this. A body that the application has
    read can't be sent again."""
    headers: Headers | None = request.scope.get("state", {}).get(SENT)
    read = getattr(request, "_stream_consumed", False)
    return headers is not None and not read and peers.takes(missing, headers)


async def _left(receive: Receive) -> None:
    """Until the client has left."""
    while (await receive())["type"] != "http.disconnect":
        pass
