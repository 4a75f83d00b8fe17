"""An inference request's body over REST: JSON, with the tensors' data in it or behind it, or one tensor's data alone.

Source: the Open Inference Protocol and Triton's binary tensor data extension. What is binary is not copied: tensors are
views of the body, or places in the memory file that holds it.
"""

from __future__ import annotations

import json
import os
from typing import Any, cast

import msgspec

from pdserver.configuration.model import ModelSpec
from pdserver.dialects.base import Body
from pdserver.dialects.oip.request import Shared
from pdserver.dtypes import BYTES
from pdserver.errors import InvalidRequest
from pdserver.formats import strict_json
from pdserver.formats.elements import packed
from pdserver.formats.strict_json import InvalidJson
from pdserver.formats.values import shown
from pdserver.memory_file import Buffer, MemoryFile, view
from pdserver.tensors import byte_size
from pdserver.types import Interface, Port, Tensor

Shape = tuple[int, ...]
NO_DATA = msgspec.Raw()


class InputJson(msgspec.Struct, gc=False):
    name: str
    shape: list[int]
    datatype: str
    parameters: dict[str, Any] | None = None
    data: msgspec.Raw = NO_DATA
    """Not decoded yet: how to decode it depends on the datatype."""


class OutputJson(msgspec.Struct, gc=False):
    name: str
    parameters: dict[str, Any] | None = None


class RequestJson(msgspec.Struct, gc=False):
    inputs: list[InputJson]
    id: str | None = None
    parameters: dict[str, Any] | None = None
    outputs: list[OutputJson] | None = None


class LooseInputJson(msgspec.Struct, gc=False):
    """Of JSON with NaN or Infinity. JSON has neither, but Triton and its clients use them. `data` is Python's."""

    name: str
    shape: list[int]
    datatype: str
    parameters: dict[str, Any] | None = None
    data: Any = NO_DATA


class LooseRequestJson(msgspec.Struct, gc=False):
    inputs: list[LooseInputJson]
    id: str | None = None
    parameters: dict[str, Any] | None = None
    outputs: list[OutputJson] | None = None


_decode = msgspec.json.Decoder(RequestJson).decode


def read_json(text: bytes) -> RequestJson | LooseRequestJson:
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


def _read_loose(text: bytes) -> LooseRequestJson:
    try:
        return msgspec.convert(json.loads(text), LooseRequestJson)
    except msgspec.ValidationError as error:
        raise _unfit(error) from None
    except (ValueError, RecursionError) as error:
        raise _malformed(error) from None


def _unfit(error: Exception) -> InvalidRequest:
    return InvalidRequest(f"Unable to parse the request: {error}")


def _malformed(error: Exception) -> InvalidRequest:
    return InvalidRequest(f"failed to parse the request JSON buffer: {error}")


class Source:
    """One body. `head_bytes` is how much of it is JSON; None: all of it.

    Raises InvalidRequest when that is more than there is.
    """

    def __init__(self, model: str, body: Body, head_bytes: int | None) -> None:
        self.files: list[MemoryFile] = []
        """Those that tensors refer to."""
        self.shared: Shared = []
        self._model = model
        self._body = body
        self._only_json = head_bytes is None
        self._end = len(body.data) if body.file is None else os.fstat(body.file.fd).st_size
        self._place = self._end if head_bytes is None else head_bytes
        if self._place > self._end:
            raise InvalidRequest(
                f"Inference-Header-Content-Length is {head_bytes}, but the body has only {self._end} bytes: expected "
                "the length of the JSON at its beginning"
            )
        self._view = memoryview(body.data)

    def json(self) -> bytes:
        """What is before the tensors."""
        if self._body.file is not None:
            return os.pread(self._body.file.fd, self._place, 0)
        return self._body.data if self._place == self._end else self._body.data[: self._place]

    def take(self, name: str, dtype: str, shape: Shape, size: int) -> Tensor:
        """The next binary input. Raises InvalidRequest when there is not that much left."""
        start = self._place
        if self._only_json:
            raise InvalidRequest(
                f"input '{shown(name)}': must specify valid 'Inference-Header-Content-Length' in request header when "
                "passing inputs in binary data format"
            )
        if start + size > self._end:
            raise InvalidRequest(
                f"unexpected size for input '{shown(name)}', expecting {size} bytes but only {self._end - start} are "
                f"left of the request for model '{self._model}'"
            )
        self._place = start + size
        if self._body.file is None:
            return Tensor(name, dtype, shape, cast(bytes, self._view[start : start + size]))
        return Tensor(name, dtype, shape, b"", self._number(self._body.file), start, size)

    def check_end(self) -> None:
        """Raises InvalidRequest when something is left over."""
        if self._place != self._end:
            raise InvalidRequest(
                f"unexpected additional input data for model '{self._model}': {self._end - self._place} bytes are left "
                "over behind the inputs"
            )

    def raw(self, spec: ModelSpec, interface: Interface) -> Tensor:
        """The whole body as the data of the model's one input, one row of it. Raises InvalidRequest."""
        needed = [port for port in interface.inputs if not port.optional] or interface.inputs
        if len(needed) != 1:
            raise InvalidRequest(
                f"a raw request (Inference-Header-Content-Length: 0) needs a model with exactly one input; "
                f"'{spec.name}' has {len(needed)}"
            )
        (port,) = needed
        shape = (1, *port.shape[1:]) if interface.batched else port.shape
        if port.dtype == BYTES:
            return self._raw_element(port, shape)
        shape = _deduced(port, shape, self._end)
        if self._body.file is None:
            return Tensor(port.name, port.dtype, shape, self._body.data)
        return Tensor(port.name, port.dtype, shape, b"", self._number(self._body.file), 0, self._end)

    def _raw_element(self, port: Port, shape: Shape) -> Tensor:
        if any(length not in (1, -1) for length in shape):
            raise _not_raw(port, "it takes more than one element")
        shape = tuple(1 for _ in shape)
        if self._body.file is None:
            return Tensor(port.name, BYTES, shape, packed([self._body.data]))
        file = MemoryFile([self._end.to_bytes(4, "little"), view(self._body.file.fd)])
        file.seal()
        return Tensor(port.name, BYTES, shape, b"", self._number(file), 0, self._end + 4)

    def _number(self, file: MemoryFile) -> int:
        if file not in self.files:
            self.files.append(file)
        return self.files.index(file)


def _deduced(port: Port, shape: Shape, size: int) -> Shape:
    """The shape with its one open axis as long as the data are. Raises InvalidRequest."""
    if -1 not in shape:
        return shape
    if shape.count(-1) > 1:
        raise _not_raw(port, "more than one of its dimensions is variable")
    step = byte_size(port.dtype, tuple(length for length in shape if length != -1)) or 1
    if size % step:
        raise _not_raw(port, f"{size} bytes are no multiple of {step}")
    return tuple(size // step if length == -1 else length for length in shape)


def _not_raw(port: Port, reason: str) -> InvalidRequest:
    return InvalidRequest(
        f"input '{port.name}' can't be given as a raw request (Inference-Header-Content-Length: 0): {reason}; "
        "send JSON with its shape before it"
    )
