"""Triton's extensions for model control, shared memory and settings, over gRPC."""

from __future__ import annotations

from typing import Any

from pdserver.dialects.codec import LARGE_BYTES
from pdserver.dialects.oip.errors import rpc_error
from pdserver.dialects.oip.large import LOAD_MESSAGE
from pdserver.dialects.oip.loading import check_repository, loading_of_message, values_of
from pdserver.dialects.oip.protocol import OpenInference
from pdserver.dialects.oip.settings import TRACE, check_trace
from pdserver.dialects.oip.shared_memory import CudaRegions
from pdserver.dialects.rpc import Call
from pdserver.errors import PdError
from pdserver.security import changes
from pdserver.types import Failure


class ControlMethods:
    """Each but `load` takes a request, and fills its response. They raise PdError."""

    def __init__(self, protocol: OpenInference) -> None:
        self._protocol = protocol
        self._control = protocol.control
        self._regions = protocol.regions
        self._cuda = CudaRegions(protocol.regions)

    async def index(self, request: Any, response: Any) -> None:
        check_repository(request)
        for entry in await self._control.index(ready=request.ready):
            response.models.add(name=entry.name, version=entry.version, state=entry.state, reason=entry.reason)

    async def load(self, data: bytes | memoryview, call: Call) -> bytes:
        """The method itself, for its message can be large."""
        codec = self._protocol.codec
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
