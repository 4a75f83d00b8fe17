"""The C++ server's predictions, whatever the transport: bytes to requests, outcomes to bytes."""

from __future__ import annotations

import msgspec

from pdserver.dialects.codec import LARGE_BYTES
from pdserver.dialects.known import JSON, PACKED, KnownRequests
from pdserver.dialects.paddle import brpc_json, message
from pdserver.dialects.paddle.brpc_json import read_json, write_json
from pdserver.dialects.paddle.message import read_message, write_message
from pdserver.dialects.paddle.request import Asked, GeneralRequest, microseconds
from pdserver.memory_file import THRESHOLD_BYTES
from pdserver.types import Reply

_with = msgspec.structs.replace
_known_json: KnownRequests[GeneralRequest] = KnownRequests(brpc_json.numbers_of, JSON)
_known_messages: KnownRequests[GeneralRequest] = KnownRequests(message.numbers_of, PACKED)


def read(asked: Asked, data: bytes | memoryview) -> GeneralRequest:
    """Raises InvalidRequest."""
    if type(data) is not bytes:
        return _read(asked, data)
    spec = asked.spec
    cache = _known_json if asked.in_json else _known_messages
    known = cache.find(spec.name, data)
    if (
        known is None
        or known.spec is not spec
        or known.interface is not asked.interface
        or (inputs := known.inputs(data)) is None
    ):
        request = _read(asked, data)
        if not request.log_id:
            cache.learn(spec.name, data, spec, asked.interface, request)
        return request
    request = known.request
    return _with(
        request, id=asked.request_id, inputs=inputs, headers=asked.headers, accepts=asked.accepts,
        timeout_seconds=asked.timeout_seconds, began_us=asked.began_us,
        read_us=microseconds() if request.profiled else 0,
    )  # fmt: skip


def _read(asked: Asked, data: bytes | memoryview) -> GeneralRequest:
    return read_json(asked, data) if asked.in_json else read_message(asked, data)


def write(request: GeneralRequest, reply: Reply) -> bytes:
    """Raises Unsupported for outputs that the protocol can't hold."""
    return write_json(request, reply) if request.in_json else write_message(request, reply)


def long_bytes(*, in_json: bool) -> int:
    """How many bytes take long to read or write. A message's numbers are copied, JSON's are spelled out."""
    return LARGE_BYTES if in_json else THRESHOLD_BYTES


def is_long_answer(request: GeneralRequest, reply: Reply) -> bool:
    size = 0
    for tensor in reply.tensors:
        size += len(tensor.data)
    return size >= LARGE_BYTES and size >= long_bytes(in_json=request.in_json)
