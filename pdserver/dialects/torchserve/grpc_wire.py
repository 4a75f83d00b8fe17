"""PredictionsRequest and PredictionResponse as bytes, with large contents left where they are: parsing would copy each
of them twice, and so would writing."""

from __future__ import annotations

from typing import Any

from pdserver.dialects.protos import decode, message_class
from pdserver.dialects.protos.wire import field, fields, joined
from pdserver.dialects.rpc import Answer
from pdserver.errors import InvalidRequest
from pdserver.types import Part, Tensor

_Request = message_class("org.pytorch.serve.grpc.inference.PredictionsRequest")
_NAME = _Request.DESCRIPTOR.full_name
# How fields begin that have a length.
_INPUT, _KEY, _VALUE = 0x1A, 0x0A, 0x12
_PREDICTION = b"\x0a"
CUT_BYTES = 32 * 1024
"""Below, copying costs less than looking at each field."""
_MAX_INPUTS = 1000


def split(data: bytes | memoryview) -> tuple[Any, list[Part | Tensor]]:
    """A PredictionsRequest and its inputs, which are cut out of it if it is large. Raises InvalidRequest."""
    if len(data) < CUT_BYTES:
        message = decode(_Request, data)
        inputs = message.input
    else:
        message, inputs = _cut(memoryview(data))
    if len(inputs) > _MAX_INPUTS:
        raise InvalidRequest(f"the request has {len(inputs):,} inputs: at most {_MAX_INPUTS:,}")
    return message, [Part(name, "", inputs[name]) for name in inputs]


def _cut(data: memoryview) -> tuple[Any, dict[str, Any]]:
    kept: list[memoryview] = []
    inputs: dict[str, Any] = {}
    begin = 0
    for tag, start, place, end in fields(data, _NAME):
        if tag == _INPUT:
            kept.append(data[begin:start])
            name, content = _entry(data[place:end])
            inputs[name] = content
            begin = end
    kept.append(data[begin:])
    return decode(_Request, b"".join(kept)), inputs


def _entry(data: memoryview) -> tuple[str, memoryview]:
    """Of the map of inputs. Raises InvalidRequest."""
    key = value = memoryview(b"")
    for tag, _, place, end in fields(data, _NAME):
        if tag == _KEY:
            key = data[place:end]
        elif tag == _VALUE:
            value = data[place:end]
    try:
        return str(key, "utf-8"), value
    except UnicodeDecodeError:
        raise InvalidRequest(f"what was sent is not a {_NAME}") from None


def join(head: bytes, prediction: bytes) -> Answer:
    """A PredictionResponse of the other fields and the prediction."""
    return joined([*field(_PREDICTION, prediction), head])
