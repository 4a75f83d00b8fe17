"""TorchServe's call for a new token: GET /token?type=inference, with the admin's token."""

from __future__ import annotations

import asyncio

import orjson
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute

from pdserver.configuration.tokens import Scope
from pdserver.errors import InvalidRequest
from pdserver.formats.values import shown
from pdserver.http.asgi import json_response, note_change
from pdserver.security.access import ADMIN
from pdserver.security.keyring import Keyring
from pdserver.security.routes import Route


def routes(keyring: Keyring) -> list[BaseRoute]:
    async def renew(request: Request) -> Response:
        asked = request.query_params.get("type", "")
        try:
            scope = Scope(asked)
        except ValueError:
            raise InvalidRequest(f"type={shown(asked)}: expected inference, management or admin") from None
        key = await asyncio.to_thread(keyring.renew, scope)
        note_change(request, f"New token for {scope.value}")
        return json_response(200, orjson.dumps({"type": scope.value, "key": key}))

    return [Route("/token", renew, ADMIN)]
