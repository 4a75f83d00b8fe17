"""Pipeline's messages in protobuf."""

from __future__ import annotations

from typing import Any

from pdserver.dialects.known import PACKED, KnownRequests
from pdserver.dialects.paddle import pipeline, pipeline_tensors
from pdserver.dialects.paddle.pipeline import Answer, Given, check_count
from pdserver.dialects.paddle.web_request import Known, WebRequest, again, holds_again
from pdserver.dialects.protos import decode, message_class
from pdserver.dialects.protos.packed import with_bytes
from pdserver.dialects.protos.wire import fields
from pdserver.errors import InvalidRequest

_PACKAGE = "baidu.paddle_serving.pipeline_serving"
SERVICE = f"{_PACKAGE}.PipelineService"
_Request = message_class(f"{_PACKAGE}.Request")
_InBytes, _Response = with_bytes(
    f"{_PACKAGE}.Tensor", pipeline_tensors.PACKED, f"{_PACKAGE}.Request", f"{_PACKAGE}.Response"
)
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


class Sent:
    """A small Request, read no further than is needed. Raises InvalidRequest."""

    def __init__(self, data: bytes | memoryview) -> None:
        self._data = bytes(data)
        self._found = found = _read_before.find(len(self._data), self._data)
        self._message = None if found else parsed(data)
        self.service: str = found.request.service if found else self._message.name  # type: ignore[union-attr]
        """The one that it names."""

    def request(self, known: Known) -> WebRequest:
        """Raises InvalidRequest."""
        request = again(known, self._found, self._data)
        if request is None:
            message = parsed(self._data) if self._message is None else self._message
            request = pipeline.request_of(known, given_in(message))
            if holds_again(known, request):
                _read_before.learn(len(self._data), self._data, known.spec, known.interface, request)
        return request


def given_in(message: Any) -> Given:
    """What a Request gives. Raises InvalidRequest for too many tensors, and for those that contradict themselves."""
    check_count(message.key, message.tensors)
    given = Given(list(message.key), list(message.value), [], {}, message.logid, message.clientip, message.name)
    for item in message.tensors:
        given.tensors.append(pipeline_tensors.read(item.name, item.elem_type, list(item.shape), _content(item)))
        if item.lod:
            given.lods[item.name] = list(item.lod)
    return given


def numbers_of(data: bytes) -> bytes:
    """The bytes of all numbers in a Request; empty if they are in several places or of varied lengths, and for what is
    no Request."""
    try:
        [given] = decode(_InBytes, data).tensors
    except (InvalidRequest, ValueError):
        return b""
    pieces = [piece for field in pipeline_tensors.PACKED for piece in getattr(given, field)]
    return pieces[0] if len(pieces) == 1 else b""


def write_message(answer: Answer) -> bytes:
    """For tensors whose data fit them."""
    response = _Response(err_no=answer.err_no, err_msg=answer.err_msg, key=answer.key, value=answer.value)
    for tensor in answer.tensors:
        pipeline_tensors.put(response.tensors.add(), tensor)
    return bytes(response.SerializeToString())


def _content(item: Any) -> Any:
    return lambda field: getattr(item, field)


_read_before: KnownRequests[WebRequest] = KnownRequests(numbers_of, PACKED)
