"""Tensors of every type, as Paddle Serving's clients write them."""

from __future__ import annotations

import base64
import struct
from typing import Any

import numpy as np

from pdserver.dialects.protos import message_class

PACKAGE = "baidu.paddle_serving.predictor.general_model"
Request, Response = message_class(f"{PACKAGE}.Request"), message_class(f"{PACKAGE}.Response")

ROW = [0.0137, -0.1136, 0.2553, -0.0692, 0.0582, -0.0727, -0.1583, -0.0584, 0.6283, 0.4919, 0.1856, 0.0795, -0.0332]
"""The row that all of Paddle Serving's tutorials ask with."""

# dtype → elem_type, the field for its elements, two of these as JSON has them, and as numpy's dtype has them
VALUES: dict[str, tuple[int, str, list[Any], str]] = {
    "int64": (0, "int64_data", [-(2**63), 2**63 - 1], "<i8"),
    "float32": (1, "float_data", [0.5, -3.25], "<f4"),
    "int32": (2, "int_data", [-(2**31), 2**31 - 1], "<i4"),
    "float64": (3, "float64_data", [0.1, 1e308], "<f8"),
    "int16": (4, "", [-32768, 32767], "<i2"),
    "float16": (5, "", [-0.5, 65504.0], "<f2"),
    "bfloat16": (6, "", [0x3F80, 0xC020], "<u2"),
    "uint8": (7, "", [0, 255], "u1"),
    "int8": (8, "", [-128, 127], "i1"),
    "bool": (9, "bool_data", [True, False], "?"),
    "bytes": (20, "data", ["grüße", ""], ""),
}


def raw(dtype: str) -> bytes:
    """The two elements as they are in memory."""
    _, _, values, numpys = VALUES[dtype]
    return np.array(values, numpys).tobytes()


def tensor(dtype: str, *, content: bool = False) -> dict[str, Any]:
    """A row of two elements; with `content`, as they are in memory, wherever they can be."""
    number, field, values, _ = VALUES[dtype]
    if not field or (content and dtype != "bytes"):
        elements: dict[str, Any] = {"tensor_content": raw(dtype)}
    else:
        elements = {field: values}
    return {"alias_name": dtype, "name": f"own.{dtype}", "elem_type": number, "shape": [1, 2], **elements}


def as_json(given: dict[str, Any]) -> dict[str, Any]:
    """A tensor as JSON has it."""
    if content := given.get("tensor_content"):
        return {**given, "tensor_content": base64.b64encode(content).decode()}
    return given


def row(values: list[Any] = ROW, **changes: Any) -> dict[str, Any]:
    """What the tutorials send, with changes; a change to None leaves a field out."""
    said: dict[str, Any] = {
        "float_data": list(values),
        "elem_type": 1,
        "name": "x",
        "alias_name": "features",
        "shape": [1, 13],
    }
    return {name: value for name, value in {**said, **changes}.items() if value is not None}


def request(*tensors: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"tensor": list(tensors) or [row()], **more}


def recorded() -> bytes:
    """The tutorials' request byte by byte, as Paddle Serving 0.9 writes it: no class of ours knows these numbers."""
    elements = struct.pack("<13f", *ROW)
    fields = b"\x12\x34%b\x50\x01\x5a\x02\x01\x0d\x6a\x01x\x72\x08features" % elements
    return b"\x0a%c%b\x12\x05price\x20\x07" % (len(fields), fields)


def unpacked() -> bytes:
    """The same with each element in a field of its own, and the shape, too."""
    elements = b"".join(b"\x15" + struct.pack("<f", value) for value in ROW)
    fields = b"%b\x50\x01\x58\x01\x58\x0d\x6a\x01x\x72\x08features" % elements
    return b"\x0a%c%b" % (len(fields), fields)
