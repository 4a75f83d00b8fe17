"""Tensors of every datatype, as tests send them."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]

# Of each datatype: what a JSON list has, and what numpy makes of it. BF16 is given to numpy as its bits.
VALUES: dict[str, tuple[list[Any], str]] = {
    "BOOL": ([True, False], "?"),
    "UINT8": ([0, 255], "<u1"),
    "UINT16": ([0, 65535], "<u2"),
    "UINT32": ([0, 2**32 - 1], "<u4"),
    "UINT64": ([0, 2**64 - 1], "<u8"),
    "INT8": ([-128, 127], "<i1"),
    "INT16": ([-32768, 32767], "<i2"),
    "INT32": ([-(2**31), 2**31 - 1], "<i4"),
    "INT64": ([-(2**63), 2**63 - 1], "<i8"),
    "FP16": ([-0.5, 65504.0], "<f2"),
    "BF16": ([1.0, -2.5], "<u2"),
    "FP32": ([0.1, -3.4e38], "<f4"),
    "FP64": ([0.1, 1e308], "<f8"),
    "BYTES": (["grüße", ""], "O"),
}
BF16_BITS = [0x3F80, 0xC020]


def raw(datatype: str) -> bytes:
    """The values as the binary extension has them."""
    values, dtype = VALUES[datatype]
    if datatype == "BYTES":
        return b"".join(len(v.encode()).to_bytes(4, "little") + v.encode() for v in values)
    return np.array(BF16_BITS if datatype == "BF16" else values, dtype).tobytes()


def json_input(datatype: str) -> dict[str, Any]:
    return {"name": datatype.lower(), "datatype": datatype, "shape": [1, 2], "data": VALUES[datatype][0]}


def all_inputs() -> list[dict[str, Any]]:
    """What the model `echo` takes, in JSON."""
    return [json_input(datatype) for datatype in VALUES]
