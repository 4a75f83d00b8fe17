"""What NumPy had when scripts of Paddle Serving were written. Their `np.fromstring(data, np.uint8)` fails today."""

from __future__ import annotations

from typing import Any

import numpy as np

_NAMES: dict[str, Any] = {
    **{"int": int, "float": float, "complex": complex, "object": object, "str": str},
    **{"float_": np.float64, "complex_": np.complex128, "Inf": np.inf, "NaN": np.nan, "product": np.prod},
}
"""Taken away by NumPy 1.24 and 2.0. `np.bool` came back."""
_fromstring = np.fromstring


def restore() -> None:
    """Give NumPy these names again, where it has none."""
    for name, value in _NAMES.items():
        if name not in vars(np):
            setattr(np, name, value)
    np.fromstring = fromstring  # type: ignore[assignment]


def write_scalars_as_before() -> None:
    """`str([np.float32(0.5)])` is "[0.5]" again, as clients read it, and not "[np.float32(0.5)]"."""
    np.set_printoptions(legacy="1.25")


def fromstring(string: Any, dtype: Any = float, count: int = -1, *, sep: str = "", like: Any = None) -> Any:
    """Bytes as an array, which can be written to, or the numbers in a text with `sep` between them."""
    if sep:
        return _fromstring(string, dtype, count, sep=sep, like=like)
    return np.frombuffer(string.encode() if isinstance(string, str) else string, dtype, count).copy()
