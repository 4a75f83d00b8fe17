"""Requests and responses as protobuf messages."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

from pdserver.dialects.paddle.answer import ENGINE, profile_of, texts_of
from pdserver.dialects.paddle.elem_types import ALL, CONTENT, FIELDS, ElemType, of_output
from pdserver.dialects.paddle.request import Asked, GeneralRequest, microseconds, put_together, unusual
from pdserver.dialects.protos import decode, message_class, varints
from pdserver.dialects.protos.packed import with_bytes
from pdserver.dialects.protos.wire import varint
from pdserver.dtypes import BYTES
from pdserver.errors import InvalidRequest
from pdserver.types import Reply, Tensor

_PACKAGE = "baidu.paddle_serving.predictor.general_model"
SERVICE = f"{_PACKAGE}.GeneralModelService"
_Unpacked = message_class(f"{_PACKAGE}.Request")
_Request, _Response, _Output, _Tensor = with_bytes(
    f"{_PACKAGE}.Tensor", FIELDS, *(f"{_PACKAGE}.{name}" for name in ("Request", "Response", "ModelOutput", "Tensor"))
)
_LENGTH = 2
"""The wire type of fields that have one."""


def _tag(message: Any, name: str) -> bytes:
    """The tag of a field that has a length."""
    return varint(message.DESCRIPTOR.fields_by_name[name].number << 3 | _LENGTH)


_OUTPUTS_TAG, _TENSOR_TAG = _tag(_Response, "outputs"), _tag(_Output, "tensor")
_ENGINE = _Output(engine_name=ENGINE).SerializeToString()


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
    wrote_from_us = microseconds() if request.profiled else 0
    tensors = []
    for tensor in reply.tensors:
        name, dtype = tensor.name, tensor.dtype
        elements = _WRITERS[dtype](tensor) if dtype in _WRITERS else tensor.data
        before, after = _around(name, request.sources.get(name, name), dtype, tensor.shape, len(elements))
        tensors.append(b"%b%b%b" % (before, elements, after))
    output = b"".join(tensors)
    times = profile_of(request, wrote_from_us)
    rest = _Response(profile_time=times, profile_server=request.profiled, log_id=request.log_id)
    return b"%b%b%b%b" % (_before_tensors(len(output)), output, _ENGINE, rest.SerializeToString())


@lru_cache(maxsize=1024)
def _before_tensors(size: int) -> bytes:
    """The beginning of a response with one output, whose tensors have so many bytes."""
    return _OUTPUTS_TAG + varint(size + len(_ENGINE))


@lru_cache(maxsize=1024)
def _around(name: str, own_name: str, dtype: str, shape: tuple[int, ...], size: int) -> tuple[bytes, bytes]:
    """What is written before and after a tensor's elements, if these have so many bytes. Raises Unsupported."""
    kind = of_output(name, dtype)
    opening = b"" if dtype == BYTES or not size else _tag(_Tensor, kind.field) + varint(size)
    rest = bytes(_Tensor(elem_type=kind.number, shape=shape, name=own_name, alias_name=name).SerializeToString())
    before, after = (rest, b"") if kind.field == CONTENT else (b"", rest)  # in the order of the fields' numbers
    return _TENSOR_TAG + varint(len(opening) + size + len(rest)) + before + opening, after


def _texts(tensor: Tensor) -> bytes:
    """Fields with their tags."""
    return bytes(_Tensor(data=texts_of(tensor)).SerializeToString())


def _varints(tensor: Tensor) -> bytes:
    return varints.write(tensor.data, tensor.dtype)


_WRITERS = {BYTES: _texts} | {kind.dtype: _varints for kind in ALL if kind.varints}
"""What writes elements that are not written as they are in memory."""


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
