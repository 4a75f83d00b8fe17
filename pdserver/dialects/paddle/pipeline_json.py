"""Pipeline's messages in JSON, by the rules of protobuf's JSON as grpc-gateway has them.

Requests: fields by their own names or in lowerCamelCase, unknown ones ignored, numbers also in quotes, bytes in base64.
Answers: all fields by their own names, also those that have nothing to say, and int64 in quotes.

Source: https://protobuf.dev/programming-guides/json, and the gateway's settings in Paddle Serving 0.9.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping
from typing import Annotated, Any

import msgspec
import orjson

from pdserver.dialects.paddle import pipeline_tensors
from pdserver.dialects.paddle.pipeline import Answer, Given, check_count
from pdserver.dialects.paddle.pipeline_text import inner
from pdserver.dialects.paddle.web_request import Malformed
from pdserver.types import Tensor

Fields = dict[str, msgspec.Raw]
"""The fields of a JSON object, each as it is written."""

_object = msgspec.json.Decoder(Fields)
_objects = msgspec.json.Decoder(list[Fields] | None)
_text = msgspec.json.Decoder(str | None)
_texts = msgspec.json.Decoder(list[str] | None)
_whole = msgspec.json.Decoder(Annotated[int, msgspec.Meta(ge=-(2**63), le=2**63 - 1)] | None, strict=False)
_wholes = msgspec.json.Decoder(list[int] | None, strict=False)
_numbers = msgspec.json.Decoder(list[float] | None, strict=False)
_truths = msgspec.json.Decoder(list[bool] | None)
_encode = msgspec.json.Encoder().encode
_URL_SAFE = str.maketrans("-_", "+/")
_CAMEL = {
    **{"int64Data": "int64_data", "floatData": "float_data", "intData": "int_data", "float64Data": "float64_data"},
    **{"uint32Data": "uint32_data", "boolData": "bool_data", "strData": "str_data", "byteData": "byte_data"},
    "elemType": "elem_type",
}
_DECODERS: Mapping[str, Any] = {
    **dict.fromkeys(("int64_data", "int_data", "uint32_data"), _wholes),
    **dict.fromkeys(("float_data", "float64_data"), _numbers),
    "bool_data": _truths,
    "str_data": _texts,
}


def read_fields(body: bytes) -> Fields:
    """The fields of the object that a body is. Raises Malformed."""
    return _decoded(_object, body, "the body")  # type: ignore[no-any-return]


def read_request(fields: Fields) -> Given:
    """Raises Malformed for what is no Request of Pipeline's, InvalidRequest for too many tensors, and for those that
    contradict themselves."""
    given = Given(
        _field(fields, "key", _texts, []),
        _field(fields, "value", _texts, []),
        [],
        {},
        _field(fields, "logid", _whole, 0),
        _field(fields, "clientip", _text, ""),
    )
    items = _field(fields, "tensors", _objects, [])
    check_count(given.keys, items)
    for item in items:
        tensor, lod = _tensor({_CAMEL.get(name, name): value for name, value in item.items()})
        given.tensors.append(tensor)
        if lod:
            given.lods[tensor.name] = lod
    return given


def numbers_of(fields: Fields) -> bytes:
    """The text of a request's numbers, without what stands around its outer brackets; empty if numbers are in several
    places. Raises Malformed."""
    texts: list[str] = _field(fields, "value", _texts, [])
    tensors: list[Fields] = _field(fields, "tensors", _objects, [])
    if len(texts) + len(tensors) != 1:
        return b""
    if texts:
        return inner(texts[0]).encode(errors="replace")
    held = [bytes(text) for name, text in tensors[0].items() if _CAMEL.get(name, name) in _DECODERS]
    return held[0] if len(held) == 1 else b""


def write_answer(answer: Answer) -> bytes:
    """Raises InvalidRequest for tensors whose data do not fit them."""
    if not answer.tensors:
        return _encode(answer)
    said = {
        "err_no": answer.err_no,
        "err_msg": answer.err_msg,
        "key": answer.key,
        "value": answer.value,
        "tensors": list(map(pipeline_tensors.as_json, answer.tensors)),
    }
    return orjson.dumps(said, option=orjson.OPT_SERIALIZE_NUMPY)


def _tensor(fields: Fields) -> tuple[Tensor, list[int]]:
    """A tensor and its LoD."""
    name: str = _field(fields, "name", _text, "")

    def content(field: str) -> Any:
        if field == "byte_data":
            return _bytes(_field(fields, field, _text, ""))
        return _field(fields, field, _DECODERS[field], [])

    elem_type, shape = _field(fields, "elem_type", _whole, 0), _field(fields, "shape", _wholes, [])
    return pipeline_tensors.read(name, elem_type, shape, content), _field(fields, "lod", _wholes, [])


def _field(fields: Fields, name: str, decoder: Any, default: Any) -> Any:
    """What a field says; the default for one that is null or not there. Raises Malformed."""
    value = _decoded(decoder, fields[name], name) if name in fields else None
    return default if value is None else value


def _decoded(decoder: Any, data: bytes | msgspec.Raw, title: str) -> Any:
    try:
        return decoder.decode(data)
    except msgspec.ValidationError as error:
        raise Malformed(f"{title}: {error}") from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise Malformed(f"{title} is not JSON: {error}") from None


def _bytes(text: str) -> bytes:
    try:
        return base64.b64decode(text.translate(_URL_SAFE) + "=" * (-len(text) % 4), validate=True)
    except (binascii.Error, ValueError) as error:
        raise Malformed(f"byte_data is not base64: {error}") from None
