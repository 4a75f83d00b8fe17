"""The C++ server's predictions, whatever the transport: bytes to requests, outcomes to bytes."""

from __future__ import annotations

from pdserver.dialects.codec import LARGE_BYTES
from pdserver.dialects.paddle.brpc_json import read_json, write_json
from pdserver.dialects.paddle.message import read_message, write_message
from pdserver.dialects.paddle.request import Asked, GeneralRequest
from pdserver.memory_file import THRESHOLD_BYTES
from pdserver.types import Reply


def read(asked: Asked, data: bytes | memoryview) -> GeneralRequest:
    """Raises InvalidRequest."""
    return read_json(asked, data) if asked.in_json else read_message(asked, data)


def write(request: GeneralRequest, reply: Reply) -> bytes:
    """Raises Unsupported for outputs that the protocol can't hold."""
    return write_json(request, reply) if request.in_json else write_message(request, reply)


def is_long(size: int, *, in_json: bool) -> bool:
    """Whether reading or writing so many bytes takes long. A message's numbers are copied, JSON's are spelled out."""
    return size >= (LARGE_BYTES if in_json else THRESHOLD_BYTES)


def is_long_answer(request: GeneralRequest, reply: Reply) -> bool:
    size = 0
    for tensor in reply.tensors:
        size += len(tensor.data)
    return is_long(size, in_json=request.in_json)
