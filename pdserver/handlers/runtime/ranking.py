"""A classifier's scores → the likeliest labels."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec
import numpy as np
from numpy.typing import NDArray

from pdserver.handlers.runtime.labels import Labels
from pdserver.handlers.runtime.rows import Array

Softmax = bool | Literal["auto"]
"""auto: for scores that are not yet probabilities, which are not negative and add up to 1."""
TopK = Annotated[int, msgspec.Meta(ge=1)]


def probabilities(scores: Array, softmax: Softmax) -> NDArray[np.float32]:
    """Of shape [rows, classes], from scores of shape [rows, …]."""
    scores = scores.reshape(len(scores), -1).astype(np.float32, copy=False)
    if softmax is False:
        return scores
    powers: NDArray[np.float32] = np.exp(scores - scores.max(axis=1, keepdims=True))
    powers /= powers.sum(axis=1, keepdims=True)
    if softmax is True:
        return powers
    # Each row by itself: no answer depends on which others were in the batch.
    done = (scores.min(axis=1) >= 0) & (np.abs(scores.sum(axis=1) - 1) < 1e-3)
    return np.where(done[:, None], scores, powers)


def above(chances: NDArray[np.float32], labels: Labels, threshold: Any) -> list[dict[str, np.floating[Any]]]:
    """{label: probability} for each row, in descending order, of the classes that have at least the threshold."""
    order = np.argsort(-chances, axis=1, kind="stable")
    enough = np.take_along_axis(chances >= threshold, order, axis=1)
    return [
        {labels[index]: row[index] for index in indices[kept].tolist()}
        for row, indices, kept in zip(chances, order, enough, strict=True)
    ]


def one(
    chances: NDArray[np.float32], labels: Labels, threshold: float, otherwise: int
) -> list[dict[str, np.floating[Any]]]:
    """{label: probability} for each row, of one class: the likeliest if it exceeds the threshold, else `otherwise`.

    Of two classes, it is the other one if that has at least the threshold, be it the likelier or not.
    """
    if chances.shape[1] == 2:
        chosen = np.where(chances[:, 1 - otherwise] >= threshold, 1 - otherwise, otherwise)
    else:
        chosen = np.where(chances.max(axis=1) > threshold, chances.argmax(axis=1), otherwise)
    return [{labels[index]: row[index]} for row, index in zip(chances, chosen.tolist(), strict=True)]


def likeliest(chances: NDArray[np.float32], labels: Labels, top_k: int) -> list[dict[str, np.floating[Any]]]:
    """{label: probability} for each row, in descending order, of at most `top_k` classes."""
    best = np.argsort(-chances, axis=1, kind="stable")[:, :top_k]
    return [
        {labels[index]: row[index] for index in indices} for row, indices in zip(chances, best.tolist(), strict=True)
    ]
