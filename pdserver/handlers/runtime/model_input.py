"""One input of the model: what a request gives for it → an array, checked against the model's signature."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain
from typing import Any

import numpy as np
import orjson

from pdarchiver.manifest import TensorSpec
from pdserver.dtypes import BFLOAT16
from pdserver.errors import ArchiveUnusable, InvalidRequest
from pdserver.formats import strict_json
from pdserver.formats.strict_json import InvalidJson
from pdserver.formats.values import shown
from pdserver.handlers.runtime.npy import NPY_MAGIC, load_npy
from pdserver.handlers.runtime.parts import opened
from pdserver.handlers.runtime.rows import Array
from pdserver.types import Binary

_JSON_TYPES: dict[str, tuple[type, ...]] = {"b": (bool,), "i": (int,), "u": (int,), "f": (int, float)}
_MAX_RANK = 32


def has_bad_id(array: Array, below: int) -> bool:
    """Whether a number in the array is outside 0 to `below` - 1, the rows of an embedding."""
    return array.size > 0 and not (array.min() >= 0 and array.max() < below)


def check_ids(name: str, array: Array, below: int, *, leave_out_first: bool = False) -> None:
    """Raises InvalidRequest for a number that is no row of the embedding, and says where it is, with or without the
    first axis."""
    if has_bad_id(array, below):
        place = np.argwhere((array < 0) | (array >= below))[0].tolist()
        where = "".join(f"[{at}]" for at in place[leave_out_first:])
        raise InvalidRequest(
            f'input "{name}": expected whole numbers from 0 to {below - 1}, since the model\'s embedding has {below} '
            f"rows, got {array[tuple(place)]}{f' at {where}' if where else ''}"
        )


class ModelInput:
    """One input of the model, as requests give it."""

    def __init__(self, spec: TensorSpec, ids_below: int | None) -> None:
        self.name = spec.name
        self.is_scalar = not spec.shape
        self._first = spec.shape[0] if spec.shape else 0
        self.ids_below = ids_below
        try:
            self._dtype = np.dtype("float32" if spec.dtype == BFLOAT16 else spec.dtype)
            self._json_types = frozenset(_JSON_TYPES[self._dtype.kind])
        except (TypeError, KeyError):
            raise ArchiveUnusable(
                f'input "{spec.name}" is {spec.dtype}, which requests cannot give: it needs a handler of its own'
            ) from None
        self._shape = spec.shape[1:]
        self._read_as: np.dtype[Any] = self._dtype
        self._bounds: tuple[int, int] | None = None
        if self._dtype.kind in "iu" and self._dtype.itemsize < 8:
            # numpy before 2 would cut whole numbers to size.
            info = np.iinfo(self._dtype)
            self._read_as, self._bounds = np.dtype(np.int64), (info.min, info.max)

    def rows(self, values: Sequence[Any]) -> Array | None:
        """The array of shape [len(values), …], when each value is one row as nested lists of numbers; else None."""
        # The loop below would read their bytes or numbers one by one, which takes half a second for 10 MB.
        if not {bytes, bytearray, np.ndarray}.isdisjoint(map(type, values)):
            return None
        flat: Any = values
        for _ in self._shape:
            flat = chain.from_iterable(flat)
        try:
            # numpy would take True for 1, null for nan and "1" for 1.
            if not self._json_types.issuperset(map(type, flat)):
                return None
            with np.errstate(over="raise"):
                array = np.array(values, self._read_as)
        except (TypeError, ValueError, ArithmeticError):
            return None
        if self._bounds:
            if array.size and not self._bounds[0] <= array.min() <= array.max() <= self._bounds[1]:
                return None
            array = array.astype(self._dtype)
        return array if self._fits(array.shape[1:]) else None

    def whole(self, value: Any) -> Array:
        """The array of one request, whose first axis is like the others. Raises InvalidRequest."""
        array, has_first_axis = self.read(value)
        if self.is_scalar:
            if has_first_axis:
                raise InvalidRequest(f'input "{self.name}": expected one {self._dtype}, got {self._described(value)}')
            return array.reshape(())
        first = self._first
        if first not in (-1, len(array)):
            given = f"has length {len(array)}" if has_first_axis else "was left out"
            raise InvalidRequest(f'input "{self.name}": expected a first axis of length {first}; it {given}')
        return array

    def read(self, value: Any) -> tuple[Array, bool]:
        """The array of shape [n, …] of one request, and whether the request gave the first axis itself.

        `value` is nested lists of numbers, an array, or the bytes of an .npy file; raises InvalidRequest when it does
        not fit.
        """
        value = opened(value)
        if isinstance(value, Binary):
            if not value.startswith(NPY_MAGIC):
                form = "as JSON (Content-Type: application/json) or an .npy file"
                raise InvalidRequest(f"{self._expected()} {form}, got {len(value)} bytes of {_kind(value)}")
            value = load_npy(value)
        rank = value.ndim if isinstance(value, np.ndarray) else _rank(value)
        has_batch_axis = rank == len(self._shape) + 1
        if isinstance(value, np.ndarray):
            array: Array | None = value if has_batch_axis else value[None]
            if value.dtype.name != self._dtype.name or not self._fits(array.shape[1:]):  # type: ignore[union-attr]
                array = None
        else:
            array = self.rows(value if has_batch_axis else [value])
        if array is None or not len(array):
            raise InvalidRequest(f"{self._expected()}, got {self._described(value)}")
        if self.ids_below is not None:
            check_ids(self.name, array, self.ids_below, leave_out_first=not has_batch_axis)
        return array.astype(self._dtype, copy=False), has_batch_axis

    def _fits(self, shape: tuple[int, ...]) -> bool:
        if len(shape) != len(self._shape):
            return False
        return all(
            length == wanted or (wanted == -1 and length) for length, wanted in zip(shape, self._shape, strict=True)
        )

    def _expected(self) -> str:
        shape = ", ".join("any" if length == -1 else str(length) for length in self._shape)
        return f'input "{self.name}": expected {self._dtype} of shape [{shape}]'

    def _described(self, value: Any) -> str:
        if isinstance(value, np.ndarray):
            return f"{value.dtype} of shape {list(value.shape)}"
        rank = _rank(value)
        if rank > _MAX_RANK:
            return f"lists nested more than {_MAX_RANK} deep"
        shape = _shape(value)
        wrong = _first_wrong(value, shape, self._json_types)
        if wrong:
            return wrong
        fits = self._fits(shape) or (rank == len(self._shape) + 1 and shape[0] and self._fits(shape[1:]))
        if fits:
            return f"a number that {self._dtype} cannot hold"
        return f"shape {list(shape)}" if shape else "a single number"


def _kind(data: Binary) -> str:
    if data[:64].lstrip()[:1] in (b"{", b"["):
        try:
            strict_json.loads(data)
        except InvalidJson as error:
            return f"what begins like JSON and is not: {error}"
    return "something else"


def _rank(value: Any) -> int:
    rank = 0
    while isinstance(value, list):
        rank += 1
        value = value[0] if value else None
    return rank


def _shape(value: Any) -> tuple[int, ...]:
    """By the first elements alone."""
    shape = []
    while isinstance(value, list):
        shape.append(len(value))
        value = value[0] if value else None
    return tuple(shape)


def _first_wrong(value: Any, shape: tuple[int, ...], types: frozenset[type], path: str = "") -> str:
    """What differs from `shape` or `types`, and where; "" when nothing does."""
    where = f" at {path}" if path else ""
    if not shape:
        if type(value) in types:
            return ""
        if isinstance(value, list | dict):
            return f"{'a list' if isinstance(value, list) else 'an object'}{where}"
        return f"{shown(orjson.dumps(value, default=repr).decode())}{where}"
    if not isinstance(value, list):
        return f"a single value{where} beside lists"
    if len(value) != shape[0]:
        return f"lists of different lengths: {shape[0]}, and {len(value)}{where}"
    inner = (_first_wrong(item, shape[1:], types, f"{path}[{i}]") for i, item in enumerate(value))
    return next(filter(None, inner), "")
