"""Calls as data: what to send, and how to parse the answer. The clients do the sending.

A gRPC call is a POST to "/package.Service/Method". Its metadata are the headers.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Generic, Protocol, TypeVar

import msgspec
import orjson

from pdserver.client.answers import ModelMetadata, ServerMetadata
from pdserver.client.arrays import Arrays, Inputs
from pdserver.client.errors import InvalidInput

T = TypeVar("T")
Parameter = bool | int | float | str
Parameters = Mapping[str, Parameter]
_HEADER_NAME = re.compile(r"[-!#$%&'*+.^_`|~0-9A-Za-z]+")
_HEADER_VALUE = re.compile(r"([\x21-\x7e]([\t\x20-\x7e]*[\x21-\x7e])?)?")


class Answer(msgspec.Struct, frozen=True):
    """What the server sent back."""

    status: int
    headers: Mapping[str, str]
    """Names are found in upper and lower case."""
    body: bytes

    def retry_after_seconds(self) -> float | None:
        """How long the server asks to wait before the next try; None if it does not say."""
        told = self.headers.get("retry-after", "")
        return float(told) if told.isdigit() else None


class Port(msgspec.Struct, frozen=True):
    """Where calls go."""

    address: str
    token: str
    """Authorizes the calls; empty: none is sent."""

    def __post_init__(self) -> None:
        """Raises ValueError for a token that no header can hold. The token is a secret, so the error leaves it out."""
        if not _HEADER_VALUE.fullmatch(self.token):
            raise ValueError("token: expected visible ASCII characters, with no white space or line break around them")

    def headers(self) -> dict[str, str]:
        return {"authorization": f"Bearer {self.token}"} if self.token else {}


class Call(msgspec.Struct, Generic[T], frozen=True):
    method: str
    path: str
    parse: Callable[[Answer], T]
    """Raises ClientError."""
    body: bytes = b""
    headers: dict[str, str] = {}


def opaque(data: object) -> tuple[bytes, str]:
    """(body, content type): bytes as they are, texts as UTF-8, all else as JSON. Raises InvalidInput."""
    try:
        if isinstance(data, bytes | bytearray | memoryview):
            return bytes(data), "application/octet-stream"
        if isinstance(data, str):
            return data.encode(), "text/plain; charset=utf-8"
        return orjson.dumps(data, option=orjson.OPT_SERIALIZE_NUMPY), "application/json"
    except (TypeError, ValueError) as error:
        raise InvalidInput(f"data: expected bytes, a text, or what JSON can hold: {error}") from None


def sendable(headers: Mapping[str, str]) -> dict[str, str]:
    """The headers, with lower-case names. Raises InvalidInput for one that HTTP cannot hold (RFC 9110, section 5)."""
    for name, value in headers.items():
        if not _HEADER_NAME.fullmatch(name):
            raise InvalidInput(f"headers: {name!r} is not a header's name: expected ASCII letters, digits and hyphens")
        if not _HEADER_VALUE.fullmatch(value):
            raise InvalidInput(f"headers: {name} is {value!r}: expected ASCII without line breaks or blanks around it")
    return {name.lower(): value for name, value in headers.items()}


class Calls(Protocol):
    """What the modules `http_calls` and `grpc_calls` provide. All of it raises InvalidInput for what can't be sent."""

    def infer(
        self,
        model: str,
        inputs: Inputs,
        version: str | None,
        outputs: Sequence[str],
        parameters: Parameters,
        request_id: str,
    ) -> Call[Arrays]: ...

    def predict(self, model: str, data: object, version: str | None, headers: Mapping[str, str]) -> Call[Any]: ...

    def live(self) -> Call[bool]: ...

    def ready(self, model: str | None, version: str | None) -> Call[bool]: ...

    def server_metadata(self) -> Call[ServerMetadata]: ...

    def model_metadata(self, model: str, version: str | None) -> Call[ModelMetadata]: ...

    def register(self, url: str, parameters: Parameters) -> Call[str]: ...

    def scale(self, model: str, version: str | None, parameters: Parameters) -> Call[str]: ...

    def set_default(self, model: str, version: str) -> Call[str]: ...

    def unregister(self, model: str, version: str | None) -> Call[str]: ...

    def describe(self, model: str, version: str | None) -> Call[list[dict[str, Any]]]: ...

    def models(self, page: str) -> Call[tuple[dict[str, str], str]]:
        """(a page of models, the token of the next page). The token is "" for the first page, and after the last."""
