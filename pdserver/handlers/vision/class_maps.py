"""A segmentation model's output → the class of each pixel of the picture as sent, as PNG or run lengths."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from pdserver.errors import HandlerFailed
from pdserver.handlers.runtime.labels import Labels
from pdserver.handlers.runtime.rows import Array
from pdserver.handlers.vision.preparation import Picture

ClassMap = NDArray[np.uint16]
"""Of shape [height, width]."""


def class_map(output: Array, picture: Picture) -> ClassMap:
    """From classes (integers) of shape [height, width], or scores (floats) of [classes, height, width].

    Scores are interpolated before the best is chosen, which keeps edges smooth; classes cannot be.
    """
    is_scores = output.dtype.kind == "f"
    planes = output if output.ndim == 3 else output[None]
    if output.ndim not in (2, 3) or (len(planes) > 1) != is_scores or len(planes) > 65536:
        raise HandlerFailed(
            "image_segmenter needs an output of classes, integers of shape [n, height, width], or of scores, floats "
            f"of [n, classes, height, width]; each row of the model's is {output.dtype} {list(output.shape)}"
        )
    # Cut off the padding. The output may be smaller than the input, so the padding shrinks by the same factor.
    height, width = (
        max(1, round(length * part / whole))
        for length, part, whole in zip(planes.shape[1:], picture.resized, picture.padded, strict=True)
    )
    planes = planes[:, :height, :width]
    return _best(planes, picture.size) if is_scores else _nearest(planes[0], picture.size)


def to_png(classes: ClassMap) -> bytes:
    """A gray PNG whose pixels are the classes, 8 bits deep if that is enough, else 16."""
    done, data = cv2.imencode(".png", classes.astype(np.uint8) if classes.max() < 256 else classes)
    assert done, "OpenCV writes PNG"  # noqa: S101
    return bytes(data)


def to_runs(classes: ClassMap, labels: Labels) -> dict[str, Any]:
    """Run lengths, row by row: `counts[i]` pixels of `classes[i]`, and the labels of the classes that occur."""
    flat = classes.ravel()
    starts = np.concatenate(([0], np.flatnonzero(flat[1:] != flat[:-1]) + 1))
    runs = flat[starts]
    return {
        "size": list(classes.shape),
        "classes": runs,
        "counts": np.diff(starts, append=len(flat)),
        "labels": {str(index): labels[index] for index in np.unique(runs).tolist()},
    }


def _nearest(classes: Array, size: tuple[int, int]) -> ClassMap:
    if classes.min() < 0 or classes.max() > 65535:
        raise HandlerFailed(f"image_segmenter needs classes from 0 to 65535, got {classes.min()} to {classes.max()}")
    return _resized(classes.astype(np.uint16), size, cv2.INTER_NEAREST)


def _best(scores: Array, size: tuple[int, int]) -> ClassMap:
    """One class after the other, since the scores of all would take too much memory for a large picture."""
    scores = scores.astype(np.float32, copy=False)
    highest = _resized(scores[0], size, cv2.INTER_LINEAR).copy()
    best = np.zeros(size, np.uint16)
    for index in range(1, len(scores)):
        plane = _resized(scores[index], size, cv2.INTER_LINEAR)
        best[plane > highest] = index
        np.maximum(highest, plane, out=highest)
    return best


def _resized(plane: Array, size: tuple[int, int], interpolation: int) -> Array:
    height, width = size
    return plane if plane.shape == size else np.asarray(cv2.resize(plane, (width, height), interpolation=interpolation))
