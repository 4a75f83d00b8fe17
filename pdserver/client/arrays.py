"""numpy arrays ↔ tensors of the Open Inference Protocol.

Texts and bytes become BYTES: for each element, its length (four bytes, little-endian) and then its bytes. Arrays of
`ml_dtypes.bfloat16` become BF16. BF16 comes back as float32, which holds each of its values.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeAlias

import msgspec
import numpy as np
import numpy.typing as npt

from pdserver.client.errors import InvalidInput, ServerFailed
from pdserver.dtypes import BYTES, DATATYPES, DTYPES

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
        return Wire(name, "BYTES", shape, _pack(name, array))
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
            array = _unpack(tensor.data)
        elif tensor.datatype == "BF16":
            array = (np.frombuffer(tensor.data, "<u2").astype(np.uint32) << 16).view(np.float32)
        else:
            array = np.frombuffer(tensor.data, np.dtype(DTYPES[tensor.datatype]).newbyteorder("<"))
        return array.reshape(tensor.shape)
    except (KeyError, ValueError):
        size = len(tensor.data)
        text = f"output {tensor.name}: {size} bytes are no {tensor.datatype} tensor of shape {tensor.shape}"
        raise ServerFailed(text) from None


def _pack(name: str, array: Array) -> bytes:
    pieces = []
    for element in array.reshape(-1).tolist():
        if not isinstance(element, str | bytes):
            raise InvalidInput(f"input {name} has {element!r} among its elements: texts or bytes alone make BYTES")
        try:
            data = element.encode() if isinstance(element, str) else element
        except UnicodeEncodeError as error:
            raise InvalidInput(f"input {name}: expected texts that UTF-8 can hold: {error}") from None
        pieces += [len(data).to_bytes(4, "little"), data]
    return b"".join(pieces)


def _unpack(data: bytes | memoryview) -> Array:
    """Raises ValueError."""
    elements = []
    start = 0
    while start < len(data):
        end = start + 4 + int.from_bytes(data[start : start + 4], "little")
        if end > len(data):
            raise ValueError("an element is longer than what is there")
        elements.append(bytes(data[start + 4 : end]))
        start = end
    array = np.empty(len(elements), object)
    array[:] = elements
    return array
