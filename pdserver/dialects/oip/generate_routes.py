"""Triton's generate extension over REST: one answer as JSON, or each piece of it as a server-sent event."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncGenerator

from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from pdserver.asgi import json_response
from pdserver.dialects.oip.errors import error_json, of_inference
from pdserver.dialects.oip.generate import event, generated, read_generation
from pdserver.dialects.oip.http import failed, json_object
from pdserver.dialects.oip.inference import InferRequest
from pdserver.dialects.oip.models import find, interface_of
from pdserver.dialects.oip.protocol import OpenInference
from pdserver.dialects.request_id import request_id
from pdserver.engine.pieces import pieces
from pdserver.errors import InvalidRequest, PdError
from pdserver.security.access import INFERENCE
from pdserver.security.routes import Route
from pdserver.types import Failure, Outcome


def generate_routes(protocol: OpenInference) -> list[Route]:
    submit = protocol.engine.submit

    async def read(request: Request) -> InferRequest:
        pool = find(protocol.engine.registry, request.path_params["name"], request.path_params.get("version"))
        given = await json_object(request, protocol.limit_bytes)
        headers = request.scope["headers"]
        return read_generation(pool.spec, interface_of(pool), headers, given, request_id())

    async def generate(request: Request) -> Response:
        asked = await read(request)
        async with contextlib.aclosing(pieces(submit, asked)) as stream:
            outcomes = [outcome async for outcome in stream]
        if isinstance(outcomes[-1], Failure):
            return failed(of_inference(outcomes[-1]))
        if len(outcomes) > 1:
            raise InvalidRequest(
                "generate expects model to produce exactly 1 response, use generate stream for model that generates "
                f"various number of responses: it produced {len(outcomes)}"
            )
        return json_response(200, generated(asked, outcomes[-1]))

    async def generate_stream(request: Request) -> Response:
        asked = await read(request)
        stream = pieces(submit, asked)
        first = await anext(stream)
        if isinstance(first, Failure):
            await stream.aclose()
            return failed(of_inference(first))
        return StreamingResponse(_events(asked, first, stream), media_type="text/event-stream")

    return [
        Route(f"/v2/models/{{name}}{version}/{verb}", endpoint, INFERENCE, ["POST"])
        for version in ("", "/versions/{version}")
        for verb, endpoint in (("generate", generate), ("generate_stream", generate_stream))
    ]


async def _events(
    asked: InferRequest, first: Outcome, stream: AsyncGenerator[Outcome, None]
) -> AsyncGenerator[bytes, None]:
    """What goes wrong once the answer has begun is an event, too."""
    async with contextlib.aclosing(stream):
        yield event(_piece(asked, first))
        async for outcome in stream:
            yield event(_piece(asked, outcome))


def _piece(asked: InferRequest, outcome: Outcome) -> bytes:
    if isinstance(outcome, Failure):
        return error_json(of_inference(outcome).message)
    try:
        return generated(asked, outcome)
    except PdError as error:
        return error_json(str(error))
