"""The JSON of an inference request, as the Open Inference Protocol has it."""

from __future__ import annotations

import json
from typing import Any

import msgspec

from pdserver.errors import InvalidRequest
from pdserver.formats import strict_json
from pdserver.formats.strict_json import InvalidJson
from pdserver.formats.values import shown
from pdserver.memory_file import Buffer

NO_DATA = msgspec.Raw()


class Input(msgspec.Struct, gc=False):
    name: str
    shape: list[int]
    datatype: str
    parameters: dict[str, Any] | None = None
    data: msgspec.Raw = NO_DATA
    """Not decoded yet: its datatype says as what."""


class Output(msgspec.Struct, gc=False):
    name: str
    parameters: dict[str, Any] | None = None


class Head(msgspec.Struct, gc=False):
    inputs: list[Input]
    id: str | None = None
    parameters: dict[str, Any] | None = None
    outputs: list[Output] | None = None


class LooseInput(msgspec.Struct, gc=False):
    """Of JSON with NaN or Infinity, which JSON does not have but Triton and its clients do: `data` is Python's."""

    name: str
    shape: list[int]
    datatype: str
    parameters: dict[str, Any] | None = None
    data: Any = NO_DATA


class LooseHead(msgspec.Struct, gc=False):
    inputs: list[LooseInput]
    id: str | None = None
    parameters: dict[str, Any] | None = None
    outputs: list[Output] | None = None


_decode = msgspec.json.Decoder(Head).decode


def read_head(text: bytes) -> Head | LooseHead:
    """Raises InvalidRequest, which names the field."""
    try:
        return _decode(text)
    except msgspec.ValidationError as error:
        raise _unfit(error) from None
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
        if b"NaN" in text or b"Infinity" in text:
            return _read_loose(text)
        raise _malformed(error) from None


def json_object(data: Buffer) -> dict[str, Any]:
    """The JSON object that a body is; empty for an empty body. Raises InvalidRequest."""
    try:
        given = strict_json.loads(data)
    except InvalidJson as error:
        if not bytes(data).strip():
            return {}
        raise _malformed(error) from None
    if not isinstance(given, dict):
        raise InvalidRequest(f"the body is {shown(given)}: expected a JSON object")
    return given


def _read_loose(text: bytes) -> LooseHead:
    try:
        return msgspec.convert(json.loads(text), LooseHead)
    except msgspec.ValidationError as error:
        raise _unfit(error) from None
    except (ValueError, RecursionError) as error:
        raise _malformed(error) from None


def _unfit(error: Exception) -> InvalidRequest:
    return InvalidRequest(f"Unable to parse the request: {error}")


def _malformed(error: Exception) -> InvalidRequest:
    return InvalidRequest(f"failed to parse the request JSON buffer: {error}")
