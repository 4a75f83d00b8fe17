"""TorchServe's inference API over gRPC: org.pytorch.serve.grpc.inference.InferenceAPIsService.

Source: TorchServe 0.12's inference.proto. What TorchServe answers INTERNAL for has a code of its own here, the call's
metadata reach the handler as its request's headers, and the status that a handler sets is the call's.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import AsyncGenerator, AsyncIterator
from typing import Any

from pdserver.dialects.protos import decode, message_class
from pdserver.dialects.request_id import request_id
from pdserver.dialects.rpc import BidiStreaming, Call, Metadata, RpcError, ServerStreaming, Service, Unary, code_of_http
from pdserver.dialects.torchserve.ping import ping_json
from pdserver.engine.engine import Engine
from pdserver.engine.pieces import pieces
from pdserver.errors import InvalidRequest, PdError
from pdserver.security.access import INFERENCE, OPEN
from pdserver.types import Failure, Outcome, Part, Reply, Request

NAME = "org.pytorch.serve.grpc.inference.InferenceAPIsService"
_PredictionsRequest = message_class("org.pytorch.serve.grpc.inference.PredictionsRequest")
_PredictionResponse = message_class("org.pytorch.serve.grpc.inference.PredictionResponse")
_HealthResponse = message_class("org.pytorch.serve.grpc.inference.TorchServeHealthResponse")
_TRAILER = re.compile(r"(?!grpc-)[0-9a-z_.-]+(?<!-bin)")
_SEQUENCE_ID = "ts_request_sequence_id"


class Inference:
    """The methods, over an engine."""

    def __init__(self, engine: Engine, *, details: bool) -> None:
        """With `details`, the health check says what is wrong."""
        self._engine = engine
        self._details = details

    def service(self) -> Service:
        return Service(
            NAME,
            {
                "Ping": Unary(self.ping, OPEN),
                "Predictions": Unary(self.predict, INFERENCE),
                "StreamPredictions": ServerStreaming(self.predict_in_pieces, INFERENCE),
                "StreamPredictions2": BidiStreaming(self.predict_in_sequence, INFERENCE),
            },
        )

    async def ping(self, _data: bytes | memoryview, _: Call) -> bytes:
        health = ping_json(self._engine.health(), details=self._details)
        return bytes(_HealthResponse(health=health.decode()).SerializeToString())

    async def predict(self, data: bytes | memoryview, call: Call) -> bytes:
        request = _request(decode(_PredictionsRequest, data), call)
        reply = _reply(await self._engine.ask(request))
        call.trailers += _trailers(request, reply)
        return bytes(_PredictionResponse(prediction=bytes(reply.body)).SerializeToString())

    async def predict_in_pieces(self, data: bytes | memoryview, call: Call) -> AsyncGenerator[bytes, None]:
        request = _request(decode(_PredictionsRequest, data), call)
        async for reply in self._pieces(request):
            call.trailers = _trailers(request, reply)
            yield _PredictionResponse(prediction=bytes(reply.body)).SerializeToString()

    async def predict_in_sequence(
        self, messages: AsyncIterator[bytes | memoryview], call: Call
    ) -> AsyncGenerator[bytes, None]:
        async for data in messages:
            message = decode(_PredictionsRequest, data)
            response = _PredictionResponse()
            if message.HasField("sequence_id"):
                response.sequence_id = message.sequence_id
            try:
                async for reply in self._pieces(_request(message, call)):
                    response.prediction = bytes(reply.body)
                    for name, value in reply.headers:
                        if name == _SEQUENCE_ID:  # opened here, as the request named none
                            response.sequence_id = value
                    yield response.SerializeToString()
            except (PdError, RpcError) as error:
                failed = error if isinstance(error, RpcError) else RpcError.of(Failure.of(error))
                response.ClearField("prediction")
                response.status.code, response.status.message = failed.code, failed.message
                yield response.SerializeToString()

    async def _pieces(self, request: Request) -> AsyncGenerator[Reply, None]:
        """The pieces of a streamed answer. Raises PdError, RpcError."""
        async with contextlib.aclosing(pieces(self._engine.submit, request)) as outcomes:
            async for outcome in outcomes:
                yield _reply(outcome)


def _request(message: Any, call: Call) -> Request:
    """Raises InvalidRequest."""
    if not message.model_name:
        raise InvalidRequest("Parameter model_name is required.")
    headers = call.metadata
    given_id = dict(headers).get(b"x-request-id", b"")
    if message.HasField("sequence_id"):
        headers = [(_SEQUENCE_ID.encode(), message.sequence_id.encode()), *headers]
    return Request(
        message.model_name,
        message.model_version or None,
        request_id(given_id),
        [Part(name, "", content) for name, content in message.input.items()],
        headers,
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
