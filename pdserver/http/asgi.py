"""What the server's ASGI applications share: errors as JSON, statuses counted, requests logged."""

from __future__ import annotations

import asyncio
import logging
import re
import time
from collections.abc import Sequence

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Match
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from pdserver.dialects.base import ErrorWords, retry_headers
from pdserver.dialects.rpc import LACKS_MODEL, is_forwarded
from pdserver.errors import PdError, Unavailable
from pdserver.http.passing import PassedOn, may_pass
from pdserver.logs.access import Access
from pdserver.metrics.shared import Statuses
from pdserver.peers.http import HttpPeers
from pdserver.security import changes
from pdserver.types import Failure

_log = logging.getLogger("pdserver.http")


def application(routes: Sequence[BaseRoute], words: ErrorWords, peers: HttpPeers | None = None) -> Starlette:
    """A Starlette application that writes errors in these words, and never shows a traceback. `peers` are asked for
    what is not served here."""

    async def pd_error(request: Request, error: Exception) -> Response:
        assert isinstance(error, PdError)  # noqa: S101
        if error.missing is not None and peers is not None and may_pass(peers, request, error.missing):
            return PassedOn(peers, request, error.missing, words)
        response = failed(Failure.of(error), words)
        if error.missing is not None and is_forwarded(request.scope["headers"]):
            response.headers.raw.append((LACKS_MODEL, b"1"))
        return response

    async def refused(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)  # noqa: S101
        if error.status_code in (404, 405) and (said := words.unrouted(request.method, request.scope["raw_path"])):
            return failed(Failure.of(said), words)
        response = json_response(error.status_code, words.refusal(error.status_code, error.detail))
        response.headers.update(error.headers or {})
        return response

    async def client_gone(_: Request, __: Exception) -> Response:
        return Response(status_code=400)  # nobody is there to read it

    async def internal_error(request: Request, error: Exception) -> Response:
        _log.error("%s %s failed", request.method, request.scope["path"], exc_info=error)
        return failed(Failure.internal(error), words)

    app = Starlette(
        routes=list(routes),
        middleware=[Middleware(_AnswersAtTheEnd, words)],
        exception_handlers={
            PdError: pd_error,
            HTTPException: refused,
            ClientDisconnect: client_gone,
            Exception: internal_error,
        },
    )
    # Clients don't resend a body after a redirect, and behind a proxy the redirect would name the wrong host.
    app.router.redirect_slashes = False
    return app


class _AnswersAtTheEnd:
    """Answers a request that is cancelled, since the server stops and the request took longer than it may then."""

    def __init__(self, app: ASGIApp, words: ErrorWords) -> None:
        self._app = app
        self._words = words

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        begun = False

        async def noted_send(message: Message) -> None:
            nonlocal begun
            begun = True
            await send(message)

        try:
            await self._app(scope, receive, noted_send)
        except asyncio.CancelledError:
            if begun:
                raise
            stopping = Unavailable("the server is stopping, and did not finish this in time: see later what was done")
            await failed(Failure.of(stopping), self._words)(scope, receive, send)


def failed(failure: Failure, words: ErrorWords) -> Response:
    response = json_response(*words.failure(failure))
    response.headers.raw.extend(retry_headers(failure))
    return response


def json_response(status: int, body: bytes | memoryview) -> Response:
    return Response(body, status, media_type="application/json")


class Below(BaseRoute):
    """Routes a path and everything below it, in capitals or not, to an application, which sees the whole path."""

    def __init__(self, path: str, app: Starlette) -> None:
        self.path_regex = re.compile(rf"(?i:{re.escape(path)})(?:/|\Z)")
        self._app = app
        self.routes = app.routes

    def matches(self, scope: Scope) -> tuple[Match, Scope]:
        found = scope["type"] == "http" and self.path_regex.match(scope.get("path", ""))
        return (Match.FULL if found else Match.NONE), {}

    async def handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self._app(scope, receive, send)


class Preflight:
    """Answers browsers' preflight requests. The headers that grant permission are on every answer anyway."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        asked = scope["type"] == "http" and scope["method"] == "OPTIONS"
        if asked and any(name == b"access-control-request-method" for name, _ in scope["headers"]):
            await Response(status_code=204)(scope, receive, send)
        else:
            await self._app(scope, receive, send)


def _client(scope: Scope) -> str:
    """The client's address and port."""
    return "{}:{}".format(*scope["client"]) if scope["client"] else "-"


def _id_in(scope: Scope) -> str:
    """The id that the client gave the request, or nothing."""
    return next((value.decode("latin-1") for name, value in scope["headers"] if name == b"x-request-id"), "")


def note_change(request: Request, what: str) -> None:
    """Log that the request has changed the server's state."""
    changes.note(_client(request.scope), request.scope.get("state", {}).get("token", ""), what)


class Observed:
    """Counts an application's answers by status and writes them to the access log."""

    def __init__(self, app: ASGIApp, statuses: Statuses, access: Access | None) -> None:
        self._app = app
        self._statuses = statuses
        self._access = access

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started = time.monotonic()

        async def observed_send(message: Message) -> None:
            if message["type"] == "http.response.start":
                status = message["status"]
                self._statuses[status] += 1
                if self._access is not None:
                    query = scope["query_string"]
                    target = scope["raw_path"] + (b"?" + query if query else b"")
                    seconds = time.monotonic() - started
                    client, own_id = _client(scope), _id_in(scope)
                    model = scope.get("path_params", {}).get("name", "")
                    method = scope["method"].encode()
                    self._access((time.time(), client, method, target, status, seconds, own_id, model))
            await send(message)

        await self._app(scope, receive, observed_send)
