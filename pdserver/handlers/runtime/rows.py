"""Named arrays that hold a batch along their first axis, and what is done to them row by row."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pdserver.dtypes import BFLOAT16
from pdserver.errors import HandlerFailed
from pdserver.formats.elements import widened

Array = NDArray[Any]
Arrays = dict[str, Array]
"""By public name, all of the same length. Rows that differ in shape are held as an array of dtype object, whose
elements are the rows."""


class Rows(Sequence[Arrays]):
    """`rows[i]` is {name: array[i]}; a slice keeps the batch axis. Nothing is copied.

    Raises HandlerFailed when the arrays are not of the same length: then one has no batch axis.
    """

    def __init__(self, arrays: Mapping[str, Array]) -> None:
        self._arrays = arrays
        if len({array.shape[:1] for array in arrays.values()}) != 1 or not all(a.ndim for a in arrays.values()):
            shapes = ", ".join(f"{name} {list(array.shape)}" for name, array in arrays.items()) or "none"
            raise HandlerFailed(f"the first axis of every output must be the batch; the model's outputs are {shapes}")
        self._length = len(next(iter(arrays.values())))

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, where: Any) -> Any:
        return {name: array[where] for name, array in self._arrays.items()}


def as_array(given: Any, what: str) -> Array:
    """The array of nested lists or of a tensor, or of a list of rows that differ in shape. Raises HandlerFailed for
    what is no numbers, which it calls `what`."""
    if isinstance(given, np.ndarray):
        return given
    try:
        array = np.asarray(given)
    except ValueError:
        try:
            return stack([np.asarray(row)[None] for row in given])
        except ValueError as error:
            raise HandlerFailed(f"{what}: expected an array of numbers: {error}") from None
    if array.dtype.kind not in "biufc":
        raise HandlerFailed(f"{what}: expected an array of numbers, got {type(given).__name__}")
    # Paddle's tensors of bfloat16 become arrays of uint16.
    return widened(array) if str(getattr(given, "dtype", "")).endswith(BFLOAT16) else array


def stack(pieces: Sequence[Array]) -> Array:
    """Pieces of shape [n, …] one after the other; as an array of rows when their rows differ in shape."""
    if len({piece.shape[1:] for piece in pieces}) == 1:
        return np.concatenate(pieces) if len(pieces) > 1 else pieces[0]
    rows = [row for piece in pieces for row in piece]
    ragged = np.empty(len(rows), dtype=object)
    for i, row in enumerate(rows):
        ragged[i] = row
    return ragged


def run_by_shape(run: Callable[[Arrays], Arrays], inputs: Arrays) -> Arrays:
    """`run` on the rows of `inputs`, rows of equal shapes together. No row is padded to fit another."""
    if not any(array.dtype.hasobject for array in inputs.values()):
        return run(inputs)
    rows = Rows(inputs)
    groups: dict[Any, list[int]] = {}
    for i in range(len(rows)):
        groups.setdefault(tuple(array.shape for array in rows[i].values()), []).append(i)
    places: list[int] = []
    results: list[Arrays] = []
    for members in groups.values():
        outputs = run({name: np.stack([array[i] for i in members]) for name, array in inputs.items()})
        places += members
        results.append(outputs)
    order = np.argsort(places)
    return {name: stack([outputs[name] for outputs in results])[order] for name in results[0]}


def run_one_by_one(run: Callable[[Arrays], Arrays], inputs: Arrays) -> Arrays:
    """`run` on each row by itself, and its outputs one after the other. Outputs without axes are left out."""
    rows = Rows(inputs)
    results = [run({name: row[None] for name, row in rows[i].items()}) for i in range(len(rows))]
    return {name: stack([outputs[name] for outputs in results]) for name in results[0] if results[0][name].ndim}


def run_by_size(run: Callable[[Arrays], Arrays], inputs: Arrays, sizes: Sequence[int]) -> Arrays:
    """`run` on as many rows at a time as one of `sizes`, which ascend, says. Copies of the last row fill up the last
    group, whose outputs are cut again."""
    count = len(next(iter(inputs.values())))
    if count in sizes:
        return run(inputs)
    results = []
    start = 0
    while start < count:
        left = count - start
        size = next((size for size in sizes if size >= left), sizes[-1])
        places = np.minimum(np.arange(start, start + size), count - 1)
        results.append(run({name: array[places] for name, array in inputs.items()}))
        start += size
    return {name: stack([outputs[name] for outputs in results])[:count] for name in results[0]}


def reshaped(arrays: Arrays, shapes: Mapping[str, list[int]]) -> Arrays:
    """`arrays` with the shapes that are given by name: -1 is what is left over, 0 as long as it is.

    Raises HandlerFailed for an array with another number of elements.
    """
    result = dict(arrays)
    for name, shape in shapes.items():
        given = arrays.get(name)
        if given is None:
            continue
        try:
            result[name] = given.reshape([length or given.shape[axis] for axis, length in enumerate(shape)])
        except (ValueError, IndexError):
            raise HandlerFailed(f'"{name}" of shape {list(given.shape)} cannot become {shape}') from None
    return result
