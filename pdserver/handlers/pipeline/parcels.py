"""What an Op gives, on its way to an Op in another process: arrays as tensors, bytes as they are, the rest as JSON.

JSON here is a nested list for whatever is no text, number or None: [kind, …]. Nothing is pickled, so that an object of
a class of the operator's own can't pass.
"""

from __future__ import annotations

import json
from typing import Any, NamedTuple

import numpy as np

from pdserver.handlers.pipeline.failures import CustomExceptionCode, OpFailed

_NUMBERS = "biuf"
_LARGEST_NUMBER_BYTES = 8
_DEEPEST = 64
_LIST, _TUPLE, _DICT, _ARRAY, _NUMBER, _BYTES, _TEXTS, _OBJECTS = (
    "list",
    "tuple",
    "dict",
    "a",
    "n",
    "b",
    "texts",
    "objs",
)


class Parcel(NamedTuple):
    said: str
    """JSON."""
    arrays: list[Any]
    pieces: list[bytes]


def packed(answer: dict[str, Any], place: str) -> Parcel:
    """`place` names the Op, for errors. Raises OpFailed for what can't pass, with its key."""
    parcel = Parcel("", [], [])
    pairs = (
        [_said(key, parcel, place, 0), _said(value, parcel, f'{place}: "{key}"', 0)] for key, value in answer.items()
    )
    return parcel._replace(said=json.dumps([_DICT, *pairs]))


def opened(said: str, arrays: list[Any], pieces: list[Any]) -> dict[str, Any]:
    """What was packed. Arrays and bytes are the receiver's own, who may change them."""
    found: dict[str, Any] = _made(json.loads(said), arrays, pieces)
    return found


def _said(value: Any, parcel: Parcel, place: str, depth: int) -> Any:
    if value is None or type(value) in (str, int, float, bool):
        return value
    if depth > _DEEPEST:
        raise _refusal(place, f"goes more than {_DEEPEST} levels deep")
    if isinstance(value, np.ndarray):
        return _of_array(value, parcel, place, depth)
    if isinstance(value, np.generic) and _is_numeric(value.dtype):
        parcel.arrays.append(np.asarray(value))
        return [_NUMBER, len(parcel.arrays) - 1]
    if isinstance(value, bytes | bytearray | memoryview):
        parcel.pieces.append(bytes(value))
        return [_BYTES, len(parcel.pieces) - 1]
    if isinstance(value, list | tuple):
        return [
            _LIST if isinstance(value, list) else _TUPLE,
            *(_said(each, parcel, place, depth + 1) for each in value),
        ]
    if isinstance(value, dict):
        pairs = ([_said(k, parcel, place, depth + 1), _said(v, parcel, place, depth + 1)] for k, v in value.items())
        return [_DICT, *pairs]
    if isinstance(value, str | int | float):  # of a class derived from these, such as a member of an enum
        kind = next(kind for kind in (str, int, float) if isinstance(value, kind))
        return kind(value)
    raise _refusal(place, f"is {type(value).__name__}, or has one in it")


def _of_array(value: Any, parcel: Parcel, place: str, depth: int) -> Any:
    if _is_numeric(value.dtype):
        parcel.arrays.append(value)
        return [_ARRAY, len(parcel.arrays) - 1]
    if value.dtype.kind not in "UO":
        raise _refusal(place, f"is an array of {value.dtype}")
    kind = _TEXTS if value.dtype.kind == "U" else _OBJECTS
    return [kind, list(value.shape), *(_said(each, parcel, place, depth + 1) for each in value.ravel().tolist())]


def _is_numeric(dtype: np.dtype[Any]) -> bool:
    return dtype.kind in _NUMBERS and dtype.itemsize <= _LARGEST_NUMBER_BYTES


def _made(said: Any, arrays: list[Any], pieces: list[Any]) -> Any:
    if not isinstance(said, list):
        return said
    kind, *rest = said
    if kind == _ARRAY:
        return np.array(arrays[rest[0]])
    if kind == _NUMBER:
        return arrays[rest[0]][()]
    if kind == _BYTES:
        return bytes(pieces[rest[0]])
    if kind == _DICT:
        return {_made(key, arrays, pieces): _made(value, arrays, pieces) for key, value in rest}
    if kind in (_LIST, _TUPLE):
        values = [_made(each, arrays, pieces) for each in rest]
        return values if kind == _LIST else tuple(values)
    shape, *elements = rest
    held = np.empty(len(elements), object)
    held[:] = [_made(each, arrays, pieces) for each in elements]
    return held.reshape(shape) if kind == _OBJECTS else held.reshape(shape).astype(str)


def _refusal(place: str, what: str) -> OpFailed:
    return OpFailed(
        CustomExceptionCode.TYPE_ERROR,
        f"{place} {what}: the next Op runs in another process, which gets arrays, bytes, text, numbers, and lists and"
        " dicts of these: return those, or give all Ops the same concurrency, so that they share a process",
    )
