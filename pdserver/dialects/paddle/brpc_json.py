"""Requests and responses as JSON, by the rules of brpc's json2pb, which Paddle Serving's C++ server has them from.

They are not those of protobuf's own JSON: all numbers are numbers, but for NaN and the infinities, which are strings;
fields with their default are left out; unknown ones are ignored.
"""

from __future__ import annotations

import base64
import binascii
import struct
from typing import Any, Literal

import msgspec
import orjson

from pdserver.dialects.paddle.answer import ENGINE, profile_of, texts_of
from pdserver.dialects.paddle.elem_types import CONTENT, FIELDS, ElemType, of_output
from pdserver.dialects.paddle.request import Asked, GeneralRequest, microseconds, put_together, unusual
from pdserver.dialects.tensors import to_json
from pdserver.dtypes import BYTES
from pdserver.errors import InvalidRequest
from pdserver.formats.values import shown
from pdserver.types import Reply, Tensor

_NOTHING = msgspec.Raw()


class TensorJson(msgspec.Struct, gc=False):
    """Elements are not decoded yet: how to do that depends on elem_type."""

    name: str = ""
    alias_name: str = ""
    elem_type: int = 0
    shape: list[int] = []
    lod: list[int] = []
    int64_data: msgspec.Raw = _NOTHING
    float_data: msgspec.Raw = _NOTHING
    int_data: msgspec.Raw = _NOTHING
    float64_data: msgspec.Raw = _NOTHING
    uint32_data: msgspec.Raw = _NOTHING
    bool_data: msgspec.Raw = _NOTHING
    complex64_data: msgspec.Raw = _NOTHING
    complex128_data: msgspec.Raw = _NOTHING
    data: msgspec.Raw = _NOTHING
    tensor_content: str = ""


class RequestJson(msgspec.Struct, gc=False):
    tensor: list[TensorJson] = []
    fetch_var_names: list[str] = []
    profile_server: bool = False
    log_id: int = 0


_Special = Literal["NaN", "Infinity", "-Infinity"]
_decode = msgspec.json.Decoder(RequestJson).decode
_floats = msgspec.json.Decoder(list[float])
_any_floats = msgspec.json.Decoder(list[float | _Special])
_ints = msgspec.json.Decoder(list[int])
_truths = msgspec.json.Decoder(list[bool])
_texts = msgspec.json.Decoder(list[str])
_READERS: dict[str, tuple[Any, str]] = {
    "int64": (_ints, "q"),
    "int32": (_ints, "i"),
    "float32": (_floats, "f"),
    "float64": (_floats, "d"),
    "bool": (_truths, "?"),
    BYTES: (_texts, ""),
}
"""What reads a list of elements, and struct's letter for them."""


def read_json(asked: Asked, text: bytes | memoryview) -> GeneralRequest:
    """Raises InvalidRequest."""
    try:
        given = _decode(text)
    except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError) as error:
        raise InvalidRequest(
            f"the body can't be read as JSON: {error} (a protobuf message needs Content-Type: application/proto)"
        ) from None
    return put_together(asked, given, _data)


def numbers_of(data: bytes) -> bytes:
    """The text of all numbers in a request; empty if they are in several places, and for what is no request."""
    try:
        [given] = _decode(data).tensor
    except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError, ValueError):
        return b""
    texts = [text for name in FIELDS if (text := getattr(given, name))]
    return bytes(texts[0]) if len(texts) == 1 and isinstance(texts[0], msgspec.Raw) else b""


def write_json(request: GeneralRequest, reply: Reply) -> bytes:
    """Raises Unsupported for outputs that the protocol can't hold."""
    began_us = microseconds()
    tensors = [_tensor(tensor, request.sources.get(tensor.name, tensor.name)) for tensor in reply.tensors]
    output = {"tensor": tensors, "engine_name": ENGINE} if tensors else {"engine_name": ENGINE}
    said: dict[str, Any] = {"outputs": [output], "profile_time": profile_of(request, began_us)}
    if request.profiled:
        said["profile_server"] = True
    if request.log_id:
        said["log_id"] = request.log_id
    return orjson.dumps(said)


def _tensor(tensor: Tensor, own_name: str) -> dict[str, Any]:
    kind = of_output(tensor.name, tensor.dtype)
    said: dict[str, Any] = {}
    if kind.dtype == BYTES:
        said[kind.field] = texts_of(tensor)
    elif kind.field != CONTENT:
        said[kind.field] = orjson.Fragment(to_json(tensor, quoted=True)) if len(tensor.data) else None
    said |= {"elem_type": kind.number, "shape": tensor.shape, "name": own_name, "alias_name": tensor.name}
    if kind.field == CONTENT:
        said[CONTENT] = base64.b64encode(tensor.data).decode()
    return {name: value for name, value in said.items() if value}


def _data(given: TensorJson, kind: ElemType, title: str) -> bytes | list[bytes]:
    if kind.field == CONTENT:
        if given.tensor_content:
            return _decoded(given.tensor_content, title)
        return unusual(given, kind, title, lambda text: _decoded(text, title))
    text: msgspec.Raw = getattr(given, kind.field)
    if text is _NOTHING:
        return unusual(given, kind, title, lambda text: _decoded(text, title))
    reader, letter = _READERS[kind.dtype]
    values = _elements(reader, text, f"{title}: {kind.field}")
    try:
        if kind.dtype == BYTES:
            return [value.encode() for value in values]
        return struct.pack(f"<{len(values)}{letter}", *values)
    except UnicodeEncodeError:
        raise InvalidRequest(f"{title}: {kind.field} has a string with half of a surrogate pair") from None
    except (struct.error, OverflowError):
        raise InvalidRequest(f"{title}: {kind.field} has a number that is too large for {kind.dtype}") from None


def _elements(reader: Any, text: msgspec.Raw, title: str) -> list[Any]:
    """Raises InvalidRequest."""
    try:
        try:
            return list(reader.decode(text))
        except msgspec.ValidationError:
            if reader is not _floats:
                raise
            return [float(value) for value in _any_floats.decode(text)]
    except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError) as error:
        raise InvalidRequest(f"{title} can't be read: {error}") from None


def _decoded(text: str, title: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise InvalidRequest(f"{title}: {CONTENT} is {shown(text)}: expected base64: {error}") from None
