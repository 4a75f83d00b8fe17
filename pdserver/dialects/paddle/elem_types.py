"""Paddle Serving's types of elements: their numbers, and the fields of a tensor that hold them.

Source: general_model_service.proto of Paddle Serving 0.7 to 0.9.
"""

from __future__ import annotations

from typing import NamedTuple

from pdserver.dtypes import BFLOAT16, BYTES
from pdserver.errors import InvalidRequest, Unsupported

CONTENT = "tensor_content"
"""Holds elements as they are in memory."""


class ElemType(NamedTuple):
    number: int
    dtype: str
    field: str
    """Holds the elements of this type; CONTENT may hold them, too, unless they are strings."""
    varints: bool = False
    """Whether the field packs numbers of different lengths; others are as they are in memory."""


ALL = (
    ElemType(0, "int64", "int64_data", varints=True),
    ElemType(1, "float32", "float_data"),
    ElemType(2, "int32", "int_data", varints=True),
    ElemType(3, "float64", "float64_data"),
    ElemType(4, "int16", CONTENT),
    ElemType(5, "float16", CONTENT),
    ElemType(6, BFLOAT16, CONTENT),
    ElemType(7, "uint8", CONTENT),
    ElemType(8, "int8", CONTENT),
    ElemType(9, "bool", "bool_data", varints=True),
    ElemType(20, BYTES, "data"),
)
_NAMES = {BYTES: "string"}
_COMPLEX = {10: "complex64", 11: "complex128"}
_BY_NUMBER = {kind.number: kind for kind in ALL}
_BY_DTYPE = {kind.dtype: kind for kind in ALL}
FIELDS = (
    *("int64_data", "float_data", "int_data", "float64_data", "uint32_data", "bool_data"),
    *("complex64_data", "complex128_data", "data", CONTENT),
)
"""All fields that can hold elements."""


def described(kind: ElemType) -> str:
    """For an error's text."""
    return f"{kind.number} ({_NAMES.get(kind.dtype, kind.dtype)})"


def of_number(number: int, title: str) -> ElemType:
    """Raises InvalidRequest; `title` says whose it is."""
    kind = _BY_NUMBER.get(number)
    if kind is not None:
        return kind
    if number in _COMPLEX:
        raise InvalidRequest(
            f"{title}: elem_type {number} ({_COMPLEX[number]}): Paddle's predictor takes no complex numbers: let the "
            "model take their parts as real ones (paddle.as_complex makes complex ones of them)"
        )
    raise InvalidRequest(f"{title}: elem_type {number} is none of {', '.join(map(described, ALL))}")


def of_input(dtype: str) -> ElemType | None:
    """The type by which a model's input is sent, if there is one."""
    return _BY_DTYPE.get(dtype)


def of_output(name: str, dtype: str) -> ElemType:
    """Raises Unsupported."""
    kind = _BY_DTYPE.get(dtype)
    if kind is None:
        raise Unsupported(
            f"output '{name}' is {dtype}, for which Paddle Serving's protocol has no elem_type: leave it out of "
            "fetch_var_names, or ask at /v2/models/{model}/infer"
        )
    return kind
