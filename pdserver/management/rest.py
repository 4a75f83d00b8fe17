"""TorchServe's management API over REST: register, scale, describe, list, set the default, unregister."""

from __future__ import annotations

from collections.abc import Mapping

import orjson
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from pdserver.asgi import json_response
from pdserver.errors import InvalidRequest
from pdserver.management.openapi import management_api
from pdserver.management.verbs import Done, Parameters, Verbs

_MAX_BODY_BYTES = 1024 * 1024


class Management:
    """The routes, over the verbs."""

    def __init__(self, verbs: Verbs, *, enable_model_api: bool) -> None:
        self._verbs = verbs
        self._enable_model_api = enable_model_api

    def routes(self) -> list[BaseRoute]:
        routes: list[BaseRoute] = [
            Route("/", self.api, methods=["OPTIONS"]),
            Route("/api-description", self.api, methods=["GET", "OPTIONS"]),
            Route("/models", self.list, methods=["GET"]),
            Route("/models/{name}", self.describe, methods=["GET"]),
            Route("/models/{name}/{version}", self.describe, methods=["GET"]),
            Route("/models/{name}", self.scale, methods=["PUT"]),
            Route("/models/{name}/{version}", self.scale, methods=["PUT"]),
            Route("/v1/models/{name}", self.ready, methods=["GET"]),
            Route("/models/{name}/{version}/set-default", self.set_default, methods=["PUT"]),
        ]
        if self._enable_model_api:
            routes += [
                Route("/models", self.register, methods=["POST"]),
                Route("/models/{name}", self.unregister, methods=["DELETE"]),
                Route("/models/{name}/{version}", self.unregister, methods=["DELETE"]),
            ]
        return routes

    async def api(self, _: Request) -> Response:
        return _answer(management_api(model_api=self._enable_model_api))

    async def register(self, request: Request) -> Response:
        return _said(await self._verbs.register(await _parameters(request), synchronous=True))

    async def scale(self, request: Request) -> Response:
        return _said(await self._verbs.scale(*_model(request), await _parameters(request)))

    async def set_default(self, request: Request) -> Response:
        return _said(self._verbs.set_default(request.path_params["name"], request.path_params["version"]))

    async def unregister(self, request: Request) -> Response:
        return _said(await self._verbs.unregister(*_model(request)))

    async def list(self, request: Request) -> Response:
        return _answer(self._verbs.page(await _parameters(request)))

    async def describe(self, request: Request) -> Response:
        return _answer(await self._verbs.describe(*_model(request), await _parameters(request)))

    async def ready(self, request: Request) -> Response:
        return _answer(self._verbs.is_ready(request.path_params["name"]))


def _model(request: Request) -> tuple[str, str | None]:
    """Name and version in the path."""
    return request.path_params["name"], request.path_params.get("version")


async def _parameters(request: Request) -> Parameters:
    """The query's parameters, or a JSON body's. Raises InvalidRequest."""
    given: Mapping[str, object] = request.query_params
    if request.headers.get("content-type", "").startswith("application/json"):
        given = await _json_body(request)
    return {
        name: value if isinstance(value, str) else orjson.dumps(value).decode()
        for name, value in given.items()
        if value is not None
    }


async def _json_body(request: Request) -> Mapping[str, object]:
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > _MAX_BODY_BYTES:
            raise InvalidRequest(f"the body is larger than {_MAX_BODY_BYTES:,} bytes")
    try:
        given = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise InvalidRequest(f"the body is not JSON: {error}") from None
    if not isinstance(given, dict):
        raise InvalidRequest("the body is not a JSON object of parameters")
    return given


def _said(done: Done) -> Response:
    return _answer({"status": done.words}, done.status)


def _answer(value: object, status: int = 200) -> Response:
    return json_response(status, orjson.dumps(value, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE))
