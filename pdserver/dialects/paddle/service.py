"""The C++ server's predictions over gRPC, and whatever else has methods from bytes to bytes."""

from __future__ import annotations

import asyncio

from pdserver.dialects.base import Body
from pdserver.dialects.codec import Codec
from pdserver.dialects.paddle.general import is_long_answer, long_bytes, read, write
from pdserver.dialects.paddle.large import read_elsewhere, written_elsewhere
from pdserver.dialects.paddle.message import SERVICE
from pdserver.dialects.paddle.models import Models, named_in
from pdserver.dialects.paddle.request import Asked, GeneralRequest
from pdserver.dialects.request_id import of_call
from pdserver.dialects.rpc import Answer, Prediction, RpcCall, RpcError, Service
from pdserver.engine.catalogue import InferenceEngine, interface_of
from pdserver.security.access import PREDICTION
from pdserver.types import Failure, Outcome, Reply, Request


class GeneralService:
    """The methods, over an engine."""

    def __init__(self, engine: InferenceEngine, models: Models, codec: Codec) -> None:
        self._engine = engine
        self._models = models
        self._codec = codec

    def service(self) -> Service:
        infer = Prediction(
            self.read,
            self.write,
            self._engine.submit,
            PREDICTION,
            "the model answers in pieces, which this method can't give: use HTTP, or ModelStreamInfer",
        )
        return Service(SERVICE, {"inference": infer, "debug": infer})

    def read(self, data: bytes | memoryview, call: RpcCall) -> Request | asyncio.Task[Request]:
        served = self._models.meant(named_in(call.metadata))
        spec = served.spec
        asked = Asked(
            spec, interface_of(served), call.metadata, of_call(call, spec.name), timeout_seconds=call.timeout_seconds
        )
        if len(data) >= long_bytes(in_json=False):
            return asyncio.ensure_future(self._read_elsewhere(asked, data, call))
        return read(asked, data)

    async def _read_elsewhere(self, asked: Asked, data: bytes | memoryview, call: RpcCall) -> Request:
        body = Body(b"", await self._codec.filed([data]))
        request, call.kept = await read_elsewhere(self._codec, asked, body)
        return request

    def write(self, request: GeneralRequest, outcome: Outcome, call: RpcCall) -> Answer | asyncio.Task[Answer]:
        if isinstance(outcome, Failure):
            raise RpcError.of(outcome)
        call.trailers.append(("x-request-id", request.id))
        if is_long_answer(request, outcome):
            return asyncio.ensure_future(self._written_elsewhere(request, outcome))
        return write(request, outcome)

    async def _written_elsewhere(self, request: GeneralRequest, reply: Reply) -> Answer:
        return bytes(await written_elsewhere(self._codec, request, reply))
