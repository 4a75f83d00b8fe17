"""Tensors as text. Pipeline's Python clients write arrays with `repr`, and read those of answers with `eval`.

Here nothing is evaluated: text becomes JSON, or is refused.
"""

from __future__ import annotations

import json
import math
import re
import sys
from functools import lru_cache
from typing import Any

import msgspec
import numpy as np
import orjson
from numpy.typing import NDArray

from pdserver.dialects.known import JSON, Read, Spelling
from pdserver.dialects.paddle.shapes import fitted, regular
from pdserver.dialects.tensors import check_shape, from_values
from pdserver.dtypes import BYTES
from pdserver.errors import InvalidRequest
from pdserver.formats.values import shown
from pdserver.tensors import array
from pdserver.types import Part, Port, Tensor

_BRACKETS = str.maketrans("()", "[]")
_TOKEN = re.compile(r"[^\s\[\],]+")
_NUMBER = re.compile(r"[+-]?(?:\d+(?:\.\d*)?|\.\d+)(?:[eE][+-]?\d+)?", re.ASCII)
_WORDS = frozenset({"True", "False", "true", "false", "nan", "NaN", "inf", "-inf", "Infinity", "-Infinity"})
_AS_JSON = [
    (re.compile(pattern, re.ASCII), written)
    for pattern, written in (
        (r"(?<=\d)\.(?!\d)", ".0"),
        (r"(?<![\d.])\.(?=\d)", "0."),
        (r"(?<![\d.])0+(?=\d)", ""),
        (r"(?<![\w.+-])\+(?=\d)", ""),
        (r"\bTrue\b", "true"),
        (r"\bFalse\b", "false"),
        (r"\bnan\b", "NaN"),
        (r"\binf\b", "Infinity"),
        (r",\s*\]", "]"),
    )
]
"""What Python writes and JSON does not have → what JSON has for it. Constants, for a function that is called for each
number takes ten times as long."""
_POINT = re.compile(rb"(?<=\d)\.(?!\d)")
_CONTROL = re.compile(rb"[\x00-\x1f]")
_MOST_WITH_BLANKS = 100
"""Elements."""
_USUAL = ("float64", "int64", "bool")
"""The dtypes that numpy does not write."""
_PLAIN = ("float32", "float64", "int32", "int64")
_FLOATS = _PLAIN[:2]
_SMALLEST, _TOO_LARGE = 1e-3, 1e6
"""Of what is sure to have no exponent, whichever numpy there is."""
_LINE = 75
"""Characters, and numpy's indent below `array(`."""
_INDENT = " " * len("array(")
_EXPECTED = "expected numbers with commas between them and semicolons between rows, or a list such as [[0.1, 0.2]]"


def read_text(port: Port, text: str) -> Tensor:
    """What the text says for this input: a text itself; else "0.1, 0.2; 0.3, 0.4", a list as JSON or Python write it,
    or an array as numpy's `repr` does. The batch axis may be left out.

    Raises InvalidRequest.
    """
    title = f"input '{port.name}'"
    shape, values = ((1,), [text]) if port.dtype == BYTES else regular(title, _parsed(title, text))
    shape = check_shape(fitted(port, shape), title)
    return Tensor(port.name, port.dtype, shape, from_values(title, port.dtype, shape, values))


def written(tensor: Tensor) -> str:
    """The array as numpy's `repr` writes it, whole, and with as many digits as tell its numbers from all others. A
    longer one is without numpy's blanks and line breaks, for numpy takes minutes for a million numbers. Elements of any
    length are text.

    Raises InvalidRequest for data that do not fit the tensor.
    """
    values = array(tensor)
    if text := _plain(tensor, values):
        return text
    if tensor.dtype == BYTES:
        texts = [item.decode(errors="replace") for item in values.reshape(-1)]
        values = np.array(texts, np.str_).reshape(values.shape)
    if values.size > _MOST_WITH_BLANKS:
        return _compact(values)
    with np.printoptions(threshold=sys.maxsize, floatmode="unique"):
        return repr(values)


def _compact(values: NDArray[Any]) -> str:
    text = orjson.dumps(values, option=orjson.OPT_SERIALIZE_NUMPY).decode() if values.dtype.kind == "f" else "null"
    if "null" in text:  # for what JSON has no numbers for
        text = repr(values.tolist())
    dtype = repr(values.dtype.str) if values.dtype.kind == "U" else values.dtype.name
    return f"array({text})" if dtype in _USUAL else f"array({text}, dtype={dtype})"


def inner(text: str) -> str:
    """From the first bracket to the last one, or all of it."""
    start = text.find("[")
    return text if start < 0 else text[start : text.rfind("]") + 1]


def _reader(like: Tensor, text: bytes, before: int, after: int) -> Read | None:
    """For lists as JSON has them, also without the brackets, and with the points that numpy writes behind whole
    numbers. Strings of JSON have no control characters."""
    bare = not text.startswith(b"[")
    pointed = _POINT.search(text) is not None
    if bare or pointed:
        read_json = JSON.reader(like, b"[%b]" % text if bare else text, 0, 0)
    else:
        read_json = JSON.reader(like, text, before, after)
    if read_json is None:
        return None
    place = slice(before, -after or None)

    def read(data: bytes) -> list[Part | Tensor] | None:
        return None if _CONTROL.search(data, before, len(data) - after) else read_json(data)

    def read_text(data: bytes) -> list[Part | Tensor] | None:
        piece = data[place]
        if _CONTROL.search(piece):
            return None
        if pointed:
            piece = _POINT.sub(b".0", piece)
        return read_json(b"[%b]" % piece if bare else piece)

    return read_text if bare or pointed else read


