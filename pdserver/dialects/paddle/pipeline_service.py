"""Pipeline over gRPC, as PipelineClient asks it."""

from __future__ import annotations

from pdserver.dialects.codec import LARGE_BYTES, Codec
from pdserver.dialects.paddle import pipeline
from pdserver.dialects.paddle.models import Models, named_in
from pdserver.dialects.paddle.pipeline_message import SERVICE, given_in, name_in, parsed, write_message
from pdserver.dialects.paddle.web import is_long_answer
from pdserver.dialects.paddle.web_large import message_read_elsewhere, message_written_elsewhere
from pdserver.dialects.paddle.web_request import Known
from pdserver.dialects.request_id import of_call
from pdserver.dialects.rpc import Answer, RpcCall, RpcError, Service, Unary
from pdserver.engine.catalogue import InferenceEngine, interface_of
from pdserver.errors import Kind, PdError
from pdserver.memory_file import MemoryFile
from pdserver.security.access import PREDICTION
from pdserver.types import Failure

_NOT_SERVED = (Kind.UNAVAILABLE, Kind.OVERLOADED)
"""These have a status of gRPC's, as if the server were not there, so that clients try another one."""


class PipelineService:
    """The method, over an engine."""

    def __init__(self, engine: InferenceEngine, models: Models, codec: Codec) -> None:
        self._engine = engine
        self._models = models
        self._codec = codec

    def service(self) -> Service:
        return Service(SERVICE, {"inference": Unary(self.infer, PREDICTION)})

    async def infer(self, data: bytes | memoryview, call: RpcCall) -> Answer:
        """Raises RpcError, and InvalidRequest for what is no message."""
        message = None if len(data) >= LARGE_BYTES else parsed(data)
        name: str = name_in(data) if message is None else message.name
        try:
            served = self._models.meant(name or named_in(call.metadata))
            spec = served.spec
            known = Known(spec, interface_of(served), call.metadata, of_call(call, spec.name), call.timeout_seconds)
            files: list[MemoryFile] = []
            if message is None:
                request, files = await message_read_elsewhere(self._codec, known, data)
            else:
                request = pipeline.request_of(known, given_in(message))
            outcome = await self._engine.ask(request, files)
            if isinstance(outcome, Failure):
                return _failed(outcome)
            call.trailers.append(("x-request-id", request.id))
            if is_long_answer(outcome):
                return [await message_written_elsewhere(self._codec, request, outcome)]  # type: ignore[list-item]
            return write_message(pipeline.answer_of(request, outcome))
        except PdError as error:
            return _failed(Failure.of(error))


def _failed(failure: Failure) -> bytes:
    """Raises RpcError."""
    if failure.kind in _NOT_SERVED:
        raise RpcError.of(failure)
    return write_message(pipeline.failed(failure))
