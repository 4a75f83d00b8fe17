"""What a call that loads a model brings along, as it comes over REST and gRPC.

Source: Triton's model repository extension. The contents of files are in base64 where the protocol has no bytes.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping
from typing import Any

import msgspec

from pdserver.dialects.oip.body import json_object
from pdserver.dialects.protos import decode, message_class
from pdserver.errors import InvalidRequest, Unsupported
from pdserver.formats.values import shown
from pdserver.memory_file import Buffer, MemoryFile, view

FILE = "file:"
"""How the names of parameters begin that are files."""
_MAX_PARAMETERS = 1024
_Request = message_class("inference.RepositoryModelLoadRequest")
Value = bool | int | float | str
Parameters = Mapping[str, Value | bytes | memoryview]


class Brought(msgspec.Struct, array_like=True):
    """The parameters of a call, with the contents of files in a memory file."""

    name: str
    """Of the model; empty when the URL names it."""
    values: dict[str, Value]
    places: dict[str, tuple[int, int]]
    """Where each content begins in the memory file, and its size."""

    def parameters(self, file: MemoryFile) -> Parameters:
        contents = view(file.fd)
        return {**self.values, **{key: contents[start : start + size] for key, (start, size) in self.places.items()}}


def beside(name: str, parameters: Parameters) -> tuple[Brought, MemoryFile]:
    """Raises Unavailable."""
    brought = Brought(name, {}, {})
    file = MemoryFile()
    start = 0
    for key, value in parameters.items():
        if isinstance(value, bytes | memoryview):
            file.append(value)
            brought.places[key] = (start, len(value))
            start += len(value)
        else:
            brought.values[key] = value
    file.seal()
    return brought, file


def loading_of_json(body: Buffer) -> Parameters:
    """What the JSON of a call has. Raises InvalidRequest."""
    values = parameters_of_json(json_object(body))
    return {key: _content(key, value) if key.startswith(FILE) else value for key, value in values.items()}


def parameters_of_json(given: Mapping[str, Any]) -> dict[str, Value]:
    """Of a body that loads or unloads a model. Raises InvalidRequest."""
    parameters = given.get("parameters", {})
    if not isinstance(parameters, dict):
        raise InvalidRequest(f"'parameters' is {shown(parameters)}: expected an object")
    for name, value in parameters.items():
        if not isinstance(value, bool | int | float | str):
            raise InvalidRequest(f"parameter '{shown(name)}' is {shown(value)}: expected text, a number or a truth")
    _check_count(parameters)
    return parameters


def loading_of_message(data: bytes | memoryview) -> tuple[str, Parameters]:
    """The model and the parameters of a RepositoryModelLoadRequest. Raises InvalidRequest, Unsupported."""
    message = decode(_Request, data)
    check_repository(message)
    return message.model_name, values_of(message.parameters)


def check_repository(message: Any) -> None:
    """Raises Unsupported."""
    if message.repository_name:
        raise Unsupported("'repository_name' specification is not supported: there is one repository; leave it out")


def values_of(given: Mapping[str, Any]) -> dict[str, Value | bytes]:
    """A map of messages with a `parameter_choice`. Raises InvalidRequest for one without a value."""
    _check_count(given)
    found: dict[str, Value | bytes] = {}
    for name, parameter in given.items():
        kind = parameter.WhichOneof("parameter_choice")
        if kind is None:
            raise InvalidRequest(f"'{shown(name)}' has no value")
        found[name] = getattr(parameter, kind)
    return found


def _check_count(parameters: Mapping[str, Any]) -> None:
    if len(parameters) > _MAX_PARAMETERS:
        raise InvalidRequest(f"the call has {len(parameters):,} parameters: at most {_MAX_PARAMETERS:,}")


def _content(key: str, value: Value) -> bytes:
    if not isinstance(value, str):
        raise InvalidRequest(f"load parameter {shown(key)!r}: expected the file's content, in base64")
    try:
        return base64.b64decode(value, validate=True)
    except (binascii.Error, ValueError) as error:
        raise InvalidRequest(f"load parameter {shown(key)!r}: not base64: {error}") from None
