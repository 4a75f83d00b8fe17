"""A batch of requests → the model's input arrays, each value checked against the model's signature."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pdarchiver.manifest import TensorSpec
from pdserver.errors import InvalidRequest, LoadFailed
from pdserver.formats.values import nearest, shown
from pdserver.handlers.runtime.model_input import ModelInput, has_bad_id
from pdserver.handlers.runtime.parts import opened
from pdserver.handlers.runtime.rows import Array, Arrays, stack

_WHOLE = ("body", "data")
"""Names of a part that stands for the whole request, unless an input has that name."""

Place = int | slice | Exception
"""Where one request's rows are in the batch: an index for a request of one row, a slice for one with the batch axis, or
the error for a request that has none."""


class InputReader:
    """Reads requests for a model with these inputs. Some inputs are row numbers of an embedding: `ids_below` gives its
    number of rows by the input's name.

    Raises ArchiveUnusable for a model whose inputs cannot be read from requests.
    """

    def __init__(self, specs: Sequence[TensorSpec], ids_below: Mapping[str, int] | None = None) -> None:
        below = ids_below or {}
        self._inputs = {spec.name: ModelInput(spec, below.get(spec.name)) for spec in specs}
        self._scalar = next((spec.name for spec in specs if not spec.shape), None)

    def whole(self, row: Any) -> Arrays:
        """The inputs of one request, for a model whose first axis need not be the batch: one of length 1 or any length
        may be left out. Raises InvalidRequest."""
        values = zip(self._inputs.values(), self._values(row), strict=True)
        return {given.name: given.whole(value) for given, value in values}

    def read(self, data: Sequence[dict[str, Any]]) -> tuple[Arrays, Sequence[Place]]:
        """The inputs of all requests that can be read, the first axis of each being the batch, and the place of each
        request. Raises LoadFailed for a model that has an input without axes."""
        if self._scalar is not None:
            raise LoadFailed(f'input "{self._scalar}" is a scalar, without a batch axis')
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
            if array is None or (given.ids_below is not None and has_bad_id(array, given.ids_below)):
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
        if not self._inputs:
            return self._nothing(row)
        if len(row) == 1:
            ((name, value),) = row.items()
            value = opened(value)
            if type(value) is dict:
                row = value
            elif name in _WHOLE and name not in self._inputs and len(self._inputs) == 1:
                return [value]
            else:
                row = {name: value}
        try:
            if len(row) == len(self._inputs):
                return [row[name] for name in self._inputs]
        except KeyError:
            pass
        raise InvalidRequest(self._wrong_names(row))

    def _nothing(self, row: dict[str, Any]) -> list[Any]:
        """For a model without inputs: an empty body, or an empty object."""
        empty = (str, bytes, bytearray, dict, type(None))
        if any(name not in _WHOLE or not isinstance(value, empty) or value for name, value in row.items()):
            raise InvalidRequest("the model takes no inputs: expected an empty body, or {}")
        return []

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
