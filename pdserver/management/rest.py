"""TorchServe's management API over REST: register, scale, describe, list, set the default, unregister."""

from __future__ import annotations

import orjson
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute

from pdserver.errors import InvalidRequest, TooLarge
from pdserver.formats import strict_json
from pdserver.formats.strict_json import InvalidJson
from pdserver.formats.values import shown
from pdserver.http.asgi import json_response, note_change
from pdserver.management.openapi import management_api
from pdserver.management.verbs import Done, ManagementVerbs, QueryParameters
from pdserver.security.access import MANAGEMENT
from pdserver.security.routes import Route

_MAX_BODY_BYTES = 1024 * 1024


class Management:
    """The routes, which call the verbs: of a server or of a cluster."""

    def __init__(self, verbs: ManagementVerbs, *, enable_model_api: bool, cluster: bool = False) -> None:
        self._verbs = verbs
        self._enable_model_api = enable_model_api
        self._cluster = cluster

    def routes(self) -> list[BaseRoute]:
        routes: list[BaseRoute] = [
            Route("/", self.api, MANAGEMENT, ["OPTIONS"]),
            Route("/api-description", self.api, MANAGEMENT, ["GET", "OPTIONS"]),
            Route("/openapi.json", self.api, MANAGEMENT),
            Route("/models", self.list, MANAGEMENT),
            Route("/models/{name}", self.describe, MANAGEMENT),
            Route("/models/{name}/{version}", self.describe, MANAGEMENT),
            Route("/models/{name}", self.scale, MANAGEMENT, ["PUT"]),
            Route("/models/{name}/{version}", self.scale, MANAGEMENT, ["PUT"]),
            Route("/v1/models/{name}", self.ready, MANAGEMENT),
            Route("/models/{name}/{version}/set-default", self.set_default, MANAGEMENT, ["PUT"]),
        ]
        if self._enable_model_api:
            routes += [
                Route("/models", self.register, MANAGEMENT, ["POST"]),
                Route("/models/{name}", self.unregister, MANAGEMENT, ["DELETE"]),
                Route("/models/{name}/{version}", self.unregister, MANAGEMENT, ["DELETE"]),
            ]
        return routes

    async def api(self, _: Request) -> Response:
        return answer(management_api(model_api=self._enable_model_api, cluster=self._cluster))

    async def register(self, request: Request) -> Response:
        return said(request, await self._verbs.register(await parameters(request), synchronous=True))

    async def scale(self, request: Request) -> Response:
        return said(request, await self._verbs.scale(*_model(request), await parameters(request)))

    async def set_default(self, request: Request) -> Response:
        return said(request, await self._verbs.set_default(request.path_params["name"], request.path_params["version"]))

    async def unregister(self, request: Request) -> Response:
        return said(request, await self._verbs.unregister(*_model(request)))

    async def list(self, request: Request) -> Response:
        return answer(self._verbs.page(await parameters(request)))

    async def describe(self, request: Request) -> Response:
        return answer(await self._verbs.describe(*_model(request), await parameters(request)))

    async def ready(self, request: Request) -> Response:
        return answer(self._verbs.is_ready(request.path_params["name"]))


def _model(request: Request) -> tuple[str, str | None]:
    """The name and version in the path."""
    return request.path_params["name"], request.path_params.get("version")


async def parameters(request: Request) -> QueryParameters:
    """The parameters in the query and in a JSON body. Raises InvalidRequest, TooLarge."""
    given: list[tuple[str, object]] = [*request.query_params.multi_items()]
    content_type = request.headers.get("content-type", "").lower()
    if content_type.startswith("application/json"):
        given += (await _json_body(request)).items()
    elif content_type and await _has_body(request):
        raise InvalidRequest(
            f"the body is {shown(content_type)}: parameters are given in the query (?min_worker=2), or in a body of"
            " application/json"
        )
    read: dict[str, str] = {}
    for name, value in given:
        if name in read:
            raise InvalidRequest(f"parameter {shown(name)} is given twice")
        if isinstance(value, dict | list):
            raise InvalidRequest(f"{shown(name)}: expected a single value, not {shown(orjson.dumps(value).decode())}")
        if value is not None:
            read[name] = value if isinstance(value, str) else orjson.dumps(value).decode()
    return read


async def _has_body(request: Request) -> bool:
    return any([bool(chunk) async for chunk in request.stream()])


async def _json_body(request: Request) -> dict[str, object]:
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > _MAX_BODY_BYTES:
            raise TooLarge(f"the body is larger than {_MAX_BODY_BYTES:,} bytes")
    try:
        given = strict_json.loads(body)
    except InvalidJson as error:
        raise InvalidRequest(f"the body is not JSON: {error}") from None
    if not isinstance(given, dict):
        raise InvalidRequest("the body is not a JSON object of parameters")
    return given


def said(request: Request, done: Done) -> Response:
    note_change(request, done.change)
    return answer({"status": done.words}, done.status)


def answer(value: object, status: int = 200) -> Response:
    return json_response(status, orjson.dumps(value, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE))
