"""The Open Inference Protocol over gRPC: inference.GRPCInferenceService, with Triton's extensions.

Source: the protocol's and Triton's gRPC services. The methods do what REST's routes do, with the same modules; here,
answers are put into messages.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Coroutine
from typing import Any

from google.protobuf.json_format import ParseDict

from pdserver.dialects.codec import LARGE_BYTES
from pdserver.dialects.oip import needs
from pdserver.dialects.oip.errors import of_inference, rpc_error
from pdserver.dialects.oip.grpc_inference import SMALL_BYTES, Inference, Stream
from pdserver.dialects.oip.large import LOAD_MESSAGE
from pdserver.dialects.oip.metadata import model_config, model_metadata, model_stats, server_metadata
from pdserver.dialects.oip.protocol import OpenInference
from pdserver.dialects.oip.repository import Controlled, check_repository, loading_of_message, values_of
from pdserver.dialects.oip.request import InferRequest
from pdserver.dialects.oip.settings import TRACE, check_trace
from pdserver.dialects.oip.shared_memory import CudaRegions
from pdserver.dialects.protos import decode, message_class
from pdserver.dialects.rpc import Answer, BidiStreaming, Prediction, RpcCall, Service, Unary
from pdserver.engine.catalogue import ServedVersion
from pdserver.errors import Missing, ModelNotFound, NotServed, PdError, TooLarge
from pdserver.formats.values import shown
from pdserver.security import changes
from pdserver.security.access import PREDICTION, Need
from pdserver.types import Failure, Outcome, Request

NAME = "inference.GRPCInferenceService"
_MAX_PARAMETER_BYTES = 1024 * 1024
"""The limit of messages that bring neither a model nor its inputs."""
_IN_PIECES = "ModelInfer RPC doesn't support models that answer in pieces: use ModelStreamInfer"
_Fill = Callable[[Any, Any], Coroutine[Any, Any, None]]
"""Takes a request and fills its response."""


class GrpcService:
    """The methods."""

    def __init__(self, protocol: OpenInference) -> None:
        self._protocol = protocol
        self._engine = protocol.engine
        self._inference = Inference(protocol)
        self._control = _Control(protocol)
        self._repository = RepositoryMethods(protocol)

    def service(self) -> Service:
        control = self._control
        methods: dict[str, tuple[_Fill, Need]] = {
            "ServerLive": (self.live, needs.HEALTH),
            "ServerReady": (self.ready, needs.HEALTH),
            "ModelReady": (self.model_ready, needs.MODEL_HEALTH),
            "ServerMetadata": (self.metadata, needs.METADATA),
            "ModelMetadata": (self.model_metadata, needs.METADATA),
            "ModelConfig": (self.config, needs.MODEL_CONFIG),
            "ModelStatistics": (self.statistics, needs.STATISTICS),
            "SystemSharedMemoryStatus": (control.system_status, needs.SHARED_MEMORY_STATUS),
            "SystemSharedMemoryRegister": (control.system_register, needs.SHARED_MEMORY),
            "SystemSharedMemoryUnregister": (control.system_unregister, needs.SHARED_MEMORY),
            "CudaSharedMemoryStatus": (control.cuda_status, needs.SHARED_MEMORY_STATUS),
            "CudaSharedMemoryRegister": (control.cuda_register, needs.SHARED_MEMORY),
            "CudaSharedMemoryUnregister": (control.cuda_unregister, needs.SHARED_MEMORY),
            "TraceSetting": (control.trace, needs.TRACE),
            "LogSettings": (control.log, needs.LOGGING),
        }
        return Service(
            NAME,
            {
                "ModelInfer": Prediction(self.read, self.write, self._engine.submit, PREDICTION, _IN_PIECES),
                "ModelStreamInfer": BidiStreaming(self.infer_stream, PREDICTION),
                **self._repository.methods(),
                **{name: Unary(_method(name, fill), need) for name, (fill, need) in methods.items()},
            },
        )

    def read(self, data: bytes | memoryview, call: RpcCall) -> Request | asyncio.Task[Request]:
        if len(data) < SMALL_BYTES:
            request, files = self._inference.read(data, call)
            if files:
                call.kept = files
            return request
        return asyncio.ensure_future(self._read_large(data, call))

    async def _read_large(self, data: bytes | memoryview, call: RpcCall) -> Request:
        request, call.kept = await self._inference.read_large(data, call)
        return request

    def write(self, request: Request, outcome: Outcome, _: RpcCall) -> Answer:
        """Raises RpcError, and InvalidRequest for a region of shared memory that is too small."""
        if not isinstance(request, InferRequest):  # it could not be read
            assert isinstance(outcome, Failure)  # noqa: S101
            raise rpc_error(of_inference(outcome))
        try:
            if isinstance(outcome, Failure):
                raise rpc_error(of_inference(outcome))
            return self._inference.write(request, outcome)
        finally:
            self._inference.done(request)

    async def infer_stream(
        self, messages: AsyncIterator[bytes | memoryview], call: RpcCall
    ) -> AsyncGenerator[Answer, None]:
        async for answer in Stream(self._inference, self._engine.submit, call).answers(messages):
            yield answer

    async def live(self, _: Any, response: Any) -> None:
        response.live = True

    async def ready(self, _: Any, response: Any) -> None:
        response.ready = self._engine.catalogue.health().healthy

    async def model_ready(self, request: Any, response: Any) -> None:
        try:
            response.ready = self._find(request).is_ready
        except NotServed as error:
            if error.missing and self._engine.catalogue.elsewhere.serves(error.missing):
                raise
            response.ready = False

    async def metadata(self, _: Any, response: Any) -> None:
        ParseDict(server_metadata(self._protocol.server_id), response)

    async def model_metadata(self, request: Any, response: Any) -> None:
        served = self._find(request)
        found = model_metadata(self._engine.catalogue, served, request.version or None)
        for tensor in found["inputs"] + found["outputs"]:
            if traits := tensor.get("parameters"):
                tensor["parameters"] = {name: {"bool_param": value} for name, value in traits.items()}
        ParseDict(found, response)

    async def config(self, request: Any, response: Any) -> None:
        ParseDict(model_config(self._find(request)), response.config)

    async def statistics(self, request: Any, response: Any) -> None:
        ParseDict(model_stats(self._engine, self._versions(request.name, request.version)), response)

    def _find(self, request: Any) -> ServedVersion:
        return self._protocol.find(request.name, request.version)

    def _versions(self, name: str, version: str) -> list[ServedVersion]:
        catalogue = self._engine.catalogue
        if not name:
            return list(catalogue.versions())
        if version:
            return [self._protocol.find(name, version)]
        try:
            return list(catalogue.model(name).versions.values())
        except ModelNotFound:
            raise self._protocol.missing(Missing(name)) from None


class RepositoryMethods:
    """Triton's model repository extension."""

    def __init__(self, protocol: Controlled) -> None:
        self._codec = protocol.codec
        self._control = protocol.control

    def methods(self) -> dict[str, Unary]:
        return {
            "RepositoryIndex": Unary(_method("RepositoryIndex", self.index), needs.REPOSITORY),
            "RepositoryModelLoad": Unary(self.load, needs.REPOSITORY),
            "RepositoryModelUnload": Unary(_method("RepositoryModelUnload", self.unload), needs.REPOSITORY),
        }

    async def index(self, request: Any, response: Any) -> None:
        check_repository(request)
        for entry in await self._control.index(ready=request.ready):
            response.models.add(name=entry.name, version=entry.version, state=entry.state, reason=entry.reason)

    async def load(self, data: bytes | memoryview, call: RpcCall) -> bytes:
        """Takes the bytes of its message, since they can be many."""
        codec = self._codec
        try:
            self._control.check_allowed()
            if len(data) < LARGE_BYTES:
                name, parameters = loading_of_message(data)
            else:
                brought, files = await codec.run(LOAD_MESSAGE, None, [await codec.filed([data])])
                name, parameters = brought.name, brought.parameters(files[0])
            await self._control.load(name, parameters)
        except PdError as error:
            raise rpc_error(Failure.of(error)) from None
        changes.note(call.client, call.token, f'Model "{name}" loaded')
        return b""

    async def unload(self, request: Any, _: Any) -> None:
        check_repository(request)
        await self._control.unload(request.model_name, values_of(request.parameters))


