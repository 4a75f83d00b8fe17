"""Triton's generate extension over REST: one answer as JSON, or each piece of it as a server-sent event."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncGenerator

from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from pdserver.dialects.beside import request_by, slim
from pdserver.dialects.codec import LARGE_BYTES
from pdserver.dialects.compression import soon_decompressed
from pdserver.dialects.oip.body import json_object
from pdserver.dialects.oip.errors import WORDS, error_json, of_inference
from pdserver.dialects.oip.generate import event, generated, read_generation
from pdserver.dialects.oip.http import encoding_of, received
from pdserver.dialects.oip.large import GENERATE, WRITE_GENERATED, Generation, beside
from pdserver.dialects.oip.protocol import OpenInference
from pdserver.dialects.oip.request import InferRequest
from pdserver.dialects.request_id import request_id
from pdserver.engine.catalogue import interface_of
from pdserver.engine.pieces import pieces
from pdserver.errors import InvalidRequest, PdError
from pdserver.http.asgi import failed, json_response
from pdserver.memory_file import MemoryFile, view
from pdserver.security.access import PREDICTION
from pdserver.security.routes import Route
from pdserver.types import Failure, Outcome, Reply


def generate_routes(protocol: OpenInference) -> list[Route]:
    calls = _Generate(protocol)
    return [
        Route(f"/v2/models/{{name}}{version}/{verb}", endpoint, PREDICTION, ["POST"])
        for version in ("", "/versions/{version}")
        for verb, endpoint in (("generate", calls.generate), ("generate_stream", calls.generate_stream))
    ]


class _Generate:
    def __init__(self, protocol: OpenInference) -> None:
        self._find = protocol.find
        self._submit = protocol.engine.submit
        self._codec = protocol.codec
        self._limit_bytes = protocol.limit_bytes

    async def generate(self, request: Request) -> Response:
        asked, files = await self._read(request)
        async with contextlib.aclosing(pieces(self._submit, asked, files)) as stream:
            outcomes = [outcome async for outcome in stream]
        if isinstance(outcomes[-1], Failure):
            return failed(of_inference(outcomes[-1]), WORDS)
        if len(outcomes) > 1:
            raise InvalidRequest(
                "generate expects model to produce exactly 1 response, use generate stream for model that generates "
                f"various number of responses: it produced {len(outcomes)}"
            )
        return json_response(200, await self._written(asked, outcomes[-1]))

    async def generate_stream(self, request: Request) -> Response:
        asked, files = await self._read(request)
        stream = pieces(self._submit, asked, files)
        first = await anext(stream)
        if isinstance(first, Failure):
            await stream.aclose()
            return failed(of_inference(first), WORDS)
        return StreamingResponse(self._events(asked, first, stream), media_type="text/event-stream")

    async def _read(self, request: Request) -> tuple[InferRequest, list[MemoryFile]]:
        """The request, and its files."""
        served = self._find(request.path_params["name"], request.path_params.get("version"))
        spec, interface, limit_bytes = served.spec, interface_of(served), self._limit_bytes
        headers, encoding = request.scope["headers"], encoding_of(request)
        body = await received(request, limit_bytes, "max_request_size")
        plain = soon_decompressed(body, encoding, limit_bytes)
        if plain is None or plain.is_large:
            given = Generation(slim(spec), interface, headers, body.data, request_id(), encoding, limit_bytes)
            return await request_by(self._codec, GENERATE, given, body.files, limit_bytes if encoding else 0)
        return read_generation(spec, interface, headers, json_object(plain.data), request_id()), []

    async def _written(self, asked: InferRequest, reply: Reply) -> bytes | memoryview:
        if sum(len(tensor.data) for tensor in reply.tensors) < LARGE_BYTES:
            return generated(asked, reply)
        _, files = await self._codec.run(WRITE_GENERATED, *await beside(self._codec, asked, reply))
        return view(files[0].fd)

    async def _events(
        self, asked: InferRequest, first: Outcome, stream: AsyncGenerator[Outcome, None]
    ) -> AsyncGenerator[bytes, None]:
        """An error after the answer has begun is an event, too."""
        async with contextlib.aclosing(stream):
            yield event(await self._piece(asked, first))
            async for outcome in stream:
                yield event(await self._piece(asked, outcome))

    async def _piece(self, asked: InferRequest, outcome: Outcome) -> bytes | memoryview:
        if isinstance(outcome, Failure):
            return error_json(of_inference(outcome).message)
        try:
            return await self._written(asked, outcome)
        except PdError as error:
            return error_json(str(error))
