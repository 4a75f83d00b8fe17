"""Inputs for a trial where nobody has given any: made from the signature."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from pdarchiver.manifest import TensorSpec
from pdserver.dtypes import BFLOAT16
from pdserver.handlers.runtime.rows import Array, Arrays

_PICTURE_AXES, _PICTURE_LENGTH = 4, 224
_LENGTH = 16
"""Of an open axis that is not a picture's."""


def made(
    inputs: Iterable[TensorSpec],
    sizes: Iterable[int],
    ids_below: Mapping[str, int] = {},
) -> list[Arrays]:
    """The model's inputs by public name, for each number of rows; the same ones every time.

    Floating-point numbers are in [0, 1). Whole numbers are 0 or 1, or any id below the bound that `ids_below` has for
    the input, by the model's own name. bfloat16 is held as float32.
    """
    specs = tuple(inputs)
    return [
        {spec.name: numbers(spec, _shape(spec, rows), ids_below.get(spec.source)) for spec in specs} for rows in sizes
    ]


def numbers(spec: TensorSpec, shape: Sequence[int], below: int | None = None) -> Array:
    """An input of this shape; of whole numbers, those from 0 to `below`, which is 2 for None."""
    random = np.random.default_rng(len(shape))
    if spec.dtype == "bool":
        return np.ones(shape, np.bool_)
    dtype = np.dtype(np.float32 if spec.dtype == BFLOAT16 else spec.dtype)
    if dtype.kind == "f":
        return random.random(shape, np.float32).astype(dtype, copy=False)
    return random.integers(0, 2 if below is None else max(1, below), shape).astype(dtype)


def _shape(spec: TensorSpec, rows: int) -> list[int]:
    shape = [_length(spec, axis, length) for axis, length in enumerate(spec.shape)]
    if spec.shape and spec.shape[0] == -1:
        shape[0] = rows
    return shape


def _length(spec: TensorSpec, axis: int, length: int) -> int:
    if length >= 0:
        return length
    is_side = len(spec.shape) == _PICTURE_AXES and axis >= 2 and spec.dtype not in ("int32", "int64")
    return _PICTURE_LENGTH if is_side else _LENGTH
