"""Requests and responses as JSON, by the rules of brpc's json2pb, which Paddle Serving's C++ server has them from.

They are not those of protobuf's own JSON: all numbers are numbers, but for NaN and the infinities, which are strings;
fields with their default are left out; unknown ones are ignored.
"""

from __future__ import annotations

import base64
import binascii
import struct
from collections.abc import Callable
from functools import lru_cache
from typing import Any, Literal

import msgspec
import orjson

from pdserver.dialects.paddle.answer import ENGINE, profile_of, texts_of
from pdserver.dialects.paddle.elem_types import CONTENT, FIELDS, ElemType, of_output
from pdserver.dialects.paddle.request import Asked, GeneralRequest, microseconds, put_together, unusual
from pdserver.dialects.tensors import json_writer
from pdserver.dtypes import BYTES
from pdserver.errors import InvalidRequest
from pdserver.formats.values import shown
from pdserver.types import Reply, Tensor

_ENGINE = b'"engine_name":"%b"' % ENGINE.encode()
_NOTHING = msgspec.Raw()
_PLACE = b"\0"
"""Stands for what comes later. JSON never has it."""


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
    wrote_from_us = microseconds() if request.profiled else 0
    tensors = []
    for tensor in reply.tensors:
        name = tensor.name
        before, after, elements = _around(
            name, request.sources.get(name, name), tensor.dtype, tensor.shape, len(tensor.data)
        )
        tensors.append(before + elements(tensor) + after)
    output = b'"tensor":[%b],' % b",".join(tensors) if tensors else b""
    times = orjson.dumps(profile_of(request, wrote_from_us))
    text = b'{"outputs":[{%b%b}],"profile_time":%b' % (output, _ENGINE, times)
    if request.profiled:
        text += b',"profile_server":true'
    if request.log_id:
        text += b',"log_id":%d' % request.log_id
    return text + b"}"


@lru_cache(maxsize=1024)
def _around(
    name: str, own_name: str, dtype: str, shape: tuple[int, ...], size: int
) -> tuple[bytes, bytes, Callable[[Tensor], bytes]]:
    """What is written before and after a tensor's elements, which have so many bytes, and what writes these.

    Raises Unsupported.
    """
    kind = of_output(name, dtype)
    elements: Callable[[Tensor], bytes]
    if not size:
        elements = _no_elements
    elif dtype == BYTES:
        elements = _quoted
    else:
        elements = _coded if kind.field == CONTENT else json_writer(dtype, shape, size, quoted=True)
    said = {
        kind.field: orjson.Fragment(_PLACE) if size else None,
        "elem_type": kind.number, "shape": shape, "name": own_name, "alias_name": name,
    }  # fmt: skip
    before, _, after = orjson.dumps({name: value for name, value in said.items() if value}).partition(_PLACE)
    return before, after, elements


def _quoted(tensor: Tensor) -> bytes:
    return orjson.dumps(texts_of(tensor))


def _coded(tensor: Tensor) -> bytes:
    return b'"%b"' % base64.b64encode(tensor.data)


def _no_elements(_: Tensor) -> bytes:
    return b""


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
