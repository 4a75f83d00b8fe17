"""What the protocol's routes have in common: how they read bodies and answer."""

from __future__ import annotations

import logging
from typing import Any

import orjson
from starlette.requests import Request
from starlette.responses import Response

from pdserver.dialects.base import Body, Pieces
from pdserver.dialects.compression import decompressed
from pdserver.dialects.oip.body import json_object as read_json_object
from pdserver.errors import TooLarge
from pdserver.http.asgi import json_response

_log = logging.getLogger("pdserver.http")
_MAX_PARAMETER_BYTES = 1024 * 1024
"""The limit of bodies that bring neither a model nor its inputs."""


async def json_object(request: Request) -> dict[str, Any]:
    """The body as a JSON object; empty without a body. For bodies without tensors.

    Raises InvalidRequest, TooLarge, Unsupported.
    """
    body = await received(request, _MAX_PARAMETER_BYTES, "it is no model's input")
    return read_json_object(decompressed(body, encoding_of(request), _MAX_PARAMETER_BYTES).read())


async def received(request: Request, limit_bytes: int, why: str) -> Body:
    """The body, in a memory file if it is large. `why` says in words where the limit comes from.

    Raises TooLarge, Unavailable.
    """
    pieces = Pieces()
    async for piece in request.stream():
        if pieces.size + len(piece) > limit_bytes:
            raise TooLarge(f"the body is larger than {limit_bytes:,} bytes ({why})")
        pieces.add(piece)
    return pieces.body()


def encoding_of(request: Request) -> bytes:
    return request.headers.get("content-encoding", "").encode("latin-1")


def answer(value: object, status: int = 200) -> Response:
    return json_response(status, orjson.dumps(value))


def done() -> Response:
    """The answer to a change: 200, without a body."""
    return Response(b"", 200)
