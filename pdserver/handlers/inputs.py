"""A batch of requests → the model's input arrays, each value checked against the model's signature."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain
from typing import Any

import numpy as np
import orjson

from pdarchiver.manifest import TensorSpec
from pdserver import strict_json
from pdserver.errors import InvalidRequest, LoadFailed
from pdserver.handlers.npy import NPY_MAGIC, load_npy
from pdserver.handlers.rows import Array, Arrays, stack
from pdserver.strict_json import InvalidJson
from pdserver.tensors import BFLOAT16
from pdserver.values import nearest, shown

_WHOLE = ("body", "data")
"""Names of a part that is the request, when no input is called so."""
_JSON_TYPES: dict[str, tuple[type, ...]] = {"b": (bool,), "i": (int,), "u": (int,), "f": (int, float)}
_MAX_RANK = 32

Place = int | slice | Exception
"""Where one request's rows are in the batch: an index for a request that was one row, a slice for one that gave the
batch axis itself; or why it has none."""


class InputReader:
    """Reads requests for a model with these inputs; the first axis of each is the batch.

    Raises LoadFailed for a model whose inputs cannot be read from requests.
    """

    def __init__(self, specs: Sequence[TensorSpec]) -> None:
        self._inputs = {spec.name: _Input(spec) for spec in specs}

    def read(self, data: Sequence[dict[str, Any]]) -> tuple[Arrays, Sequence[Place]]:
        """The inputs of all requests that can be read, and the place of each request."""
        requests: list[list[Any] | InvalidRequest] = []
        for row in data:
            try:
                requests.append(self._values(row))
            except InvalidRequest as error:
                requests.append(error)
        together = self._read_together(requests)
        return (together, range(len(requests))) if together else self._read_apart(requests)

    def _read_together(self, requests: Sequence[list[Any] | InvalidRequest]) -> Arrays | None:
        """One conversion for the whole batch, if every request is one good row: nearly always."""
        if InvalidRequest in map(type, requests):
            return None
        arrays = {}
        for given, column in zip(self._inputs.values(), zip(*requests, strict=True), strict=True):
            array = given.rows(column)
            if array is None:
                return None
            arrays[given.name] = array
        return arrays

    def _read_apart(self, requests: Sequence[list[Any] | InvalidRequest]) -> tuple[Arrays, list[Place]]:
        """Each request by itself: finds out whose fault it is, and allows several rows in one request."""
        pieces: list[list[Array]] = []
        places: list[Place] = []
        start = 0
        for request in requests:
            try:
                arrays, has_batch_axis = self._read_one(request)
            except InvalidRequest as error:
                places.append(error)
                continue
            pieces.append(arrays)
            stop = start + len(arrays[0])
            places.append(slice(start, stop) if has_batch_axis else start)
            start = stop
        columns = zip(*pieces, strict=True)
        return {name: stack(column) for name, column in zip(self._inputs, columns, strict=False)}, places

    def _read_one(self, request: list[Any] | InvalidRequest) -> tuple[list[Array], bool]:
        if isinstance(request, InvalidRequest):
            raise request
        read = [given.read(value) for given, value in zip(self._inputs.values(), request, strict=True)]
        if len({(len(array), has_batch_axis) for array, has_batch_axis in read}) != 1:
            counts = ", ".join(
                f'"{name}" {f"has {len(array)} rows" if several else "is one row"}'
                for name, (array, several) in zip(self._inputs, read, strict=True)
            )
            raise InvalidRequest(f"the inputs do not agree on the number of rows: {counts}")
        return [array for array, _ in read], read[0][1]

    def _values(self, row: Any) -> list[Any]:
        """The values in the order of the inputs."""
        if not isinstance(row, dict):  # an instance, out of its envelope
            row = {"body": row}
        if len(row) == 1:
            ((name, value),) = row.items()
            if type(value) is dict:
                row = value
            elif name in _WHOLE and name not in self._inputs and len(self._inputs) == 1:
                return [value]
        try:
            if len(row) == len(self._inputs):
                return [row[name] for name in self._inputs]
        except KeyError:
            pass
        raise InvalidRequest(self._wrong_names(row))

    def _wrong_names(self, row: dict[str, Any]) -> str:
        inputs = ", ".join(f'"{name}"' for name in self._inputs)
        if not row:
            return f"the request is empty: expected the model's inputs {inputs}"
        for name in row.keys() - self._inputs.keys() - {*_WHOLE}:
            hint = nearest(name, self._inputs) or "."
            return f'unknown input "{shown(name)}"{hint} The model\'s inputs are {inputs}'
        for name in self._inputs.keys() - row.keys():
            return f'input "{name}" is missing: expected a JSON object or parts with the model\'s inputs {inputs}'
        return f"expected the model's inputs {inputs}, and nothing else"


class _Input:
    """One input of the model, as requests give it."""

    def __init__(self, spec: TensorSpec) -> None:
        self.name = spec.name
        if not spec.shape:
            raise LoadFailed(f'input "{spec.name}" is a scalar, without a batch axis: it needs a handler of its own')
        try:
            self._dtype = np.dtype("float32" if spec.dtype == BFLOAT16 else spec.dtype)
            self._json_types = frozenset(_JSON_TYPES[self._dtype.kind])
        except (TypeError, KeyError):
            raise LoadFailed(
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
        # Their bytes or numbers would be looked at one by one: half a second for 10 MB.
        if not {bytes, np.ndarray}.isdisjoint(map(type, values)):
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

    def read(self, value: Any) -> tuple[Array, bool]:
        """The array of shape [n, …] of one request, and whether the request gave the first axis itself.

        `value` is nested lists of numbers, an array, or the bytes of an .npy file; raises InvalidRequest when it does
        not fit.
        """
        if isinstance(value, bytes):
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


def _kind(data: bytes) -> str:
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
    """What is not as the first elements promise, and where; "" when nothing is."""
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
