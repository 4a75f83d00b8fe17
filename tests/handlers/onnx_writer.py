"""Writes ONNX files without the package `onnx`: a few fields of its protobuf.

Source: onnx/onnx.proto, IR version 8, opset 13.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

TYPES = {"float32": 1, "int32": 6, "int64": 7, "bool": 9, "float16": 10, "float64": 11, "bfloat16": 16}
Side = Mapping[str, tuple[str, Sequence[int | str]]]
"""dtype and shape by name; a length that is text is open."""
Node = tuple[str, Sequence[str], Sequence[str], Mapping[str, Any]]
"""Type, inputs, outputs, attributes."""


def write(path: Path, nodes: Sequence[Node], inputs: Side, outputs: Side, weights: Mapping[str, NDArray[Any]]) -> Path:
    """`weights` are initializers. Returns `path`."""
    graph = b"".join(
        [
            *(_field(1, _node(*node)) for node in nodes),
            _field(2, b"test"),
            *(_field(5, _weights(name, array)) for name, array in weights.items()),
            *(_field(11, _value(name, *said)) for name, said in inputs.items()),
            *(_field(12, _value(name, *said)) for name, said in outputs.items()),
        ]
    )
    path.write_bytes(_number(1, 8) + _field(7, graph) + _field(8, _field(1, b"") + _number(2, 13)))
    return path


def _varint(number: int) -> bytes:
    number &= (1 << 64) - 1
    found = bytearray()
    while number > 0x7F:
        found.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes([*found, number])


def _number(field: int, value: int) -> bytes:
    return _varint(field << 3) + _varint(value)


def _field(field: int, data: bytes) -> bytes:
    return _varint(field << 3 | 2) + _varint(len(data)) + data


def _node(kind: str, inputs: Sequence[str], outputs: Sequence[str], attributes: Mapping[str, Any]) -> bytes:
    names = [_field(1, name.encode()) for name in inputs] + [_field(2, name.encode()) for name in outputs]
    return b"".join([*names, _field(4, kind.encode()), *(_field(5, _attribute(*each)) for each in attributes.items())])


def _attribute(name: str, value: int | list[int]) -> bytes:
    if isinstance(value, int):
        return _field(1, name.encode()) + _number(3, value) + _number(20, 2)
    return _field(1, name.encode()) + b"".join(_number(8, each) for each in value) + _number(20, 7)


def _weights(name: str, array: NDArray[Any]) -> bytes:
    dims = b"".join(_number(1, length) for length in array.shape)
    return dims + _number(2, TYPES[array.dtype.name]) + _field(8, name.encode()) + _field(9, array.tobytes())


def _value(name: str, dtype: str, shape: Sequence[int | str]) -> bytes:
    dims = [_field(2, length.encode()) if isinstance(length, str) else _number(1, length) for length in shape]
    tensor = _number(1, TYPES[dtype]) + _field(2, b"".join(_field(1, dim) for dim in dims))
    return _field(1, name.encode()) + _field(2, _field(1, tensor))
