"""The values that go from node to node, in the front end as in workers.

A value is an item, or a list of items. An item is a tensor or an opaque part, whose data may be in a memory file. That
file is passed on as it is, and its data are never touched here, but for conditions and for rows that are put together.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple, TypeAlias

import msgspec
import numpy as np
from numpy.typing import NDArray

from pdserver.dtypes import BFLOAT16, BYTES
from pdserver.errors import InvalidRequest
from pdserver.formats.elements import elements, packed
from pdserver.tensors import array, byte_size, tensor
from pdserver.types import Part, Tensor

BINARY, TEXT, JSON = "application/octet-stream", "text/plain; charset=utf-8", "application/json"
MOST_ITEMS = 10_000
"""That a node runs for one by one. A few bytes of a request can say that there are billions: float32[1000000000, 0]."""
_MOST_VALUES = 2_000_000
"""Of JSON that is taken apart. Twice as many would hold up the event loop for more than a second."""
_raw_list = msgspec.json.Decoder(list[msgspec.Raw]).decode


class Item(NamedTuple):
    """`given.file` is -1: data in `given.data`, or 0: `given.size` bytes from `given.start` in the file `fd`."""

    given: Part | Tensor
    fd: int = -1
    owner: Any = None
    """Keeps the descriptor open."""

    @property
    def data(self) -> bytes:
        """Its data; from a file, they are copied."""
        given = self.given
        return given.data if given.file < 0 else os.pread(self.fd, given.size, given.start)

    def of(self, shape: tuple[int, ...], start: int, size: int) -> Item:
        """A tensor of this shape on `size` of this tensor's bytes, from `start`."""
        given = self.given
        assert isinstance(given, Tensor)  # noqa: S101
        if given.file < 0:
            data: Any = memoryview(given.data)[start : start + size] if size < len(given.data) else given.data
            return Item(Tensor(given.name, given.dtype, shape, data))
        place = Tensor(given.name, given.dtype, shape, b"", given.file, given.start + start, size)
        return Item(place, self.fd, self.owner)


class Parts(list[Item]):
    """All parts of a request, each by its own name. A model that is asked by parts gets them as they are."""


Value: TypeAlias = Item | list[Item]
Values: TypeAlias = Mapping[str, Value]


def items_of(value: Value) -> Sequence[Value]:
    """The items of a list or of a JSON array, or the rows of a tensor, each without the first axis.

    Raises InvalidRequest for another value, and for more than `MOST_ITEMS`.
    """
    if isinstance(value, list):
        _count(len(value))
        return value
    given = value.given
    if isinstance(given, Part):
        raws = _array(value, given)
        _count(len(raws))
        return [Item(Part(given.name, JSON, bytes(raw))) for raw in raws]
    if not given.shape:
        raise InvalidRequest("it is a tensor of shape [], which has no rows")
    count, row = given.shape[0], given.shape[1:]
    _count(count)
    if given.dtype == BYTES:
        try:
            texts = elements(value.data, math.prod(given.shape))
        except ValueError as error:
            raise InvalidRequest(f"its data are not {BYTES} of shape {list(given.shape)}: {error}") from None
        size = math.prod(row)
        return [
            Item(Tensor(given.name, BYTES, row, packed(texts[index * size : (index + 1) * size])))
            for index in range(count)
        ]
    row_bytes = byte_size(given.dtype, row) or 0
    return [value.of(row, index * row_bytes, row_bytes) for index in range(count)]


def _count(items: int) -> None:
    if items > MOST_ITEMS:
        raise InvalidRequest(f"it has {items} items, and a node takes at most {MOST_ITEMS} of a request: send fewer")


def _array(value: Item, given: Part) -> list[msgspec.Raw]:
    if not is_json(given.content_type):
        raise InvalidRequest(f"it is one piece of {given.content_type or 'data'}, and not a list")
    data = value.data
    check_size(data)
    try:
        return _raw_list(data)
    except (msgspec.DecodeError, RecursionError):  # the latter, for what is nested too deeply
        raise InvalidRequest("it is JSON, but no array") from None


def check_size(data: bytes) -> None:
    """Raises InvalidRequest for JSON of too many values to take it apart here."""
    if len(data) > _MOST_VALUES:  # each takes a comma or a bracket
        count = data.count(b",") + data.count(b"[") + data.count(b"{")
        if count > _MOST_VALUES:
            raise InvalidRequest(
                f"it is JSON of some {count:,} values, and {_MOST_VALUES:,} can be taken apart: send tensors by the"
                " Open Inference Protocol, or more requests"
            )


def numbers(value: object, dtype: str) -> NDArray[Any]:
    """JSON's nested lists of numbers as an array of this dtype, "": of that which numpy finds.

    Raises ValueError for what is no number, and for numbers that the dtype does not have.
    """
    found = np.asarray(value)
    if found.dtype.kind not in "biuf" or dtype == BYTES:
        raise ValueError("they are no numbers")
    if not dtype:
        return found
    wanted = np.dtype(np.float32 if dtype == BFLOAT16 else dtype)
    with np.errstate(over="ignore", invalid="ignore"):
        made = found.astype(wanted)
    if wanted.kind == "b" and found.size and found.dtype.kind != "b":
        raise ValueError("expected true or false")
    if not (np.isfinite(made).all() if wanted.kind == "f" else (made == found).all()):
        raise ValueError(f"some are no {dtype}")
    return made


def is_json(content_type: str) -> bool:
    """Also with parameters: "application/json; charset=utf-8"."""
    return content_type == JSON or content_type.partition(";")[0].strip().lower() == JSON


def gathered(values: Iterable[Value]) -> list[Item]:
    """The outputs of all items of a fan-out as a list. Raises InvalidRequest for lists in it."""
    found: list[Item] = []
    for value in values:
        if isinstance(value, list):
            raise InvalidRequest("a list of lists: give one tensor or one JSON value for each item")
        found.append(value)
    return found


def is_true(value: Value) -> bool:
    """Of a condition: a number that is not 0, JSON that is neither null, false, 0 nor empty, and text, bytes or a list
    that is not empty. Raises InvalidRequest for a tensor of several numbers, and for what is no JSON."""
    if isinstance(value, list):
        return bool(value)
    given = value.given
    if isinstance(given, Part):
        if not is_json(given.content_type):
            return bool(len(given.data) if given.file < 0 else given.size)
        data = value.data
        check_size(data)
        try:
            return bool(msgspec.json.decode(data))
        except (msgspec.DecodeError, RecursionError) as error:
            raise InvalidRequest(f"it is not JSON: {error}") from None
    if math.prod(given.shape) != 1:
        raise InvalidRequest(f"it is a tensor of shape {list(given.shape)}: a condition takes a single number")
    held = array(msgspec.structs.replace(given, data=value.data, file=-1))
    return bool(held.ravel()[0])


def positions(indexes: Sequence[int]) -> Item:
    """The indexes as an int64 tensor."""
    return Item(tensor("positions", np.asarray(indexes, np.int64)))


def json_item(value: object) -> Item:
    return Item(Part("json", JSON, msgspec.json.encode(value)))
