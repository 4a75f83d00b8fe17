"""TorchServe's inference API over gRPC: org.pytorch.serve.grpc.inference.InferenceAPIsService.

Source: TorchServe 0.12's inference.proto. What TorchServe answers INTERNAL for has a code of its own here, the call's
metadata reach the handler as its request's headers, and the status that a handler sets is the call's.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
from collections.abc import AsyncGenerator, AsyncIterator
from typing import Any

from pdserver.dialects.codec import Codec
from pdserver.dialects.protos import message_class
from pdserver.dialects.request_id import of_call
from pdserver.dialects.rpc import (
    Answer,
    BidiStreaming,
    Metadata,
    Prediction,
    RpcCall,
    RpcError,
    ServerStreaming,
    Service,
    Unary,
    code_of_http,
    missing_in,
)
from pdserver.dialects.torchserve.grpc_wire import join, split
from pdserver.dialects.torchserve.ping import ping_json
from pdserver.engine.catalogue import InferenceEngine
from pdserver.engine.pieces import pieces
from pdserver.errors import InvalidRequest, PdError
from pdserver.large_data import put_beside
from pdserver.memory_file import THRESHOLD_BYTES, MemoryFile
from pdserver.security.access import OPEN, PREDICTION
from pdserver.types import Failure, Outcome, Part, Reply, Request, Tensor

NAME = "org.pytorch.serve.grpc.inference.InferenceAPIsService"
_PredictionResponse = message_class("org.pytorch.serve.grpc.inference.PredictionResponse")
_HealthResponse = message_class("org.pytorch.serve.grpc.inference.TorchServeHealthResponse")
_TRAILER = re.compile(r"(?!grpc-)[0-9a-z_.-]+(?<!-bin)")


class Inference:
    """The methods, over an engine."""

    def __init__(self, engine: InferenceEngine, codec: Codec, *, sequence_header: str, details: bool) -> None:
        """`sequence_header` names a request's sequence. With `details`, the health check says what is wrong."""
        self._engine = engine
        self._sequence_header = sequence_header
        self._codec = codec
        self._details = details

    def service(self) -> Service:
        return Service(
            NAME,
            {
                "Ping": Unary(self.ping, OPEN),
                "Predictions": Prediction(self.read, self.write, self._engine.submit, PREDICTION),
                "StreamPredictions": ServerStreaming(self.predict_in_pieces, PREDICTION),
                "StreamPredictions2": BidiStreaming(self.predict_in_sequence, PREDICTION),
            },
        )

    async def ping(self, _data: bytes | memoryview, _: RpcCall) -> bytes:
        health = ping_json(self._engine.catalogue.health(), details=self._details)
        return bytes(_HealthResponse(health=health.decode()).SerializeToString())

    def read(self, data: bytes | memoryview, call: RpcCall) -> Request | asyncio.Task[Request]:
        message, inputs = split(data)
        if len(data) < THRESHOLD_BYTES:
            return self._request(message, inputs, [], call)
        return asyncio.ensure_future(self._read_large(message, inputs, call))

    async def _read_large(self, message: Any, inputs: list[Part | Tensor], call: RpcCall) -> Request:
        call.kept = await self._beside(inputs)
        return self._request(message, inputs, call.kept, call)

    def write(self, request: Request, outcome: Outcome, call: RpcCall) -> Answer:
        reply = _reply(outcome)
        call.trailers += _trailers(request, reply)
        return join(b"", reply.body)

    async def predict_in_pieces(self, data: bytes | memoryview, call: RpcCall) -> AsyncGenerator[Answer, None]:
        message, inputs = split(data)
        files = await self._beside(inputs)
        request = self._request(message, inputs, files, call)
        async for reply in self._pieces(request, files):
            call.trailers = _trailers(request, reply)
            yield join(b"", reply.body)

    async def predict_in_sequence(
        self, messages: AsyncIterator[bytes | memoryview], call: RpcCall
    ) -> AsyncGenerator[Answer, None]:
        begun = False
        async for data in messages:
            message, inputs = split(data)
            response = _PredictionResponse()
            if message.HasField("sequence_id"):
                response.sequence_id = message.sequence_id
            try:
                files = await self._beside(inputs)
                async for reply in self._pieces(self._request(message, inputs, files, call), files):
                    for name, value in reply.headers:
                        if name.lower() == self._sequence_header.lower():  # opened here, as the request named none
                            response.sequence_id = value
                    yield join(response.SerializeToString(), reply.body)
                begun = True
            except (PdError, RpcError) as error:
                missing = missing_in(error)
                if not begun and missing is not None and self._engine.catalogue.elsewhere.serves(missing):
                    raise  # another server can have the whole stream
                begun = True
                failed = error if isinstance(error, RpcError) else RpcError.of(Failure.of(error))
                response.status.code, response.status.message = failed.code, failed.message
                yield response.SerializeToString()

    async def _beside(self, inputs: list[Part | Tensor]) -> list[MemoryFile]:
        """The request's files: large inputs are moved there. Raises Unavailable."""
        moved = put_beside(inputs, 0)
        return [await self._codec.filed(moved)] if moved else []

    async def _pieces(self, request: Request, files: list[MemoryFile]) -> AsyncGenerator[Reply, None]:
        """The pieces of a streamed answer. Raises PdError, RpcError."""
        async with contextlib.aclosing(pieces(self._engine.submit, request, files)) as outcomes:
            async for outcome in outcomes:
                yield _reply(outcome)

    def _request(self, message: Any, inputs: list[Part | Tensor], files: list[MemoryFile], call: RpcCall) -> Request:
        """Raises InvalidRequest."""
        if not message.model_name:
            raise InvalidRequest("Parameter model_name is required.")
        headers = call.metadata
        if message.HasField("sequence_id"):
            headers = [(self._sequence_header.lower().encode(), message.sequence_id.encode()), *headers]
        return Request(
            message.model_name,
            message.model_version or None,
            of_call(call, message.model_name),
            inputs,
            headers,
            files=[file.fd for file in files],
            timeout_seconds=call.timeout_seconds,
        )


def _reply(outcome: Outcome) -> Reply:
    """Raises RpcError for a failure, and for a status by which the handler says that it is one."""
    if isinstance(outcome, Failure):
        raise RpcError.of(outcome)
    if outcome.status >= 400:
        text = bytes(outcome.body).decode(errors="replace")
        raise RpcError(code_of_http(outcome.status), text or outcome.reason)
    return outcome


def _trailers(request: Request, reply: Reply) -> Metadata:
    """The request's id, and the headers that the handler set, as far as metadata may have their names."""
    headers = [(name.lower(), value) for name, value in reply.headers]
    return [("x-request-id", request.id), *(header for header in headers if _TRAILER.fullmatch(header[0]))]
