"""ModelInferRequests that need not be parsed again, and the heads of their responses.

A client sends the same message with each of its requests, and other numbers at the end of it.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Any

import msgspec

from pdserver.dialects.known import PACKED, KnownRequests
from pdserver.dialects.oip.grpc_wire import named, numbers_of
from pdserver.dialects.oip.request import InferRequest
from pdserver.dialects.protos import message_class
from pdserver.dialects.request_id import of_call
from pdserver.dialects.rpc import RpcCall
from pdserver.dtypes import BYTES, DATATYPES
from pdserver.engine.catalogue import ServedVersion, interface_of
from pdserver.types import Tensor

_Response = message_class("inference.ModelInferResponse")


class KnownMessages:
    """A bounded cache."""

    def __init__(self, find: Callable[[str, str], ServedVersion]) -> None:
        """`find` finds the version that a message names."""
        self._find = find
        self._known: KnownRequests[InferRequest] = KnownRequests(numbers_of, PACKED)

    def find(self, data: bytes, call: RpcCall) -> InferRequest | None:
        """The request that this message is, if all but its numbers are known. Raises what finding the version does."""
        names = named(data)
        known = self._known.find(names, data)
        if known is None:
            return None
        model, version = names[0].decode(), names[1].decode()
        own_id = of_call(call, model)
        served = self._find(model, version)
        inputs = known.inputs(data)
        if inputs is None or known.spec is not served.spec or known.interface is not served.interface:
            return None
        return msgspec.structs.replace(
            known.request, id=own_id, inputs=inputs, headers=call.metadata,
            timeout_seconds=call.timeout_seconds,
        )  # fmt: skip

    def learn(self, data: bytes, message: Any, served: ServedVersion, request: InferRequest) -> None:
        """Keep the request that was read from this message, if there is nothing in it but numbers at its end."""
        names = named(data)
        raw = message.raw_input_contents
        asked = message.model_name.encode(), message.model_version.encode()
        if len(raw) != 1 or names != asked or message.id or message.parameters:
            return
        tensor = request.inputs[0]
        if isinstance(tensor, Tensor) and tensor.dtype != BYTES:
            self._known.learn(names, data, served.spec, interface_of(served), request)


@lru_cache(maxsize=1000)
def plain_head(model: str, version: str, outputs: tuple[tuple[str, str, tuple[int, ...]], ...]) -> bytes:
    """A ModelInferResponse without raw contents. `outputs`: name, dtype and shape of each."""
    response = _Response(model_name=model, model_version=version)
    for name, dtype, shape in outputs:
        response.outputs.add(name=name, datatype=DATATYPES[dtype], shape=shape)
    return bytes(response.SerializeToString())
