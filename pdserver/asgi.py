"""What the server's ASGI applications share: errors as JSON, statuses counted, requests logged."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import BaseRoute
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from pdserver.dialects.torchserve.errors import RETRY_AFTER_SECONDS, RETRY_LATER, error_json, failure_json
from pdserver.errors import PdError
from pdserver.types import Failure

_log = logging.getLogger("pdserver.http")
Access = Callable[[str, bytes, bytes, int, float], None]


def application(routes: Sequence[BaseRoute]) -> Starlette:
    """A Starlette application that says what went wrong in JSON, and never how our code looks."""
    app = Starlette(
        routes=list(routes),
        exception_handlers={
            PdError: _pd_error,
            HTTPException: _http_exception,
            ClientDisconnect: client_gone,
            Exception: _internal_error,
        },
    )
    app.router.redirect_slashes = (
        False  # clients don't follow with the body, and proxies know the server by other names
    )
    return app


def json_response(status: int, body: bytes | memoryview) -> Response:
    return Response(body, status, media_type="application/json")


async def _pd_error(_: Request, error: Exception) -> Response:
    assert isinstance(error, PdError)  # noqa: S101
    response = json_response(*failure_json(Failure.of(error)))
    if error.kind in RETRY_LATER:
        response.headers["retry-after"] = str(RETRY_AFTER_SECONDS)
    return response


async def _http_exception(_: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)  # noqa: S101
    if error.status_code == 404:
        name, text = "ResourceNotFoundException", "Requested resource is not found, please refer to API document."
    elif error.status_code == 405:
        name, text = "MethodNotAllowedException", "Requested method is not allowed, please refer to API document."
    else:
        name, text = "BadRequestException", error.detail
    response = json_response(error.status_code, error_json(error.status_code, name, text))
    response.headers.update(error.headers or {})
    return response


async def client_gone(_: Request, __: Exception) -> Response:
    """Nobody is there to read this."""
    return Response(status_code=400)


async def _internal_error(request: Request, error: Exception) -> Response:
    _log.error("%s %s failed", request.method, request.scope["path"], exc_info=error)
    return json_response(500, error_json(500, "InternalServerException", Failure.internal(error).message))


class Preflight:
    """Answers the browsers that ask whether a page may do something; the headers that say so are on every answer."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        asked = scope["type"] == "http" and scope["method"] == "OPTIONS"
        if asked and any(name == b"access-control-request-method" for name, _ in scope["headers"]):
            await Response(status_code=204)(scope, receive, send)
        else:
            await self._app(scope, receive, send)


class Observed:
    """Counts an application's answers by status, and writes them to the access log."""

    def __init__(self, app: ASGIApp, statuses: dict[int, int], access: Access | None) -> None:
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
                    client = "{}:{}".format(*scope["client"]) if scope["client"] else "-"
                    query = scope["query_string"]
                    target = scope["raw_path"] + (b"?" + query if query else b"")
                    self._access(client, scope["method"].encode(), target, status, time.monotonic() - started)
            await send(message)

        await self._app(scope, receive, observed_send)
