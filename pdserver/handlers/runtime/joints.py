"""Models in a row: whether each takes what the one before it gives, by the public names of inputs and outputs."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np

from pdarchiver.manifest import Signature, TensorSpec
from pdserver.dtypes import BFLOAT16
from pdserver.errors import ConfigError


def signature_of(models: Sequence[tuple[str, Signature]]) -> Signature:
    """What the models, each with its name, take and give together: the inputs of the first, the outputs of the last.

    Raises ConfigError for neighbours that do not fit, with both sides.
    """
    for (before, first), (after, second) in pairwise(models):
        given = {spec.name: spec for spec in first.outputs}
        if not all(spec.name in given and _fits(given[spec.name], spec) for spec in second.inputs):
            raise ConfigError(
                f"{after} can't follow {before}: it takes {_listed(second.inputs)}, and {before} gives "
                f"{_listed(first.outputs)}: in the conf of one of them (alias_name), give equal names to what fits"
            )
    return Signature(models[0][1].inputs, models[-1][1].outputs)


def _fits(given: TensorSpec, wanted: TensorSpec) -> bool:
    return (
        np.can_cast(_dtype(given), _dtype(wanted), "same_kind")
        and len(given.shape) == len(wanted.shape)
        and all(a == b or -1 in (a, b) for a, b in zip(given.shape, wanted.shape, strict=True))
    )


def _dtype(spec: TensorSpec) -> np.dtype[Any]:
    return np.dtype("float32" if spec.dtype == BFLOAT16 else spec.dtype)


def _listed(specs: tuple[TensorSpec, ...]) -> str:
    return ", ".join(map(str, specs)) or "nothing"
