"""numpy arrays ↔ tensors of the Open Inference Protocol.

Texts and bytes become BYTES. Arrays of `ml_dtypes.bfloat16` become BF16, which comes back as float32: that holds each
of its values.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, TypeAlias

import msgspec
import numpy as np
import numpy.typing as npt

from pdserver.client.errors import InvalidInput, ServerFailed
from pdserver.dtypes import BYTES, DATATYPES, DTYPES
from pdserver.formats.elements import elements, packed, widened

Array: TypeAlias = npt.NDArray[Any]
Arrays: TypeAlias = dict[str, Array]
Inputs: TypeAlias = Mapping[str, npt.ArrayLike]


class Wire(msgspec.Struct, frozen=True):
    """A tensor as it is sent: `data` is C-contiguous and little-endian."""

    name: str
    datatype: str
    shape: list[int]
    data: bytes | memoryview


def to_wires(inputs: Inputs) -> list[Wire]:
    """Raises InvalidInput for inputs that are not arrays by name, and for elements that no tensor can hold."""
    if not isinstance(inputs, Mapping):
        raise InvalidInput(f"inputs: expected arrays by the names of the model's inputs, not {type(inputs).__name__}")
    return [_wire(name, value) for name, value in inputs.items()]


def _wire(name: str, value: npt.ArrayLike) -> Wire:
    try:
        array = np.asarray(value)
    except (TypeError, ValueError) as error:
        raise InvalidInput(f"input {name}: expected an array, or lists that make one: {error}") from None
    shape = list(array.shape)
    if array.dtype.kind in "OSU":
        return Wire(name, "BYTES", shape, packed(_element(name, item) for item in array.ravel().tolist()))
    datatype = DATATYPES.get(array.dtype.name)
    if datatype is None:
        known = ", ".join(dtype for dtype in DATATYPES if dtype != BYTES)
        raise InvalidInput(f"input {name} has dtype {array.dtype}: one of {known}, or texts or bytes")
    array = np.ascontiguousarray(array)
    if array.dtype.byteorder == ">":
        array = array.astype(array.dtype.newbyteorder("<"))
    return Wire(name, datatype, shape, array.reshape(-1).view(np.uint8).data)


def from_wire(tensor: Wire) -> Array:
    """The array is read-only if it is a view of the answer. Raises ServerFailed when the bytes don't fit the shape."""
    try:
        if tensor.datatype == "BYTES":
            items = elements(tensor.data, math.prod(tensor.shape))
            array = np.empty(len(items), object)
            array[:] = items
        elif tensor.datatype == "BF16":
            array = widened(np.frombuffer(tensor.data, "<u2"))
        else:
            array = np.frombuffer(tensor.data, np.dtype(DTYPES[tensor.datatype]).newbyteorder("<"))
        return array.reshape(tensor.shape)
    except (KeyError, ValueError):
        size = len(tensor.data)
        text = f"output {tensor.name}: {size} bytes are no {tensor.datatype} tensor of shape {tensor.shape}"
        raise ServerFailed(text) from None


def _element(name: str, item: object) -> bytes:
    if not isinstance(item, str | bytes):
        raise InvalidInput(f"input {name} has {item!r} among its elements: texts or bytes alone make BYTES")
    try:
        return item.encode() if isinstance(item, str) else item
    except UnicodeEncodeError as error:
        raise InvalidInput(f"input {name}: expected texts that UTF-8 can hold: {error}") from None
