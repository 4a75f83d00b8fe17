"""ModelInferRequest and ModelInferResponse as bytes, without copies of the tensors' bytes.

Parsing such a message copies each tensor twice, and so does writing one. But a message's fields may stand in any order:
raw contents are cut out of a request before it is parsed, and put behind the other fields of a response.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from pdserver.dialects.protos import decode, message_class
from pdserver.dialects.protos.wire import field, fields, joined, varint
from pdserver.dialects.rpc import Answer
from pdserver.errors import InvalidRequest

_Request = message_class("inference.ModelInferRequest")
_NAME = _Request.DESCRIPTOR.full_name
# The first bytes of fields: their number, and the wire type of fields with a length.
_MODEL, _VERSION, _ID, _RAW_INPUT = 0x0A, 0x12, 0x1A, 0x3A
_VERSION_TAG = bytes((_VERSION,))
_SHORT = 2
"""Bytes of the beginning of a field."""
_RAW_OUTPUT = b"\x32"
"""raw_output_contents of ModelInferResponse."""
_STREAMED = b"\x12"
"""infer_response of ModelStreamInferResponse."""
CUT_BYTES = 32 * 1024
"""Copying smaller messages costs less than looking at each of their fields."""


class Cut(NamedTuple):
    """A ModelInferRequest, taken apart."""

    rest: list[memoryview]
    """What is left of it without its raw_input_contents."""
    raw: list[memoryview]
    texts: dict[int, str]

    @property
    def rest_bytes(self) -> int:
        return sum(map(len, self.rest))

    @property
    def model(self) -> str:
        return self.texts.get(_MODEL, "")

    @property
    def version(self) -> str:
        return self.texts.get(_VERSION, "")

    @property
    def id(self) -> str:
        return self.texts.get(_ID, "")

    def message(self) -> Any:
        """The rest. Raises InvalidRequest."""
        return decode(_Request, b"".join(self.rest))


def whole(data: bytes | memoryview) -> Any:
    """A small message. Raises InvalidRequest."""
    return decode(_Request, data)


def cut(data: bytes | memoryview) -> Cut:
    """A large message. Raises InvalidRequest."""
    view = memoryview(data)
    found = Cut([], [], {})
    begin = 0
    for tag, start, place, end in fields(data, _NAME):
        if tag == _RAW_INPUT:
            found.rest.append(view[begin:start])
            found.raw.append(view[place:end])
            begin = end
        elif tag in (_MODEL, _VERSION, _ID):
            found.texts[tag] = _text(view[place:end])
    found.rest.append(view[begin:])
    return found


def named(data: bytes) -> tuple[bytes, bytes]:
    """The model and the version with whose names the message begins, as most do. Empty for what begins otherwise."""
    if len(data) < _SHORT or data[0] != _MODEL:
        return b"", b""
    end = 2 + data[1]
    model = data[2:end]
    if data[end : end + 1] != _VERSION_TAG:
        return model, b""
    begin = end + 2
    return model, data[begin : begin + data[begin - 1]] if begin <= len(data) else b""


def numbers_of(data: bytes) -> bytes:
    """The raw contents of a message with one input; empty for others, and for what is no message."""
    try:
        [raw] = whole(data).raw_input_contents
    except (InvalidRequest, ValueError):
        return b""
    return bytes(raw)


def id_of(data: bytes | memoryview) -> str:
    """The request's id; empty when it can't be read."""
    try:
        return str(whole(data).id) if len(data) < CUT_BYTES else cut(data).id
    except Exception:  # noqa: BLE001 - it is asked when something has failed already
        return ""


def join(head: bytes, raw: Sequence[bytes]) -> Answer:
    """A ModelInferResponse with raw_output_contents added."""
    pieces = [head]
    for data in raw:
        pieces += field(_RAW_OUTPUT, data)
    return joined(pieces)


def streamed(response: Answer) -> Answer:
    """A ModelStreamInferResponse with this ModelInferResponse."""
    if isinstance(response, bytes):
        return joined([*field(_STREAMED, response)])
    return [_STREAMED, varint(sum(map(len, response))), *response]


def _text(data: memoryview) -> str:
    try:
        return str(data, "utf-8")
    except UnicodeDecodeError:
        raise InvalidRequest(f"what was sent is not a {_NAME}") from None
