"""Triton's model repository extension: which models there are, and loading and unloading them.

Clients that may ask for predictions may call this, too. So loading and unloading are refused unless the operator sets
`model_control_mode=explicit`.

A call that loads a model may bring files. Where the protocol has no bytes, their contents are in base64.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping
from typing import Any, Protocol

import msgspec

from pdserver.dialects.codec import Codec
from pdserver.dialects.oip.body import json_object
from pdserver.dialects.oip.grpc_message import chosen
from pdserver.dialects.protos import decode, message_class
from pdserver.errors import InvalidRequest, Unavailable, Unsupported
from pdserver.formats.values import nearest, shown
from pdserver.memory_file import Buffer, MemoryFile, view
from pdserver.types import Parameter

EXPLICIT = "explicit"
_UNLOAD = ("unload_dependents",)
FILE = "file:"
"""Begins the names of parameters that are files."""
_MAX_PARAMETERS = 1024
_Request = message_class("inference.RepositoryModelLoadRequest")
LoadParameters = Mapping[str, Parameter | bytes | memoryview]
"""Bytes are the contents of files."""


class IndexEntry(msgspec.Struct, frozen=True, omit_defaults=True):
    """One version of the index; a model that was never loaded has a name only."""

    name: str
    version: str = ""
    state: str = ""
    """READY, LOADING, UNLOADING or UNAVAILABLE."""
    reason: str = ""


class Repository(Protocol):
    """Where models come from."""

    async def index(self) -> list[IndexEntry]:
        """All versions that are loaded, and all models that could be."""

    async def load(self, name: str, parameters: LoadParameters) -> None:
        """Load a model; returns when it is ready. Raises LoadFailed, InvalidRequest."""

    async def unload(self, name: str, parameters: LoadParameters) -> None:
        """Unload all versions of a model; returns when they are gone. Raises InvalidRequest."""

    def known(self) -> frozenset[str]:
        """The models of which a version has been loaded, or was asked for, whether it exists or not."""


class Control:
    """The extension's verbs; it refuses those that the operator does not allow."""

    def __init__(self, repository: Repository, mode: str) -> None:
        self._repository = repository
        self._mode = mode

    async def index(self, *, ready: bool = False) -> list[IndexEntry]:
        """All entries, or those that are ready."""
        entries = await self._repository.index()
        return [entry for entry in entries if entry.state == "READY"] if ready else entries

    async def load(self, name: str, parameters: LoadParameters) -> None:
        """Raises Unavailable when it is not allowed, and as Repository.load does."""
        self.check_allowed()
        await self._repository.load(name, parameters)

    async def unload(self, name: str, parameters: LoadParameters) -> None:
        """Raises Unavailable when it is not allowed, and as Repository.unload does."""
        self.check_allowed()
        for key, value in parameters.items():
            if key not in _UNLOAD or not isinstance(value, bool):
                raise InvalidRequest(
                    f"unload parameter '{shown(key)}' is {shown(value)}{nearest(key, _UNLOAD)}: expected "
                    "unload_dependents, true or false"
                )
        await self._repository.unload(name, parameters)

    def knows(self, name: str) -> bool:
        """Whether it is one of Repository.known."""
        return name in self._repository.known()

    def check_allowed(self) -> None:
        """Raises Unavailable when loading and unloading are not allowed."""
        if self._mode != EXPLICIT:
            raise Unavailable(
                "explicit model load / unload is not allowed if polling is enabled, or if the server loads its models "
                f"at its start alone (model_control_mode={self._mode}): set model_control_mode={EXPLICIT}"
            )


class Controlled(Protocol):
    """What the extension's routes and methods need of a server or of a cluster."""

    @property
    def control(self) -> Control: ...

    @property
    def codec(self) -> Codec: ...

    @property
    def limit_bytes(self) -> int:
        """The limit of a request's body."""


class Brought(msgspec.Struct, array_like=True):
    """The parameters of a call that loads a model, with the contents of files in a memory file."""

    name: str
    """Of the model; empty when the URL names it."""
    values: dict[str, Parameter]
    places: dict[str, tuple[int, int]]
    """Where each content begins in the memory file, and its size."""

    def parameters(self, file: MemoryFile) -> LoadParameters:
        contents = view(file.fd)
        return {**self.values, **{key: contents[start : start + size] for key, (start, size) in self.places.items()}}


def put_in_file(name: str, parameters: LoadParameters) -> tuple[Brought, MemoryFile]:
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


def loading_of_json(body: Buffer) -> LoadParameters:
    """The parameters of a call that loads a model, from its body. Raises InvalidRequest."""
    values = parameters_of_json(json_object(body))
    return {key: _content(key, value) if key.startswith(FILE) else value for key, value in values.items()}


def parameters_of_json(given: Mapping[str, Any]) -> dict[str, Parameter]:
    """The parameters in the JSON of a body that loads or unloads a model. Raises InvalidRequest."""
    parameters = given.get("parameters", {})
    if not isinstance(parameters, dict):
        raise InvalidRequest(f"'parameters' is {shown(parameters)}: expected an object")
    for name, value in parameters.items():
        if not isinstance(value, bool | int | float | str):
            raise InvalidRequest(f"parameter '{shown(name)}' is {shown(value)}: expected text, a number or a truth")
    _check_count(parameters)
    return parameters


def loading_of_message(data: bytes | memoryview) -> tuple[str, LoadParameters]:
    """The model and the parameters of a RepositoryModelLoadRequest. Raises InvalidRequest, Unsupported."""
    message = decode(_Request, data)
    check_repository(message)
    return message.model_name, values_of(message.parameters)


def check_repository(message: Any) -> None:
    """Raises Unsupported."""
    if message.repository_name:
        raise Unsupported("'repository_name' specification is not supported: there is one repository; leave it out")


def values_of(given: Mapping[str, Any]) -> dict[str, Parameter | bytes]:
    """The values of a map of messages with a `parameter_choice`. Raises InvalidRequest for one without a value."""
    _check_count(given)
    return chosen(given)


def _check_count(parameters: Mapping[str, Any]) -> None:
    if len(parameters) > _MAX_PARAMETERS:
        raise InvalidRequest(f"the call has {len(parameters):,} parameters: at most {_MAX_PARAMETERS:,}")


def _content(key: str, value: Parameter) -> bytes:
    if not isinstance(value, str):
        raise InvalidRequest(f"load parameter {shown(key)!r}: expected the file's content, in base64")
    try:
        return base64.b64decode(value, validate=True)
    except (binascii.Error, ValueError) as error:
        raise InvalidRequest(f"load parameter {shown(key)!r}: not base64: {error}") from None
