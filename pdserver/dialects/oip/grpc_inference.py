"""ModelInferRequest → Request, and the answer → ModelInferResponse."""

from __future__ import annotations

from typing import Any

import msgspec

from pdserver.dialects.oip.grpc_tensors import Inputs, parameters, set_parameters
from pdserver.dialects.oip.grpc_wire import join, split
from pdserver.dialects.oip.inference import output
from pdserver.dialects.oip.models import find, interface_of
from pdserver.dialects.oip.parameters import Treatment, treatment
from pdserver.dialects.oip.shared_memory import Regions
from pdserver.dialects.protos import message_class
from pdserver.dialects.request_id import request_id
from pdserver.dialects.rpc import Call
from pdserver.dialects.tensors import DATATYPES, check, check_outputs
from pdserver.engine.registry import Registry
from pdserver.types import Output, Reply, Request

_Response = message_class("inference.ModelInferResponse")
_EMPTY_FINAL = "triton_enable_empty_final_response"
_FINAL = "triton_final_response"


class Asked(msgspec.Struct, frozen=True):
    """A request, and what else its answer needs."""

    request: Request
    id: str
    """The client's own; empty, if it gave none."""
    version: str
    inputs: Inputs
    """To be held on to: with it go the files of large inputs."""
    empty_final: bool
    """Whether the client wants to be told of the end of a stream by an empty answer, when there is no other way."""


class Inference:
    """Reads the requests, and writes the answers, of one server."""

    def __init__(self, registry: Registry, regions: Regions) -> None:
        self._registry = registry
        self._regions = regions

    def read(self, data: bytes | memoryview, call: Call) -> Asked:
        """Raises InvalidRequest, ModelNotFound, VersionNotFound, and Unavailable until the model has been loaded."""
        message, raw = split(data)
        pool = find(self._registry, message.model_name, message.model_version)
        spec, interface = pool.spec, interface_of(pool)
        inputs = Inputs(self._regions)
        inputs.read(message, raw)
        given = parameters(message.parameters)
        empty_final = given.pop(_EMPTY_FINAL, False) is True
        how = treatment(given, spec)
        outputs = [self._output(item, how, call) for item in message.outputs]
        check_outputs(spec, interface, outputs)
        request = Request(
            spec.name,
            spec.version,
            message.id or request_id(dict(call.metadata).get(b"x-request-id", b"")),
            [*inputs.tensors],
            call.metadata + how.headers,
            files=inputs.seal(),
            outputs=outputs,
            parameters=how.parameters,
            rows=check(spec, interface, inputs.tensors),
            timeout_seconds=_earlier(how.timeout_seconds, call.timeout_seconds),
            priority=how.priority,
        )
        return Asked(request, message.id, spec.version, inputs, empty_final)

    def _output(self, item: Any, how: Treatment, call: Call) -> Output:
        return output(item.name, parameters(item.parameters), how, self._regions, call.metadata)

    def write(self, asked: Asked, reply: Reply, *, final: bool | None = None) -> bytes:
        """`final`: in a stream, whether this is the last answer to its request. Raises InvalidRequest for a region of
        shared memory that is too small."""
        request = asked.request
        response = _Response(model_name=request.model, model_version=asked.version, id=asked.id)
        if reply.parameters or final is not None:
            said = reply.parameters if final is None else {**reply.parameters, _FINAL: final}
            set_parameters(response.parameters, said)
        placed = {output.name: output for output in request.outputs or () if output.region}
        raw: list[bytes] = []
        for tensor in reply.tensors:
            written = response.outputs.add(name=tensor.name, datatype=DATATYPES[tensor.dtype], shape=tensor.shape)
            if tensor.name in placed:
                set_parameters(written.parameters, self._regions.place(placed[tensor.name], tensor))
                raw.append(b"")
            else:
                raw.append(tensor.data)
        return join(response.SerializeToString(), raw)


def _earlier(first: float, second: float) -> float:
    """Of two timeouts, where 0 is none."""
    return min(first, second) if first and second else first or second