class _Control:
    """Triton's extensions: shared memory and settings.

    Each method takes a request and fills its response. They raise PdError.
    """

    def __init__(self, protocol: OpenInference) -> None:
        self._protocol = protocol
        self._regions = protocol.regions
        self._cuda = CudaRegions(protocol.regions)

    async def system_status(self, request: Any, response: Any) -> None:
        for region in self._regions.status(request.name or None):
            told = response.regions[region.name]
            told.name, told.key, told.offset, told.byte_size = region.name, region.key, region.offset, region.byte_size

    async def system_register(self, request: Any, _: Any) -> None:
        self._regions.register(request.name, request.key, request.offset, request.byte_size)

    async def system_unregister(self, request: Any, _: Any) -> None:
        self._regions.unregister(request.name or None)

    async def cuda_status(self, request: Any, _: Any) -> None:
        self._cuda.check(request.name or None)

    async def cuda_register(self, request: Any, _: Any) -> None:
        self._cuda.register(request.name)

    async def cuda_unregister(self, _request: Any, _: Any) -> None:
        self._cuda.unregister()

    async def trace(self, request: Any, response: Any) -> None:
        if request.model_name:
            self._protocol.find(request.model_name, None)
        check_trace(request.settings)
        for name, value in TRACE.items():
            response.settings[name].value.extend(value if isinstance(value, list) else [value])

    async def log(self, request: Any, response: Any) -> None:
        protocol = self._protocol
        if given := values_of(request.settings):
            protocol.check_manageable()
            protocol.logs.update(given)
        for name, value in protocol.logs.get().items():
            setting = response.settings[name]
            if isinstance(value, bool):
                setting.bool_param = value
            elif isinstance(value, int):
                setting.uint32_param = value
            else:
                setting.string_param = value


def _change(method: str, request: Any) -> str:
    """What a call has changed on the server; empty for nothing."""
    if method == "RepositoryModelUnload":
        return f'Model "{request.model_name}" unloaded'
    if method == "LogSettings" and request.settings:
        return f"{method} changed: {shown(' '.join(str(request).split()))}"
    return ""


def _method(name: str, fill: _Fill) -> Callable[[bytes | memoryview, RpcCall], Coroutine[Any, Any, bytes]]:
    request_class, response_class = (message_class(f"inference.{name}{end}") for end in ("Request", "Response"))

    async def method(data: bytes | memoryview, call: RpcCall) -> bytes:
        response = response_class()
        try:
            if len(data) > _MAX_PARAMETER_BYTES:
                raise TooLarge(f"the message has {len(data):,} bytes: at most {_MAX_PARAMETER_BYTES:,} here")
            request = decode(request_class, data)
            await fill(request, response)
        except PdError as error:
            raise rpc_error(Failure.of(error)) from None
        if change := _change(name, request):
            changes.note(call.client, call.token, change)
        return bytes(response.SerializeToString())

    return method
