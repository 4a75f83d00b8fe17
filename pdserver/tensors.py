"""Converts between tensors and numpy arrays, in the front end and in workers."""

from __future__ import annotations

import math
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from pdserver.dtypes import BFLOAT16, BYTES, NUMPYS
from pdserver.errors import HandlerFailed, InvalidRequest
from pdserver.formats.elements import elements, packed, rounded, widened
from pdserver.formats.values import shown
from pdserver.memory_file import THRESHOLD_BYTES
from pdserver.types import Tensor

_NAMES = {np.dtype(name).newbyteorder("<"): name for name in NUMPYS}
"""dtype → its name. This is faster than numpy's own `name`."""
_ITEM_BYTES = {name: dtype.itemsize for dtype, name in _NAMES.items()} | {BFLOAT16: 2}


def byte_size(dtype: str, shape: tuple[int, ...]) -> int | None:
    """The size of a tensor's data, or None for elements of any length. Raises KeyError for an unknown dtype."""
    return None if dtype == BYTES else math.prod(shape) * _ITEM_BYTES[dtype]


def array(tensor: Tensor) -> NDArray[Any]:
    """The tensor's contents, read-only and not copied. Elements of dtype "bytes" are objects, bfloat16 is float32.

    Raises InvalidRequest if its data do not fit its dtype and shape.
    """
    try:
        if tensor.dtype == BYTES:
            held = np.empty(math.prod(tensor.shape), object)
            held[:] = elements(tensor.data, held.size)
            return held.reshape(tensor.shape)
        if tensor.dtype == BFLOAT16:
            return widened(np.frombuffer(tensor.data, np.uint16)).reshape(tensor.shape)
        return np.frombuffer(tensor.data, tensor.dtype).reshape(tensor.shape)
    except (TypeError, ValueError) as error:
        size = f"{len(tensor.data)} bytes are not {shown(tensor.dtype)} of shape {list(tensor.shape)}"
        raise InvalidRequest(f'input "{shown(tensor.name)}": {size}: {error}') from None


def tensor(name: str, values: Any, dtype: str | None = None) -> Tensor:
    """`values` as a tensor. Large ones are not copied. Pass `dtype` if numpy's own name for it differs.

    Raises HandlerFailed for values that no tensor can hold.
    """
    held = np.asarray(values)
    if dtype == BFLOAT16:
        return Tensor(name, dtype, held.shape, rounded(held).tobytes())
    known = _NAMES.get(held.dtype)
    if known is None:
        if held.dtype.kind in "OSU":
            return Tensor(name, BYTES, held.shape, packed(_element(name, item) for item in held.ravel().tolist()))
        held = held.astype(held.dtype.newbyteorder("<"))
        known = _NAMES.get(held.dtype)
        if known is None:
            raise HandlerFailed(f'output "{name}": a tensor cannot hold {held.dtype}')
    if held.nbytes < THRESHOLD_BYTES:
        return Tensor(name, dtype or known, held.shape, held.tobytes())
    data = cast(bytes, np.ascontiguousarray(held).reshape(-1).data.cast("B"))
    return Tensor(name, dtype or known, held.shape, data)


def _element(name: str, item: object) -> bytes:
    if isinstance(item, str):
        try:
            return item.encode()
        except UnicodeEncodeError as error:
            raise HandlerFailed(f'output "{name}": expected text that UTF-8 can hold: {error}') from None
    if isinstance(item, bytes | bytearray | memoryview):
        return bytes(item)
    raise HandlerFailed(f'output "{name}": expected bytes or text as elements, got {type(item).__name__}')
