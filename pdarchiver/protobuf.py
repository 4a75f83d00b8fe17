"""As much of protobuf as Paddle's own files need: the wire format's fields, and the text format of Serving's conf.

Sources: protobuf.dev/programming-guides/encoding and protobuf.dev/reference/protobuf/textformat-spec. The protobuf
package is left out on purpose: it would tie us to the version that paddle asks for.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import TypeAlias

Field: TypeAlias = "int | bytes"
Message: TypeAlias = "dict[int, list[Field]]"
TextMessage: TypeAlias = "dict[str, list[str | TextMessage]]"

_MAX_DEPTH = 16
_MAX_FIELDS = 1_000_000
"""Of one message: a model's block has a field for each operation and variable."""


def decode(data: bytes) -> Message:
    """One message: field number → its values in order; nested messages and strings are bytes.

    Raises ValueError for bytes that are no message, and for too many fields.
    """
    message: Message = {}
    at = fields = 0
    while at < len(data):
        fields += 1
        if fields > _MAX_FIELDS:
            raise ValueError(f"more than {_MAX_FIELDS:,} fields")
        key, at = varint(data, at)
        wire_type = key & 7
        value: Field
        if wire_type == 0:
            value, at = varint(data, at)
        elif wire_type in _FIXED:
            value, at = _slice(data, at, _FIXED[wire_type])
        elif wire_type == 2:
            length, at = varint(data, at)
            value, at = _slice(data, at, length)
        else:
            raise ValueError(f"wire type {wire_type} at byte {at}")
        message.setdefault(key >> 3, []).append(value)
    return message


_FIXED = {1: 8, 5: 4}


def messages(message: Message, number: int) -> Iterator[Message]:
    """The nested messages of a repeated field."""
    for value in message.get(number, ()):
        if not isinstance(value, bytes):
            raise ValueError(f"field {number} is a number, expected a message")
        yield decode(value)


def strings(message: Message, number: int) -> list[str]:
    values = message.get(number, [])
    return [value.decode() for value in values if isinstance(value, bytes)]


def string(message: Message, number: int) -> str:
    return next(iter(strings(message, number)), "")


def integers(message: Message, number: int) -> list[int]:
    """A repeated int64 or enum, packed or not."""
    found: list[int] = []
    for value in message.get(number, ()):
        if isinstance(value, int):
            found.append(_signed(value))
            continue
        at = 0
        while at < len(value):
            item, at = varint(value, at)
            found.append(_signed(item))
    return found


def integer(message: Message, number: int, default: int = 0) -> int:
    return next(iter(integers(message, number)), default)


def varint(data: bytes | memoryview, at: int) -> tuple[int, int]:
    """A number, and where it ends. Raises ValueError."""
    value = 0
    for shift in range(0, 70, 7):
        if at >= len(data):
            break
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
    raise ValueError(f"a number that does not end at byte {at}")


def _slice(data: bytes, at: int, length: int) -> tuple[bytes, int]:
    if at + length > len(data):
        raise ValueError(f"a field of {length} bytes at byte {at}, of {len(data)}")
    return data[at : at + length], at + length


def _signed(value: int) -> int:
    value &= (1 << 64) - 1
    return value - (1 << 64) if value >> 63 else value


_TOKEN = re.compile(
    r"""(?P<skip>(?:\s|\#[^\n]*)+)|(?P<mark>[{}<>\[\]:,;])|(?P<string>"(?:[^"\\\n]|\\.)*"|'(?:[^'\\\n]|\\.)*')"""
    r"""|(?P<word>[-+\w.]+)"""
)


def decode_text(text: str) -> TextMessage:
    """One message in text format: field name → its values in order, scalars as they are written, strings unquoted.

    Raises ValueError, with the line, for text that is no message.
    """
    tokens = _Tokens(text)
    message = _text_message(tokens, None, 0)
    return message


class _Tokens:
    """The tokens of a text, one ahead."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.at = 0
        self.kind, self.token = "", ""
        self.advance()

    def advance(self) -> str:
        passed = self.token
        while self.at < len(self.text):
            match = _TOKEN.match(self.text, self.at)
            if match is None:
                raise self.unexpected(self.text[self.at])
            self.at = match.end()
            if match.lastgroup != "skip":
                self.kind, self.token = str(match.lastgroup), match.group()
                return passed
        self.kind, self.token = "end", ""
        return passed

    def accept(self, *marks: str) -> bool:
        if self.kind == "mark" and self.token in marks:
            self.advance()
            return True
        return False

    def unexpected(self, token: str | None = None) -> ValueError:
        line = self.text.count("\n", 0, self.at) + 1
        return ValueError(f"line {line}: unexpected {(token or self.token or 'end')[:50]!r}")


def _text_message(tokens: _Tokens, closing: str | None, depth: int) -> TextMessage:
    message: TextMessage = {}
    while not (tokens.accept(closing) if closing else tokens.kind == "end"):
        if tokens.kind != "word" or depth > _MAX_DEPTH:
            raise tokens.unexpected()
        values = message.setdefault(tokens.advance(), [])
        colon = tokens.accept(":")
        if tokens.accept("{"):
            values.append(_text_message(tokens, "}", depth + 1))
        elif tokens.accept("<"):
            values.append(_text_message(tokens, ">", depth + 1))
        elif colon and tokens.accept("["):
            while not tokens.accept("]"):
                values.append(_text_scalar(tokens))
                tokens.accept(",")
        elif colon:
            values.append(_text_scalar(tokens))
        else:
            raise tokens.unexpected()
        tokens.accept(",", ";")
    return message


def _text_scalar(tokens: _Tokens) -> str:
    if tokens.kind == "word":
        return tokens.advance()
    if tokens.kind != "string":
        raise tokens.unexpected()
    parts = []
    while tokens.kind == "string":
        parts.append(re.sub(r"\\(.)", _unescaped, tokens.advance()[1:-1]))
    return "".join(parts)


def _unescaped(match: re.Match[str]) -> str:
    return {"n": "\n", "t": "\t", "r": "\r"}.get(match[1], match[1])
