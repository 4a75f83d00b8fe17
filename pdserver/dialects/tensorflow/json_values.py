"""Values of JSON → the elements of tensors, by TensorFlow Serving's rules. All functions raise InvalidRequest.

Source: TensorFlow Serving's REST API, and the texts of its json_tensor, with which errors begin.
"""

from __future__ import annotations

import binascii
import json
import struct
from base64 import b64decode
from itertools import chain
from typing import Any

import msgspec
import orjson

from pdserver.dialects.tensorflow.data_types import DATA_TYPES
from pdserver.dialects.tensors import check_shape, packed_numbers
from pdserver.dtypes import BYTES
from pdserver.errors import InvalidRequest
from pdserver.formats.elements import packed
from pdserver.formats.values import shown

Shape = tuple[int, ...]
_MAX_RANK = 32
_TYPES: dict[type, str] = {
    type(None): "Null", bool: "Bool", dict: "Object", list: "Array", str: "String", int: "Number", float: "Number",
}  # fmt: skip
_WHOLE = {int}
_NUMBERS = {int, float}
_TRUTHS = {bool}
_read_any = json.JSONDecoder().raw_decode


def loads(text: bytes | memoryview) -> dict[str, Any]:
    """The object at the beginning of a body. NaN and infinities are numbers here, and whatever follows is ignored."""
    try:
        value = msgspec.json.decode(text)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
        try:
            value, _ = _read_any(bytes(text).decode().lstrip(" \t\r\n"))
        except (ValueError, RecursionError):
            raise InvalidRequest(f"JSON Parse error: {error if len(text) else 'The document is empty'}") from None
    if not isinstance(value, dict):
        raise InvalidRequest(f"JSON Value: {written(value)} Is not object")
    return value


def elements(dtype: str, value: Any) -> tuple[Shape, bytes]:
    """The shape and the data of a tensor that is written as a number, a text, or as lists of such."""
    shape = _shape(value)
    level = [value]
    for depth, length in enumerate(shape):
        _check_lists(level, depth, length, len(shape))
        level = list(chain.from_iterable(level))
    kinds = set(map(type, level))
    if list in kinds:
        raise InvalidRequest(f"Encountered list at unexpected level: {len(shape)} expected < {len(shape)}")
    return check_shape(shape, "the input"), _packed(dtype, level, kinds)


def is_bytes(value: Any) -> bool:
    """Whether it is {"b64": text}, which stands for bytes."""
    return type(value) is dict and len(value) == 1 and type(value.get("b64")) is str


def written(value: Any) -> str:
    """The value as JSON, cut short."""
    try:
        return shown(orjson.dumps(value).decode())
    except (TypeError, ValueError, RecursionError):  # such as an integer of more than 64 bits
        return shown(value)


def _shape(value: Any) -> Shape:
    """By the first elements: all others must have the same."""
    shape: list[int] = []
    while isinstance(value, list):
        shape.append(len(value))
        if len(shape) > _MAX_RANK:
            raise InvalidRequest(f"Encountered list at unexpected level: {_MAX_RANK} expected < {_MAX_RANK}")
        if not value:
            break
        value = value[0]
    return tuple(shape)


def _check_lists(level: list[Any], depth: int, length: int, rank: int) -> None:
    if not set(map(type, level)) <= {list}:
        odd = next(value for value in level if not isinstance(value, list))
        raise InvalidRequest(
            f"JSON Value: {written(odd)} found at incorrect level: {depth + 1} in the JSON DOM. Expected at level: "
            f"{rank + 1}"
        )
    if set(map(len, level)) - {length}:
        other = next(len(value) for value in level if len(value) != length)
        raise InvalidRequest(f"Encountered list at unexpected size: {other} at level: {depth} expected size: {length}")


def _packed(dtype: str, values: list[Any], kinds: set[type]) -> bytes:
    if dtype == BYTES:
        return packed([_bytes(value) for value in values])
    allowed = _TRUTHS if dtype == "bool" else _NUMBERS if "float" in dtype else _WHOLE
    if not kinds <= allowed:
        raise unfit(next(value for value in values if type(value) not in allowed), dtype)
    try:
        return packed_numbers(dtype, values)
    except (struct.error, OverflowError):
        raise too_large(dtype, values) from None


def unfit(value: Any, dtype: str) -> InvalidRequest:
    """The error for a value of another type."""
    kind = str(value) if isinstance(value, bool) else _TYPES[type(value)]
    return InvalidRequest(
        f"JSON Value: {written(value)} Type: {kind} is not of expected type: {DATA_TYPES[dtype].word}"
    )


def too_large(dtype: str, values: list[Any]) -> InvalidRequest:
    """The error for numbers of which one is none of this dtype."""
    for value in values:
        try:
            packed_numbers(dtype, [value])
        except (struct.error, OverflowError):
            if "float" in dtype:
                word = DATA_TYPES[dtype].word
                return InvalidRequest(
                    f"Cannot convert JSON value: {written(value)} to {word} without loss of precision."
                )
            return unfit(value, dtype)
    raise AssertionError("a number did not fit")


def _bytes(value: Any) -> bytes:
    if type(value) is bytes:  # of a tf.Example, which is no JSON
        return value
    if type(value) is str:
        try:
            return value.encode()
        except UnicodeEncodeError:
            raise InvalidRequest(f"JSON Value: {written(value)} has half of a surrogate pair") from None
    if type(value) is not dict:
        raise unfit(value, BYTES)
    if not is_bytes(value):
        raise InvalidRequest(f"JSON Value: {written(value)} not formatted correctly for base64 data")
    text: str = value["b64"]
    try:
        return b64decode(text.translate(_URL_SAFE) + "=" * (-len(text) % 4), validate=True)
    except (binascii.Error, ValueError):
        raise InvalidRequest(f"Unable to base64 decode: JSON Value: {written(value)}") from None


_URL_SAFE = str.maketrans("-_", "+/")
