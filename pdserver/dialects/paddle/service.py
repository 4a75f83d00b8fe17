"""The C++ server's predictions over gRPC, and whatever else has methods from bytes to bytes."""

from __future__ import annotations

from pdserver.dialects.base import Body
from pdserver.dialects.codec import Codec
from pdserver.dialects.paddle.general import is_long, is_long_answer, read, write
from pdserver.dialects.paddle.large import read_elsewhere, written_elsewhere
from pdserver.dialects.paddle.message import SERVICE
from pdserver.dialects.paddle.models import Models, named_in
from pdserver.dialects.paddle.request import Asked, GeneralRequest
from pdserver.dialects.request_id import of_call
from pdserver.dialects.rpc import Answer, RpcCall, RpcError, Service, Unary
from pdserver.engine.catalogue import InferenceEngine, interface_of
from pdserver.engine.queue import AwaitedCall
from pdserver.errors import Unsupported
from pdserver.memory_file import MemoryFile
from pdserver.security.access import PREDICTION
from pdserver.types import Failure, Outcome


class GeneralService:
    """The methods, over an engine."""

    def __init__(self, engine: InferenceEngine, models: Models, codec: Codec) -> None:
        self._engine = engine
        self._models = models
        self._codec = codec

    def service(self) -> Service:
        infer = Unary(self.infer, PREDICTION)
        return Service(SERVICE, {"inference": infer, "debug": infer})

    async def infer(self, data: bytes | memoryview, call: RpcCall) -> Answer:
        """Raises PdError, RpcError."""
        request, files = await self._read(data, call)
        outcome = await self._outcome(request, files)
        if isinstance(outcome, Failure):
            raise RpcError.of(outcome)
        call.trailers.append(("x-request-id", request.id))
        if is_long_answer(request, outcome):
            return bytes(await written_elsewhere(self._codec, request, outcome))
        return write(request, outcome)

    async def _read(self, data: bytes | memoryview, call: RpcCall) -> tuple[GeneralRequest, list[MemoryFile]]:
        served = self._models.meant(named_in(call.metadata))
        spec = served.spec
        asked = Asked(
            spec, interface_of(served), call.metadata, of_call(call, spec.name), timeout_seconds=call.timeout_seconds
        )
        if is_long(len(data), in_json=False):
            return await read_elsewhere(self._codec, asked, Body(b"", await self._codec.filed([data])))
        return read(asked, data), []

    async def _outcome(self, request: GeneralRequest, files: list[MemoryFile]) -> Outcome:
        call = AwaitedCall(request, files)
        self._engine.submit(call)
        try:
            outcome = await call.outcome
        finally:
            call.cancel()  # without effect once it is settled
        if call.pieces:
            raise Unsupported(
                "the model answers in pieces, which this method can't give: use HTTP, or ModelStreamInfer"
            )
        return outcome
