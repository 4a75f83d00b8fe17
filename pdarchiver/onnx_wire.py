"""Steps over the fields of an ONNX file, which is mapped: it may hold gigabytes of weights.

Source of all numbers: onnx/onnx.proto.
"""

from __future__ import annotations

import mmap
from collections.abc import Iterator
from typing import BinaryIO

from pdarchiver.wire import field, varint

MAX_FIELDS = 10_000_000
_GROUPS = (3, 4)
"""Wire types of the marks around a group, which no field of ONNX is."""

GRAPH, OPSETS = 7, 8
"""Of a model."""
NODE, INITIALIZER, INPUT, OUTPUT, SPARSE_INITIALIZER = 1, 5, 11, 12, 15
"""Of a graph."""
TENSOR_NAME = 8


class Reader:
    """The bytes of a model, and a budget of fields to read of it."""

    def __init__(self, file: BinaryIO) -> None:
        self._left = MAX_FIELDS
        try:
            self.data = memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
        except OSError:  # it is in memory
            file.seek(0)
            self.data = memoryview(file.read())

    def fields(self, data: memoryview) -> Iterator[tuple[int, memoryview]]:
        """The number and the value of each field: of a number, its bytes.

        Raises ValueError for what is no message, or too many fields.
        """
        at = 0
        while at < len(data):
            self._left -= 1
            if self._left < 0:
                raise ValueError(f"more than {MAX_FIELDS:,} parts")
            key, begin, at = field(data, at, len(data))
            if key & 7 not in _GROUPS:
                yield key >> 3, data[begin:at]

    def all(self, data: memoryview, number: int) -> list[memoryview]:
        """The values of the fields `number`."""
        return [value for found, value in self.fields(data) if found == number]

    def text(self, data: memoryview, number: int) -> str:
        """The field `number`, a text; "" if there is none."""
        found = self.all(data, number)
        return str(found[-1], "utf-8") if found else ""


def whole_numbers(values: list[memoryview], at_most: int) -> list[int] | None:
    """A repeated field of whole numbers, each by itself or many together. None if they are more than `at_most`."""
    found: list[int] = []
    for value in values:
        at = 0
        while at < len(value):
            if len(found) == at_most:
                return None
            number, at = varint(value, at)
            found.append(signed(number))
    return found


def signed(number: int) -> int:
    """A whole number of 64 bits that may be below 0."""
    number &= (1 << 64) - 1
    return number - (1 << 64) if number >> 63 else number
