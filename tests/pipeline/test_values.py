"""Values as nodes get them: the items of all that has items, none of it copied, and what conditions find."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from msgspec.structs import replace

from pdserver.dtypes import NUMPYS
from pdserver.errors import InvalidRequest
from pdserver.memory_file import MemoryFile
from pdserver.pipeline.values import JSON, MOST_ITEMS, TEXT, Item, gathered, is_true, items_of, json_item, positions
from pdserver.tensors import array, tensor
from pdserver.types import Part, Tensor
from tests.pipeline.virtual import Flag, flags

ARRAYS = st.sampled_from(NUMPYS).flatmap(
    lambda dtype: arrays.arrays(np.dtype(dtype), arrays.array_shapes(max_dims=4, min_side=0, max_side=5))
)


def held(value: Any) -> Any:
    """The array of a tensor in memory or in a file."""
    assert isinstance(value, Item)
    assert isinstance(value.given, Tensor)
    given = value.given
    return array(Tensor(given.name, given.dtype, given.shape, value.data))


def in_file(values: Any, before: int = 0) -> Item:
    """The array in a memory file, behind so many other bytes."""
    given = tensor("x", values)
    file = MemoryFile([b"\xff" * before, given.data, b"\xff" * 9])
    return Item(Tensor("x", given.dtype, given.shape, b"", 0, before, len(given.data)), file.seal(), file)


@given(ARRAYS, st.integers(0, 100))
def test_rows_are_the_arrays_rows_in_memory_as_in_a_file(values: Any, before: int) -> None:
    whole, filed = Item(tensor("x", values)), in_file(values, before)
    for item in (whole, filed):
        rows = items_of(item)
        assert len(rows) == len(values)
        for row, expected in zip(rows, values, strict=True):
            assert held(row).dtype == values.dtype
            np.testing.assert_array_equal(held(row), expected)
    for row in items_of(filed):
        assert isinstance(row, Item)
        assert (row.fd, row.owner, row.given.data) == (filed.fd, filed.owner, b"")


def test_rows_of_a_row_in_a_file() -> None:
    values = np.arange(24, dtype=np.int16).reshape(2, 3, 4)
    [_, second] = items_of(in_file(values, 5))
    np.testing.assert_array_equal([held(row) for row in items_of(second)], values[1])


def test_rows_are_not_copied() -> None:
    values = np.arange(300_000, dtype=np.float32).reshape(3, -1)
    item = Item(tensor("x", values))
    rows = items_of(item)
    for index, row in enumerate(rows):
        assert np.shares_memory(held(row), values[index])
    only = Item(tensor("x", values[:1]))
    [row] = items_of(only)
    assert isinstance(row, Item)
    assert row.given.data is only.given.data


@given(st.lists(st.lists(st.binary(max_size=5), min_size=2, max_size=2), max_size=4))
def test_rows_of_texts(texts: list[list[bytes]]) -> None:
    item = Item(tensor("x", np.array(texts, object).reshape(-1, 2)))
    assert [held(row).tolist() for row in items_of(item)] == texts
    assert [[held(one).item() for one in items_of(row)] for row in items_of(item)] == texts


def test_rows_of_bfloat16() -> None:
    item = Item(tensor("x", [[1.0, 2.0], [3.0, 4.0]], "bfloat16"))
    assert [held(row).tolist() for row in items_of(item)] == [[1.0, 2.0], [3.0, 4.0]]


@pytest.mark.parametrize("kind", [JSON, "Application/JSON; charset=utf-8"])
def test_elements_of_a_json_array_are_as_they_were_written(kind: str) -> None:
    rows = items_of(Item(Part("x", kind, b' [1.50, "\\u00e9" , {"a" : [ ]}, null, [1]]')))
    assert [row.given for row in rows if isinstance(row, Item)] == [
        Part("x", JSON, text) for text in (b"1.50", b'"\\u00e9"', b'{"a" : [ ]}', b"null", b"[1]")
    ]


def test_a_list_is_its_items() -> None:
    items = [json_item(1), Item(Part("", TEXT, b"a"))]
    assert items_of(items) is items
    assert gathered(iter(items)) == items
    with pytest.raises(InvalidRequest, match="a list of lists"):
        gathered([items])


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (Item(tensor("x", 1.0)), r"shape \[\], which has no rows"),
        (Item(Part("x", TEXT, b"[1]")), "one piece of text/plain"),
        (Item(Part("x", "", b"[1]")), "one piece of data"),
        (json_item({"a": 1}), "no array"),
        (Item(Part("x", JSON, b"[1")), "no array"),
        (Item(Part("x", JSON, b"[" * 1_000_000)), "no array"),
        (Item(Part("x", JSON, b"[" * 100_000 + b"]" * 100_000)), "no array"),
        (Item(Tensor("x", "float32", (10**12, 0), b"")), "1000000000000 items.* at most 10000"),
        (Item(Tensor("x", "bytes", (10**12, 0), b"")), "at most 10000"),
        (Item(Tensor("x", "bytes", (2,), b"\1\0\0\0a")), "expected 2 elements, got 1"),
        (json_item([0] * (MOST_ITEMS + 1)), "10001 items"),
        ([json_item(0)] * (MOST_ITEMS + 1), "10001 items"),
    ],
)
def test_what_has_no_items(value: Any, message: str) -> None:
    with pytest.raises(InvalidRequest, match=message):
        items_of(value)


def everywhere() -> Iterator[tuple[Flag, Item]]:
    """All forms of all flags, in memory and in a file."""
    for flag in Flag:
        for item in flags(flag):
            yield flag, item
            file = MemoryFile([b"??", item.data])
            given = replace(item.given, data=b"", file=0, start=2, size=len(item.data))
            yield flag, Item(given, file.seal(), file)


@pytest.mark.parametrize(
    ("flag", "value"), list(everywhere()), ids=lambda given: given.name if isinstance(given, Flag) else None
)
def test_what_conditions_find(flag: Flag, value: Item) -> None:
    if flag is Flag.BAD:
        with pytest.raises(InvalidRequest, match=r"not JSON|takes a single number"):
            is_true(value)
    else:
        assert is_true(value) is (flag is Flag.TRUE)
        assert is_true([value])
    assert not is_true([])


def test_whether_bytes_are_empty_is_seen_without_reading_them() -> None:
    closed = os.dup(0)
    os.close(closed)
    assert is_true(Item(Part("x", "image/png", b"", 0, 0, 10**9), closed))
    assert not is_true(Item(Part("x", "image/png", b"", 0, 7, 0), closed))


def test_positions_are_int64() -> None:
    assert positions([]).given == tensor("positions", np.zeros(0, np.int64))
    assert held(positions([0, 2])).tolist() == [0, 2]
