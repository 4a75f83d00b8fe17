"""The names and numbers that TensorFlow has for the dtypes of tensors. Source: TensorFlow's types.proto."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from pdserver.dtypes import BFLOAT16, BYTES


class DataType(NamedTuple):
    name: str
    """As in JSON and in protobuf."""
    number: int
    word: str
    """As in error texts."""


DATA_TYPES: Mapping[str, DataType] = {
    "float32": DataType("DT_FLOAT", 1, "float"),
    "float64": DataType("DT_DOUBLE", 2, "double"),
    "int32": DataType("DT_INT32", 3, "int32"),
    "uint8": DataType("DT_UINT8", 4, "uint8"),
    "int16": DataType("DT_INT16", 5, "int16"),
    "int8": DataType("DT_INT8", 6, "int8"),
    BYTES: DataType("DT_STRING", 7, "string"),
    "int64": DataType("DT_INT64", 9, "int64"),
    "bool": DataType("DT_BOOL", 10, "bool"),
    BFLOAT16: DataType("DT_BFLOAT16", 14, "bfloat16"),
    "uint16": DataType("DT_UINT16", 17, "uint16"),
    "float16": DataType("DT_HALF", 19, "half"),
    "uint32": DataType("DT_UINT32", 22, "uint32"),
    "uint64": DataType("DT_UINT64", 23, "uint64"),
}
"""By our names (those of a `Tensor`)."""
