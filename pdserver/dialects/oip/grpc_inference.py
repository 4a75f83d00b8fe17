"""Requests over gRPC, read wherever that holds up nobody, and their answers → ModelInferResponse."""

from __future__ import annotations

import msgspec

from pdserver.dialects.beside import put_beside, request_by
from pdserver.dialects.codec import LARGE_BYTES
from pdserver.dialects.oip.grpc_message import read_message, set_parameters
from pdserver.dialects.oip.grpc_wire import CUT_BYTES, cut, join, whole
from pdserver.dialects.oip.large import READ_MESSAGE, Message, slim
from pdserver.dialects.oip.models import interface_of
from pdserver.dialects.oip.protocol import OpenInference
from pdserver.dialects.oip.request import InferRequest
from pdserver.dialects.protos import message_class
from pdserver.dialects.request_id import of_call
from pdserver.dialects.rpc import Answer, Call
from pdserver.dialects.tensors import DATATYPES
from pdserver.memory_file import MemoryFile
from pdserver.types import Reply

_Response = message_class("inference.ModelInferResponse")
_FINAL = "triton_final_response"
SMALL_BYTES = CUT_BYTES
"""Messages of less are for `read`, the others for `read_large`."""


class Inference:
    """Reads the requests, and writes the answers, of one server.

    Both `read` and `read_large` give the request's files, too, and raise InvalidRequest, ModelNotFound,
    VersionNotFound, and Unavailable until the model has been loaded.
    """

    def __init__(self, protocol: OpenInference) -> None:
        self._find = protocol.find
        self._regions = protocol.regions
        self._codec = protocol.codec

    def read(self, data: bytes | memoryview, call: Call) -> tuple[InferRequest, list[MemoryFile]]:
        message = whole(data)
        own_id = of_call(call, message.model_name, message.id)
        served = self._find(message.model_name, message.model_version)
        request = read_message(
            served.spec,
            interface_of(served),
            message,
            message.raw_input_contents,
            call.metadata,
            own_id,
            call.timeout_seconds,
        )
        files: list[MemoryFile] = []
        if request.shared:
            self._regions.settle(request, files)
        return request, files

    async def read_large(self, data: bytes | memoryview, call: Call) -> tuple[InferRequest, list[MemoryFile]]:
        found = cut(data)
        own_id = of_call(call, found.model, found.id)
        served = self._find(found.model, found.version)
        spec, interface = served.spec, interface_of(served)
        if found.rest_bytes >= LARGE_BYTES:
            given = Message(slim(spec), interface, call.metadata, own_id, call.timeout_seconds)
            request, files = await request_by(self._codec, READ_MESSAGE, given, [await self._codec.filed([data])])
        else:
            request = read_message(
                spec, interface, found.message(), found.raw, call.metadata, own_id, call.timeout_seconds
            )
            pieces = put_beside(request.inputs, 0)
            files = [await self._codec.filed(pieces)] if pieces else []
            request = msgspec.structs.replace(request, files=[file.fd for file in files])
        self._regions.settle(request, files)
        return request, files

    def write(self, request: InferRequest, reply: Reply, *, final: bool | None = None) -> Answer:
        """`final`: in a stream, whether this is the last answer to its request. Raises InvalidRequest for a region of
        shared memory that is too small."""
        response = _Response(model_name=request.model, model_version=request.version, id=request.client_id)
        if reply.parameters or final is not None:
            said = reply.parameters if final is None else {**reply.parameters, _FINAL: final}
            set_parameters(response.parameters, said)
        placed = self._regions.place_all(request, reply.tensors) if request.shared else {}
        raw: list[bytes] = []
        for tensor in reply.tensors:
            written = response.outputs.add(name=tensor.name, datatype=DATATYPES[tensor.dtype], shape=tensor.shape)
            if tensor.name in placed:
                set_parameters(written.parameters, placed[tensor.name])
                raw.append(b"")
            else:
                raw.append(tensor.data)
        return join(response.SerializeToString(), raw)

    def done(self, request: InferRequest) -> None:
        """The request is answered to its end, or given up. Idempotent."""
        if request.shared:
            self._regions.done(request)