SPELLING = Spelling(JSON.other, _reader)
"""How bodies of both web services write numbers: as JSON, or as text in a string of it."""


def _plain(tensor: Tensor, values: NDArray[Any]) -> str:
    """The same for rows of numbers of ordinary size, in a tenth of the time; for others, nothing."""
    around = _around(tensor.dtype, tensor.shape)
    if not around:
        return ""
    is_float = tensor.dtype in _FLOATS
    if values.size == 1:
        if is_float:
            number: float = values.item()
            if not _SMALLEST <= abs(number) < _TOO_LARGE:
                return ""
        return around % orjson.dumps(values, option=orjson.OPT_SERIALIZE_NUMPY).decode().replace(".0]", ".]")
    if is_float and not _ordinary(values.reshape(-1).tolist()):
        return ""
    numbers = orjson.dumps(values, option=orjson.OPT_SERIALIZE_NUMPY).decode()
    depth = values.ndim
    rows = [row.split(",") for row in numbers.strip("[]").split("],[")]
    text = around % f"{'[' * depth}{_aligned(rows, depth)}{']' * depth}"
    if len(text) - text.rfind("\n") > _LINE + 1:
        text = f",\n{_INDENT}".join(text.rsplit(", ", 1)) if tensor.dtype not in _USUAL else text
    return text


@lru_cache(maxsize=1024)
def _around(dtype: str, shape: tuple[int, ...]) -> str:
    """The text without the numbers; empty if these are not one row or rows of one matrix."""
    if dtype not in _PLAIN or not shape or math.prod(shape[:-2]) != 1 or not 0 < math.prod(shape) <= _MOST_WITH_BLANKS:
        return ""
    return "array(%s)" if dtype in _USUAL else f"array(%s, dtype={dtype})"


def _ordinary(numbers: list[float]) -> bool:
    """Whether numpy writes these numbers without exponents. It compares in their own dtype, so there is some room."""
    sizes = [abs(number) for number in numbers if number]
    low, high = min(sizes, default=1.0), max(sizes, default=1.0)
    return _SMALLEST <= low <= high < _TOO_LARGE and high < 999 * low and not any(map(math.isnan, sizes))


def _aligned(rows: list[list[str]], depth: int) -> str:
    """Numbers with their points below each other, and line breaks where numpy has them."""
    pieces = [[number.partition(".") for number in row] for row in rows]
    before = max(len(whole) for row in pieces for whole, _, _ in row)
    after = max(len(part.rstrip("0")) for row in pieces for _, _, part in row)
    width = before + after + (rows[0][0].find(".") > 0)
    indent = _INDENT + " " * depth
    most = max((_LINE - 1 - depth - len(indent) - width) // (width + 2) + 1, 1)
    lines = []
    for row in pieces:
        words = [f"{whole:>{before}}{point}{part.rstrip('0'):<{after}}" for whole, point, part in row]
        groups = [", ".join(words[start : start + most]) for start in range(0, len(words), most)]
        lines.append(f",\n{indent}".join(groups))
    return f"],\n{indent[1:]}[".join(lines)


def _parsed(title: str, text: str) -> Any:
    """A number, or nested lists. Raises InvalidRequest."""
    literal = _unwrapped(text)
    if "[" not in literal:
        rows = literal.split(";")
        literal = f"[{literal}]" if len(rows) == 1 else f"[[{'],['.join(rows)}]]"
    try:
        return msgspec.json.decode(literal)
    except (msgspec.DecodeError, UnicodeEncodeError, RecursionError):
        pass
    text_of_json = literal
    for pattern, in_json in _AS_JSON:
        text_of_json = pattern.sub(in_json, text_of_json)
    try:
        return json.loads(text_of_json, parse_float=_finite)
    except (ValueError, RecursionError):
        pass
    for item in _TOKEN.findall(literal):
        if item not in _WORDS and not _NUMBER.fullmatch(item):
            hint = "; numpy has shortened it: np.set_printoptions(threshold=sys.maxsize)" if item == "..." else ""
            raise InvalidRequest(f"{title}: {shown(item)} is no number{hint}; {_EXPECTED}")
    raise InvalidRequest(f"{title}: {shown(text)} can't be read; {_EXPECTED}")


def _finite(text: str) -> float:
    """Raises ValueError for a number that is too large."""
    value = float(text)
    if math.isinf(value):
        raise ValueError
    return value


def _unwrapped(text: str) -> str:
    """Without `array(…, dtype=…)` around it, and with brackets for the parentheses of tuples."""
    text = text.strip()
    if text.startswith("array(") and text.endswith(")"):
        text = text[len("array(") : -1]
        values, bracket, _ = text.rpartition("]")
        text = values + bracket or text.partition(", dtype=")[0]
    return text.translate(_BRACKETS)
