"""ONNX models, written byte by byte, so that tests need no onnx package and can write odd ones.

Source of the numbers: onnx/onnx.proto.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

FLOAT, INT64, STRING, BOOL, BFLOAT16 = 1, 7, 8, 9, 16
Value = tuple[str, int, "Sequence[int | str] | None"]
"""Name, number of the type (0: nothing is said), shape; a text is the name of an open length."""


def number(field: int, value: int) -> bytes:
    return _varint(field << 3) + _varint(value)


def message(field: int, *parts: bytes) -> bytes:
    content = b"".join(parts)
    return _varint(field << 3 | 2) + _varint(len(content)) + content


def text(field: int, value: str) -> bytes:
    return message(field, value.encode())


def node(kind: str, inputs: Sequence[str], outputs: Sequence[str], *attributes: bytes) -> bytes:
    names = [text(1, name) for name in inputs] + [text(2, name) for name in outputs]
    return message(1, *names, text(4, kind), *(message(5, attribute) for attribute in attributes))


def attribute(name: str, value: int | Sequence[int]) -> bytes:
    """An attribute's content, for `node`."""
    if isinstance(value, int):
        return text(1, name) + number(3, value) + number(20, 2)
    return text(1, name) + b"".join(number(8, each) for each in value) + number(20, 7)


def weights(name: str, array: npt.NDArray[np.float32 | np.int64], file: str = "") -> bytes:
    """An initializer's content. `file`: where its values are, instead of here."""
    kind = FLOAT if array.dtype == np.float32 else INT64
    values = [number(1, length) for length in array.shape] + [number(2, kind), text(8, name)]
    if file:
        entries = {"location": file, "length": str(array.nbytes)}
        values += [message(13, text(1, key), text(2, value)) for key, value in entries.items()] + [number(14, 1)]
    else:
        values.append(message(9, array.tobytes()))
    return b"".join(values)


def model(
    inputs: Sequence[Value],
    outputs: Sequence[Value],
    nodes: Sequence[bytes] = (),
    initializers: Sequence[bytes] = (),
    opset: int = 13,
) -> bytes:
    graph = [*nodes, text(2, "main"), *(message(5, weight) for weight in initializers)]
    graph += [_value(11, value) for value in inputs] + [_value(12, value) for value in outputs]
    return number(1, 8) + text(2, "tests") + message(7, *graph) + message(8, number(2, opset))


def linear(path: Path, weight: npt.NDArray[np.float32], file: str = "", name: str = "x") -> Path:
    """Write a model: `name` float32[N, rows] · weight → y float32[N, columns]. `file`: where the weights are."""
    rows, columns = weight.shape
    path.write_bytes(
        model(
            [(name, FLOAT, ["N", rows]), ("w", FLOAT, [rows, columns])],
            [("y", FLOAT, ["N", columns])],
            [node("MatMul", [name, "w"], ["y"])],
            [weights("w", weight, file)],
        )
    )
    if file:
        (path.parent / file).parent.mkdir(exist_ok=True)
        (path.parent / file).write_bytes(weight.astype("<f4").tobytes())
    return path


def _value(field: int, value: Value) -> bytes:
    name, kind, shape = value
    if not kind:
        return message(field, text(1, name))
    parts = [number(1, kind)]
    if shape is not None:
        dims = [number(1, dim) if isinstance(dim, int) else text(2, dim) if dim else b"" for dim in shape]
        parts.append(message(2, *(message(1, dim) for dim in dims)))
    return message(field, text(1, name), message(2, message(1, *parts)))


def _varint(value: int) -> bytes:
    value &= (1 << 64) - 1
    found = bytearray()
    while value > 0x7F:
        found.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes(found + bytes([value]))
