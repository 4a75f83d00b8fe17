"""Pipeline's tensors: the elements are in one of ten fields, and `elem_type` says in which.

Source: pipeline_service.proto of Paddle Serving 0.7 to 0.9. There, .npy files may hold pickles; here they may not.
"""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, cast

import numpy as np
import orjson

from pdserver.dialects.paddle.shapes import fitted
from pdserver.dialects.tensors import check_shape, from_values, to_json
from pdserver.dtypes import BFLOAT16, BYTES
from pdserver.errors import InvalidRequest
from pdserver.formats.values import shown
from pdserver.handlers.runtime.npy import NPY_MAGIC, load_npy
from pdserver.tensors import array, tensor
from pdserver.types import Part, Port, Tensor


class Elements(NamedTuple):
    """Where the elements of an elem_type are."""

    field: str
    dtype: str


ELEMENTS: Mapping[int, Elements] = {
    0: Elements("int64_data", "int64"),
    1: Elements("float_data", "float32"),
    2: Elements("int_data", "int32"),
    3: Elements("float64_data", "float64"),
    4: Elements("int_data", "int16"),
    5: Elements("float_data", "float16"),
    6: Elements("uint32_data", BFLOAT16),
    7: Elements("uint32_data", "uint8"),
    8: Elements("int_data", "int8"),
    9: Elements("bool_data", "bool"),
    12: Elements("str_data", BYTES),
}
NPY = 13
PACKED = ("float_data", "float64_data")
"""The fields that hold numbers as they are in memory."""
_AS_IN_MEMORY = ("float32", "float64")
_ELEM_TYPES = {elements.dtype: (number, elements.field) for number, elements in ELEMENTS.items()}
_FIELDS = (
    *("int64_data", "float_data", "int_data", "float64_data", "uint32_data", "bool_data"),
    *("complex64_data", "complex128_data", "str_data"),
)
_EMPTY: dict[str, Any] = {**dict.fromkeys(_FIELDS, ()), "byte_data": "", "elem_type": 0, "shape": (), "lod": ()}


def read(name: str, elem_type: int, shape: list[int], content: Callable[[str], Any]) -> Tensor:
    """A tensor as it was sent. `content` gives what a field holds. Without a shape, the elements are in one row.

    Raises InvalidRequest.
    """
    title = f"tensor '{shown(name)}'"
    if elem_type == NPY:
        return _of_npy(name, title, content("byte_data"))
    if elem_type not in ELEMENTS:
        known = ", ".join(f"{number} {elements.dtype}" for number, elements in ELEMENTS.items())
        raise InvalidRequest(f"{title}: elem_type {elem_type} is not read here; {known}, {NPY} an .npy file are")
    field, dtype = ELEMENTS[elem_type]
    values = list(content(field))
    whole = check_shape(shape or (len(values),), title)
    if len(values) != math.prod(whole):
        raise InvalidRequest(f"{title}: shape {list(whole)} has {math.prod(whole)} elements, {field} has {len(values)}")
    as_bits = "uint16" if dtype == BFLOAT16 else dtype
    return Tensor(name, dtype, whole, from_values(f"{title}, {field}", as_bits, whole, values))


def for_port(port: Port, given: Tensor) -> Tensor:
    """The tensor under the input's name, in its dtype if that can hold the numbers, and with the batch axis.

    Raises InvalidRequest for numbers that it can't hold. Other misfits are left for `check` to refuse.
    """
    shape = fitted(port, given.shape)
    dtype = BFLOAT16 if (given.dtype, port.dtype) == ("uint16", BFLOAT16) else given.dtype  # its bits, from numpy
    renamed = Tensor(port.name, dtype, shape, given.data)
    if dtype == port.dtype or BYTES in (dtype, port.dtype):
        return renamed
    values = array(renamed)
    wanted = np.dtype("float32" if port.dtype == BFLOAT16 else port.dtype)
    if not np.can_cast(values.dtype, wanted, "same_kind"):
        return renamed
    try:
        with np.errstate(over="raise"):
            held = values.astype(wanted)
        fits = held.dtype.kind == "f" or bool((held == values).all())
    except FloatingPointError:
        fits = False
    if not fits:
        raise InvalidRequest(f"input '{port.name}': a number of this {given.dtype} tensor does not fit {port.dtype}")
    return tensor(port.name, held, port.dtype)


def for_handler(given: Tensor) -> Part | Tensor:
    """For a handler that reads requests itself: strings are one text, bfloat16 is its bits, as in Pipeline."""
    if given.dtype == BYTES:
        return Part(given.name, "text/plain", b"".join(array(given).reshape(-1).tolist()))
    dtype = "uint16" if given.dtype == BFLOAT16 else given.dtype
    return Tensor(given.name, dtype, given.shape, given.data)


def as_json(given: Tensor) -> dict[str, Any]:
    """All fields, as protobuf's JSON writes them: int64 and what is no number as text. For orjson, with numpy.

    Raises InvalidRequest for data that do not fit the tensor.
    """
    elem_type, field, values = _written(given)
    fields = {**_EMPTY, "elem_type": elem_type, "shape": given.shape, "name": given.name}
    if field == "byte_data":
        fields[field] = orjson.Fragment(b'"%b"' % base64.b64encode(values))
    elif field == "int64_data":
        fields[field] = list(map(str, values.tolist()))
    elif field in ("float_data", "float64_data"):
        fields[field] = orjson.Fragment(to_json(given, quoted=True))
    else:
        fields[field] = values
    return fields


def put(message: Any, given: Tensor) -> None:
    """Fill a Tensor of Pipeline's, whose PACKED fields are bytes, from one whose data fit it."""
    message.name = given.name
    message.shape.extend(given.shape)
    if given.dtype in _AS_IN_MEMORY:
        message.elem_type, field = _ELEM_TYPES[given.dtype]
        if len(given.data):
            getattr(message, field).append(bytes(given.data))
        return
    message.elem_type, field, values = _written(given)
    if field == "byte_data":
        message.byte_data = values
    elif field in PACKED:  # float16
        if values.size:
            getattr(message, field).append(values.tobytes())
    else:
        getattr(message, field).extend(values if isinstance(values, list) else values.tolist())


def _written(given: Tensor) -> tuple[int, str, Any]:
    """The elem_type, the field, and what it holds: a flat array, a list of text, or the bytes of an .npy file."""
    if given.dtype == BFLOAT16:
        return 6, "uint32_data", np.frombuffer(given.data, np.uint16).astype(np.uint32)
    values = array(given).reshape(-1)
    if given.dtype not in _ELEM_TYPES:
        file = io.BytesIO()
        np.save(file, array(given), allow_pickle=False)
        return NPY, "byte_data", file.getvalue()
    elem_type, field = _ELEM_TYPES[given.dtype]
    if given.dtype == BYTES:
        return elem_type, field, [item.decode(errors="replace") for item in values]
    return elem_type, field, values.astype(np.float32) if given.dtype == "float16" else values


def _of_npy(name: str, title: str, data: bytes) -> Tensor:
    if not data.startswith(NPY_MAGIC):
        raise InvalidRequest(f"{title}: byte_data is no .npy file; write it with np.save. Pickles are not read here")
    try:
        values = load_npy(data)
    except InvalidRequest as error:
        raise InvalidRequest(f"{title}: {error}. Pickles are not read here") from None
    if values.dtype.kind == "c":
        raise InvalidRequest(f"{title}: {values.dtype} is not read here; send the real and imaginary parts as two")
    return tensor(name, cast(Any, values))
