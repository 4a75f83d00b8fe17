"""Pipeline's messages in protobuf."""

from __future__ import annotations

from typing import Any

from pdserver.dialects.paddle import pipeline_tensors
from pdserver.dialects.paddle.pipeline import Answer, Given, check_count
from pdserver.dialects.protos import decode, message_class
from pdserver.dialects.protos.wire import fields
from pdserver.errors import InvalidRequest

_PACKAGE = "baidu.paddle_serving.pipeline_serving"
SERVICE = f"{_PACKAGE}.PipelineService"
_Request = message_class(f"{_PACKAGE}.Request")
_Response = message_class(f"{_PACKAGE}.Response")
_NAME = 0x22
"""How the field with the service's name begins."""


def name_in(data: bytes | memoryview) -> str:
    """The service that a large Request names, which is not read for it. Raises InvalidRequest."""
    name = b""
    for tag, _, place, end in fields(data, _Request.DESCRIPTOR.full_name):
        if tag == _NAME:
            name = bytes(data[place:end])
    try:
        return name.decode()
    except UnicodeDecodeError:
        raise InvalidRequest(f"what was sent is not a {_Request.DESCRIPTOR.full_name}") from None


def parsed(data: bytes | memoryview) -> Any:
    """A Request. Raises InvalidRequest."""
    return decode(_Request, data)


def given_in(message: Any) -> Given:
    """What a Request gives. Raises InvalidRequest for too many tensors, and for those that contradict themselves."""
    check_count(message.key, message.tensors)
    given = Given(list(message.key), list(message.value), [], {}, message.logid, message.clientip)
    for item in message.tensors:
        given.tensors.append(pipeline_tensors.read(item.name, item.elem_type, list(item.shape), _content(item)))
        if item.lod:
            given.lods[item.name] = list(item.lod)
    return given


def write_message(answer: Answer) -> bytes:
    """Raises InvalidRequest for tensors whose data do not fit them."""
    response = _Response(err_no=answer.err_no, err_msg=answer.err_msg, key=answer.key, value=answer.value)
    for tensor in answer.tensors:
        pipeline_tensors.put(response.tensors.add(), tensor)
    return bytes(response.SerializeToString())


def _content(item: Any) -> Any:
    return lambda field: getattr(item, field)
