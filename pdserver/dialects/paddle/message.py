"""Requests and responses as protobuf messages."""

from __future__ import annotations

from typing import Any

from pdserver.dialects.paddle.answer import ENGINE, profile_of, texts_of
from pdserver.dialects.paddle.elem_types import CONTENT, FIELDS, ElemType, of_output
from pdserver.dialects.paddle.request import Asked, GeneralRequest, microseconds, put_together, unusual
from pdserver.dialects.protos import decode, message_class, varints
from pdserver.dialects.protos.packed import with_bytes
from pdserver.dtypes import BYTES
from pdserver.errors import InvalidRequest
from pdserver.types import Reply, Tensor

_PACKAGE = "baidu.paddle_serving.predictor.general_model"
SERVICE = f"{_PACKAGE}.GeneralModelService"
_Unpacked = message_class(f"{_PACKAGE}.Request")
_Request, _Response = with_bytes(f"{_PACKAGE}.Tensor", FIELDS, f"{_PACKAGE}.Request", f"{_PACKAGE}.Response")


def read_message(asked: Asked, data: bytes | memoryview) -> GeneralRequest:
    """Raises InvalidRequest."""
    try:
        return put_together(asked, decode(_Request, data), _data)
    except InvalidRequest:
        # A writer may leave numbers unpacked. These are unknown fields to the class with bytes, and would be missed.
        repacked = decode(_Unpacked, data).SerializeToString()
        if repacked == data:
            raise
    return put_together(asked, decode(_Request, repacked), _data)


def numbers_of(data: bytes) -> bytes:
    """The bytes of all numbers in a request; empty if they are in several places, and for what is no request."""
    try:
        [given] = decode(_Request, data).tensor
    except (InvalidRequest, ValueError):
        return b""
    held = [getattr(given, name) for name in FIELDS]
    pieces = [piece for each in held for piece in ([each] if isinstance(each, bytes) else each) if piece]
    return pieces[0] if len(pieces) == 1 and isinstance(pieces[0], bytes) else b""


def write_message(request: GeneralRequest, reply: Reply) -> bytes:
    """Raises Unsupported for outputs that the protocol can't hold."""
    began_us = microseconds()
    response = _Response(profile_server=request.profiled, log_id=request.log_id)
    output = response.outputs.add(engine_name=ENGINE)
    for tensor in reply.tensors:
        kind = of_output(tensor.name, tensor.dtype)
        own_name = request.sources.get(tensor.name, tensor.name)
        written = output.tensor.add(elem_type=kind.number, shape=tensor.shape, name=own_name, alias_name=tensor.name)
        _fill(written, kind, tensor)
    response.profile_time.extend(profile_of(request, began_us))
    return bytes(response.SerializeToString())


def _fill(written: Any, kind: ElemType, tensor: Tensor) -> None:
    if kind.dtype == BYTES:
        written.data.extend(texts_of(tensor))
    elif kind.field == CONTENT:
        written.tensor_content = bytes(tensor.data)
    elif len(tensor.data):
        data = varints.write(tensor.data, kind.dtype) if kind.varints else bytes(tensor.data)
        getattr(written, kind.field).append(data)


def _data(given: Any, kind: ElemType, title: str) -> bytes | list[bytes]:
    held = getattr(given, kind.field)
    if not held:
        return unusual(given, kind, title, bytes)
    if kind.dtype == BYTES:
        return [text.encode() for text in held]
    if kind.field == CONTENT:
        return bytes(held)
    data = b"".join(held)
    return varints.read(data, kind.dtype) if kind.varints else data
