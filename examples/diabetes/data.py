"""The diabetes study of Efron et al. (2004) from scikit-learn: 442 patients, ten measurements each."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

SEED = 1
"""Fixes the split and the training."""

FEATURES = ("age", "sex", "bmi", "bp", "s1", "s2", "s3", "s4", "s5", "s6")
"""Years; 1 or 2; kg/m²; mean blood pressure; six blood serum values: tc, ldl, hdl, tch, ltg, glucose."""


@dataclass(frozen=True)
class Patients:
    """`features`: float64 of shape [n, 10], in natural units; `progression`: float64 of shape [n], 25 to 346."""

    features: NDArray[np.float64]
    progression: NDArray[np.float64]


def load() -> tuple[Patients, Patients]:
    """The training two thirds and the held-out third."""
    # Imported only here, since it takes seconds: the demo tells at once what is wrong.
    from sklearn.datasets import load_diabetes
    from sklearn.model_selection import train_test_split

    bunch: Any = load_diabetes(scaled=False)
    train_x, test_x, train_y, test_y = train_test_split(bunch.data, bunch.target, test_size=1 / 3, random_state=SEED)
    return Patients(train_x, train_y), Patients(test_x, test_y)
