"""Pipeline over gRPC, as PipelineClient asks it."""

from __future__ import annotations

import asyncio

from pdserver.dialects.codec import LARGE_BYTES, Codec
from pdserver.dialects.paddle import pipeline
from pdserver.dialects.paddle.models import Models, named_in
from pdserver.dialects.paddle.pipeline_message import SERVICE, Sent, name_in, write_message
from pdserver.dialects.paddle.web import is_long_answer
from pdserver.dialects.paddle.web_large import message_read_elsewhere, message_written_elsewhere
from pdserver.dialects.paddle.web_request import Known, WebRequest
from pdserver.dialects.request_id import of_call
from pdserver.dialects.rpc import Answer, Prediction, RpcCall, RpcError, Service
from pdserver.engine.catalogue import InferenceEngine, interface_of
from pdserver.errors import InvalidRequest, Kind
from pdserver.security.access import PREDICTION
from pdserver.types import Failure, Outcome, Reply, Request

_NOT_SERVED = (Kind.UNAVAILABLE, Kind.OVERLOADED)
"""These have a status of gRPC's, as if the server were not there, so that clients try another one."""


class PipelineService:
    """The method, over an engine."""

    def __init__(self, engine: InferenceEngine, models: Models, codec: Codec) -> None:
        self._engine = engine
        self._models = models
        self._codec = codec

    def service(self) -> Service:
        return Service(SERVICE, {"inference": Prediction(self.read, self.write, self._engine.submit, PREDICTION)})

    def read(self, data: bytes | memoryview, call: RpcCall) -> Request | asyncio.Task[Request]:
        """Raises PdError, and RpcError for what is no message."""
        try:
            sent = None if len(data) >= LARGE_BYTES else Sent(data)
            name = name_in(data) if sent is None else sent.service
        except InvalidRequest as error:
            raise RpcError.of(Failure.of(error)) from None
        served = self._models.meant(name or named_in(call.metadata))
        spec = served.spec
        known = Known(spec, interface_of(served), call.metadata, of_call(call, spec.name), call.timeout_seconds)
        if sent is None:
            return asyncio.ensure_future(self._read_elsewhere(known, data, call))
        return sent.request(known)

    async def _read_elsewhere(self, known: Known, data: bytes | memoryview, call: RpcCall) -> Request:
        request, call.kept = await message_read_elsewhere(self._codec, known, data)
        return request

    def write(self, request: Request, outcome: Outcome, call: RpcCall) -> Answer | asyncio.Task[Answer]:
        """Raises RpcError."""
        if isinstance(outcome, Failure):
            return _failed(outcome)
        assert isinstance(request, WebRequest)  # noqa: S101
        call.trailers.append(("x-request-id", request.id))
        if is_long_answer(outcome):
            return asyncio.ensure_future(self._written_elsewhere(request, outcome))
        return write_message(pipeline.answer_of(request, outcome))

    async def _written_elsewhere(self, request: WebRequest, reply: Reply) -> Answer:
        return [await message_written_elsewhere(self._codec, request, reply)]  # type: ignore[list-item]


def _failed(failure: Failure) -> bytes:
    """Raises RpcError."""
    if failure.kind in _NOT_SERVED:
        raise RpcError.of(failure)
    return write_message(pipeline.failed(failure))
