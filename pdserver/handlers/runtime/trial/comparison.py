"""Whether an engine's answers are those of the reference."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from pdserver.handlers.runtime.rows import Array, Arrays

_TIE = 1e-4
"""Two classes whose numbers are as near as this, as a share of the largest number, count as equally likely."""
_CLASS_AXES = (2, 3)
"""Outputs of so many axes are taken to have classes along the last one: rows or sequences of them. With more axes, they
are pictures."""


@dataclass(frozen=True)
class Tolerance:
    """How far answers may be from the reference's."""

    relative: float = 1e-4
    """The largest difference of an output's numbers, as a share of the largest number."""


@dataclass(frozen=True)
class Difference:
    """The largest difference between two sets of outputs, and what is wrong with it."""

    relative: float
    problem: str
    """What is too different, "" if nothing is."""


def compare(reference: Arrays, given: Arrays, tolerance: Tolerance) -> Difference:
    """The outputs of two engines for the same inputs. What is no floating-point number has to be equal.

    Shapes and dtypes have to be equal, not-a-numbers and infinities in the same places, and the likeliest class the
    same one.
    """
    largest = 0.0
    for name, wanted in reference.items():
        found = given.get(name)
        if found is None:
            return Difference(np.inf, f'it gives no output "{name}"')
        if (found.shape, found.dtype) != (wanted.shape, wanted.dtype):
            is_, should = (f"{array.dtype} of shape {list(array.shape)}" for array in (found, wanted))
            return Difference(np.inf, f'output "{name}": {is_}, and should be {should}')
        relative, other_class = _relative(wanted, found)
        largest = max(largest, relative)
        if relative > tolerance.relative:
            return Difference(
                relative, f'output "{name}" differs by {relative:.1e}, and may by {tolerance.relative:.1e}'
            )
        if other_class:
            return Difference(relative, f'output "{name}": another class is the likeliest')
    return Difference(largest, "")


def _relative(wanted: Array, found: Array) -> tuple[float, bool]:
    """The largest difference as a share of the largest number, and whether another class is the likeliest."""
    if not wanted.size:
        return 0.0, False
    if wanted.dtype.kind != "f":
        return (0.0 if np.array_equal(wanted, found) else np.inf), False
    wanted, found = wanted.astype(np.float64), found.astype(np.float64)
    finite = np.isfinite(wanted)
    if not np.array_equal(wanted[~finite], found[~finite], equal_nan=True) or not np.isfinite(found[finite]).all():
        return np.inf, False
    if not finite.any():
        return 0.0, False
    scale = float(np.abs(wanted[finite]).max())
    differences = np.abs(wanted[finite] - found[finite])
    relative = float(differences.max()) / (scale or 1.0)
    return relative, bool(finite.all()) and _other_class(wanted, found, scale)


def _other_class(wanted: Array, found: Array, scale: float) -> bool:
    if wanted.ndim not in _CLASS_AXES or wanted.shape[-1] < 2:
        return False
    there = np.take_along_axis(wanted, found.argmax(-1)[..., None], -1)[..., 0]
    return bool((wanted.max(-1) - there > _TIE * scale).any())
