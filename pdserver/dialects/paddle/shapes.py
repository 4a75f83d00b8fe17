"""How inputs that clients shape freely come to the shape that the model takes."""

from __future__ import annotations

import math
from itertools import chain
from typing import Any

from pdserver.dtypes import BYTES
from pdserver.errors import InvalidRequest
from pdserver.types import Port

_MAX_RANK = 32
Shape = tuple[int, ...]


def regular(title: str, nested: Any) -> tuple[Shape, list[Any]]:
    """The shape of nested lists, and their elements in C order; () for a single value. `title` says whose they are.

    Raises InvalidRequest for lists of different lengths.
    """
    shape: list[int] = []
    level = [nested]
    while level and set(map(type, level)) == {list}:
        lengths = set(map(len, level))
        if len(lengths) != 1 or len(shape) == _MAX_RANK:
            what = "lists of different lengths" if len(lengths) != 1 else f"lists nested more than {_MAX_RANK} deep"
            raise InvalidRequest(f"{title} has {what}")
        shape += lengths
        level = list(chain.from_iterable(level))
    if any(isinstance(value, list) for value in level):
        raise InvalidRequest(f"{title} has lists beside single values")
    return tuple(shape), level


def fitted(port: Port, shape: Shape) -> Shape:
    """The shape for this input: with the batch axis, if that was left out; a flat list of one row's elements as that
    row; texts as one a row. Any other shape as it is."""
    if port.any_rank or not port.shape or port.shape[0] not in (-1, 1):
        return shape
    row = port.shape[1:]
    if len(shape) == len(row) and all(length in (wanted, -1) or wanted == -1 for length, wanted in zip(shape, row)):  # noqa: B905
        return (1, *shape)
    if len(shape) <= 1 and -1 not in row and math.prod(shape) == math.prod(row):
        return (1, *row)
    if port.dtype == BYTES and len(shape) == 1 and set(row) <= {1, -1}:
        return shape + (1,) * len(row)
    return shape
