"""Errors of use: they name the operator, the argument and what was expected."""

from __future__ import annotations

from typing import Any

import numpy as np

from pdserver.formats.values import shown
from pdserver.handlers.runtime.rows import Array


def check(valid: bool, operator: object, argument: str, value: object, expected: str) -> None:
    """Raises ValueError unless `valid`."""
    if not valid:
        raise ValueError(f"{type(operator).__name__}: {argument}={shown(repr(value))}: expected {expected}")


def is_whole(value: object, least: int = 1) -> bool:
    return isinstance(value, int | np.integer) and int(value) >= least


def are_numbers(value: Any) -> bool:
    """Whether it is a sequence of at least one number."""
    try:
        array = np.asarray(value, np.float64)
    except (TypeError, ValueError):
        return False
    return array.ndim == 1 and array.size > 0 and bool(np.isfinite(array).all())


def picture(operator: object, img: Any, axes: str = "height, width, channels") -> Array:
    """`img`, if it is an array with these axes and at least one pixel. Raises TypeError."""
    if isinstance(img, np.ndarray) and img.ndim == axes.count(",") + 1 and img.size:
        return img
    got = f"one of shape {list(img.shape)}" if isinstance(img, np.ndarray) else type(img).__name__
    raise TypeError(f"{type(operator).__name__}: expected an array [{axes}], got {got}")
