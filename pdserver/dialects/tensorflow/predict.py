"""Predict of PredictionService: messages to requests, outcomes to messages."""

from __future__ import annotations

import asyncio

import msgspec

from pdserver.dialects.codec import Codec
from pdserver.dialects.known import PACKED, KnownRequests
from pdserver.dialects.request_id import of_call
from pdserver.dialects.rpc import Answer, Message, RpcCall
from pdserver.dialects.tensorflow.calls import asked_by
from pdserver.dialects.tensorflow.errors import rpc_error
from pdserver.dialects.tensorflow.message_large import read_elsewhere, written_elsewhere
from pdserver.dialects.tensorflow.model_spec import asked_first, names_in, served_by
from pdserver.dialects.tensorflow.predict_message import (
    cut,
    cut_inputs,
    numbers_of,
    read_filled,
    read_inputs,
    whole,
    write,
)
from pdserver.dialects.tensorflow.request import Asked, ServingRequest
from pdserver.dialects.tensorflow.served import Models
from pdserver.dialects.tensorflow.tensor_proto import FewElements, looked_at
from pdserver.large_data import put_beside
from pdserver.memory_file import THRESHOLD_BYTES
from pdserver.types import Failure, Outcome, Reply

_CUT_BYTES = 32 * 1024
"""Copying smaller messages costs less than looking at each of their fields."""
_Reading = ServingRequest | asyncio.Task[ServingRequest]


class Predictions:
    """`as_content`: whether the numbers of answers are tensor_content, not typed lists. `limit_bytes`: of a tensor
    whose elements are repeated.

    All methods raise PdError, and RpcError.
    """

    def __init__(self, models: Models, codec: Codec, *, as_content: bool, limit_bytes: int) -> None:
        self._models = models
        self._codec = codec
        self._as_content = as_content
        self._limit_bytes = limit_bytes
        self._known: KnownRequests[ServingRequest] = KnownRequests(numbers_of, PACKED)

    def read(self, data: Message, call: RpcCall) -> _Reading:
        """The request, or a task that reads it."""
        if len(data) >= _CUT_BYTES:
            return asyncio.ensure_future(self._read_large(data, call))
        if not isinstance(data, bytes):
            data = bytes(data)
        key = asked_first(data)
        if key:
            known = self._known.find(key, data)
            if known is not None:
                served = served_by(self._models, names_in(key))
                if known.spec is served.spec and known.interface is served.interface:
                    inputs = known.inputs(data)
                    if inputs is not None:
                        return msgspec.structs.replace(
                            known.request, id=of_call(call, known.spec.name), inputs=inputs, headers=call.metadata,
                            timeout_seconds=call.timeout_seconds,
                        )  # fmt: skip
        return self._read_small(key, data, call)

    def write(self, request: ServingRequest, outcome: Outcome, _: RpcCall) -> Answer | asyncio.Task[Answer]:
        """The answer, or a task that writes it."""
        if isinstance(outcome, Failure):
            raise rpc_error(outcome)
        if looked_at(outcome.tensors, as_content=self._as_content) >= THRESHOLD_BYTES:
            return asyncio.ensure_future(self._written_elsewhere(request, outcome))
        return write(request, outcome, as_content=self._as_content)

    def _read_small(self, key: bytes, data: bytes, call: RpcCall) -> _Reading:
        message, inputs = whole(data)
        asked = asked_by(self._models, message, call)
        try:
            request = read_inputs(asked, inputs, message.output_filter)
        except FewElements:
            pass
        else:
            if key and names_in(key) == names_in(message.model_spec.SerializeToString()):
                self._known.learn(key, data, asked.spec, asked.interface, request)
            return request
        try:
            return read_filled(asked, data, THRESHOLD_BYTES)
        except FewElements:
            return asyncio.ensure_future(self._read_elsewhere(asked, data, call))

    async def _read_large(self, data: Message, call: RpcCall) -> ServingRequest:
        message, entries = cut(data)
        asked = asked_by(self._models, message, call)
        inputs = cut_inputs(entries)
        if inputs is None:
            return await self._read_elsewhere(asked, data, call)
        try:
            request = read_inputs(asked, inputs, message.output_filter)
        except FewElements:
            return await self._read_elsewhere(asked, data, call)
        if pieces := put_beside(request.inputs, 0):
            call.kept = [await self._codec.filed(pieces)]
            request = msgspec.structs.replace(request, files=[file.fd for file in call.kept])
        return request

    async def _read_elsewhere(self, asked: Asked, data: Message, call: RpcCall) -> ServingRequest:
        request, call.kept = await read_elsewhere(self._codec, asked, data, self._limit_bytes)
        return request

    async def _written_elsewhere(self, request: ServingRequest, reply: Reply) -> Answer:
        return bytes(await written_elsewhere(self._codec, request, reply, as_content=self._as_content))
