"""Java-properties syntax → entries, each with the line it stands on. Pure: text in, entries out.

Source: the "Load" section of java.util.Properties' documentation. Differences, all on the strict side: the bytes must
be UTF-8 (a byte order mark is accepted), a malformed `\\uXXXX` names its line, and an empty key is refused.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import NamedTuple

_NATURAL_LINE = re.compile(r"\r\n|\r|\n")
_BLANKS = " \t\f"
_KEY = re.compile(r"(?:[^\\=: \t\f]|\\.)*", re.DOTALL)
_SEPARATOR = re.compile(r"[ \t\f]*[=:]?[ \t\f]*")
_ESCAPE = re.compile(r"\\(u[0-9A-Fa-f]{4}|.)", re.DOTALL)
_CONTROLS = {"t": "\t", "n": "\n", "r": "\r", "f": "\f"}


class Entry(NamedTuple):
    """One `key=value`; `line` counts from 1 and is where the key stands."""

    line: int
    key: str
    value: str
    has_sign: bool
    """Whether `=` or `:` is between them; else blanks are, as in prose."""


class PropertiesError(ValueError):
    """The text is not in properties syntax; `line` counts from 1."""

    def __init__(self, line: int, reason: str) -> None:
        super().__init__(reason)
        self.line = line


def parse_properties(data: bytes) -> list[Entry]:
    """The entries of a properties file, in order, duplicates included.

    Raises PropertiesError at the first place that is not UTF-8 or not in the syntax.
    """
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = len(_NATURAL_LINE.split(data[: error.start].decode("latin-1")))
        raise PropertiesError(line, f"byte {error.start} is not UTF-8: save the file as UTF-8") from None
    return [_entry(line, content) for line, content in _logical_lines(text)]


def _logical_lines(text: str) -> Iterator[tuple[int, str]]:
    """Lines that hold an entry, continuations joined, without their leading blanks."""
    first, joined = 0, ""
    for number, natural in enumerate(_NATURAL_LINE.split(text), start=1):
        content = natural.lstrip(_BLANKS)
        if not first:
            if not content or content[0] in "#!":
                continue
            first = number
        # An even number of backslashes at the end are escaped backslashes, not a continuation.
        if (len(content) - len(content.rstrip("\\"))) % 2:
            joined += content[:-1]
            continue
        if joined + content:
            yield first, joined + content
        first, joined = 0, ""
    if joined:
        yield first, joined


def _entry(line: int, content: str) -> Entry:
    key = _KEY.match(content)
    separator = _SEPARATOR.match(content, key.end() if key else 0)
    if not key or not separator or not key.group():
        raise PropertiesError(line, "a value without a key: write key=value")
    value = _unescape(line, content[separator.end() :])
    return Entry(line, _unescape(line, key.group()), value, bool(separator.group().strip(_BLANKS)))


def escaped(text: str) -> str:
    """A value as a file has it: `parse_properties` reads it back as it is."""
    text = text.replace("\\", "\\\\")
    for letter, control in _CONTROLS.items():
        text = text.replace(control, f"\\{letter}")
    return f"\\{text}" if text.startswith(" ") else text  # blanks before a value are no part of it


def _unescape(line: int, text: str) -> str:
    def replace(match: re.Match[str]) -> str:
        escape = match.group(1)
        if len(escape) > 1:
            return chr(int(escape[1:], 16))
        if escape == "u":
            raise PropertiesError(line, r"\u must be followed by four hexadecimal digits")
        return _CONTROLS.get(escape, escape)

    if "\\" not in text:
        return text
    try:
        # Characters outside the basic plane are written as two escapes, a surrogate pair.
        return _ESCAPE.sub(replace, text).encode("utf-16-le", "surrogatepass").decode("utf-16-le")
    except UnicodeDecodeError:
        raise PropertiesError(line, r"\uD800 to \uDFFF are halves of a character and must come in pairs") from None
