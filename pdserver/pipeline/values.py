"""The values that go from node to node, in the front end as in workers.

A value is an item, or a list of items. An item is a tensor or an opaque part, whose data may be in a memory file. That
file is passed on as it is, and its data are never touched here, but for conditions and for rows that are put together.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, TypeAlias

from pdserver.types import Part, Tensor


class Item(NamedTuple):
    """`given.file` is -1: data in `given.data`, or 0: `given.size` bytes from `given.start` in the file `fd`."""

    given: Part | Tensor
    fd: int = -1
    owner: Any = None
    """Keeps the descriptor open."""


Value: TypeAlias = Item | list[Item]
Values: TypeAlias = Mapping[str, Value]


def items_of(value: Value) -> Sequence[Value]:
    """The items of a list, or the rows of a tensor, each without the first axis. Raises InvalidRequest for another."""
    raise NotImplementedError


def gathered(values: Sequence[Value]) -> Value:
    """The outputs of all items of a fan-out as a list. Raises InvalidRequest for lists in it."""
    raise NotImplementedError


def is_true(value: Value) -> bool:
    """Of a condition: a number that is not 0, JSON that is neither null, false, 0 nor empty, and text, bytes or a list
    that is not empty. Raises InvalidRequest for a tensor of several numbers."""
    raise NotImplementedError
