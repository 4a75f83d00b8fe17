"""Paddle Serving's way to the key of encrypted models: a client brings it (`Client.use_key`).

    POST / {"key": key in base64} → {"endpoint_list": [port]}, the port to which predictions go then: this one

The server keeps the key in memory alone.
"""

from __future__ import annotations

import base64
import ipaddress
from typing import Protocol

import orjson
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute

from pdarchiver.encryption import checked_key
from pdserver.errors import Forbidden, InvalidRequest
from pdserver.formats import strict_json
from pdserver.http.asgi import json_response, note_change
from pdserver.security.access import MANAGEMENT
from pdserver.security.routes import Route

_MAX_BYTES = 4096


class Locked(Protocol):
    """What holds encrypted models."""

    async def use_key(self, *, key: bytes) -> None:
        """Use a key, and load what waits for it. Raises PdError. `key` is no positional argument, since those of
        changes are logged."""


def routes(locked: Locked) -> list[BaseRoute]:

    async def bring(request: Request) -> Response:
        if not is_private(request):
            raise Forbidden("a key is accepted over TLS, or from this machine alone: others could read it on the way")
        await locked.use_key(key=_key(await request.body()))
        note_change(request, "Key of encrypted models")
        return json_response(200, orjson.dumps({"endpoint_list": [request.scope["server"][1]]}))

    return [Route("/", bring, MANAGEMENT, ("POST",))]


def is_private(request: Request) -> bool:
    if request.url.scheme == "https":
        return True
    address = ipaddress.ip_address(request.client.host) if request.client else None
    return address is not None and (getattr(address, "ipv4_mapped", None) or address).is_loopback


def _key(body: bytes) -> bytes:
    """Raises InvalidRequest, which doesn't show the key."""
    expected = 'expected {"key": the key of 16, 24 or 32 bytes, in base64}'
    try:
        given = strict_json.loads(body) if len(body) <= _MAX_BYTES else None
        if isinstance(given, dict) and isinstance(given.get("key"), str):
            return checked_key(base64.b64decode(given["key"], validate=True))
    except ValueError:  # it may show the key
        pass
    raise InvalidRequest(expected)
