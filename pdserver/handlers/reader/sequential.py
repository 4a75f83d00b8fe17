"""Operators one after the other."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from pdserver.handlers.reader.checks import check


@dataclass(frozen=True)
class Sequential:
    """`transforms` in their order: each gets what the one before returned, the first what the chain is called with."""

    transforms: Sequence[Callable[[Any], Any]]

    def __post_init__(self) -> None:
        _check(self, self.transforms)

    def __call__(self, img: Any) -> Any:
        for transform in self.transforms:
            img = transform(img)
        return img


@dataclass(frozen=True)
class DetectionSequential:
    """As Sequential, for the operators of detection: each takes and returns the picture and what is known of it."""

    transforms: Sequence[Callable[[Any, dict[str, Any]], tuple[Any, dict[str, Any]]]]

    def __post_init__(self) -> None:
        _check(self, self.transforms)

    def __call__(self, im: Any) -> tuple[Any, dict[str, Any]]:
        """The picture, and {"scale_factor": what its height and width were multiplied by, "im_shape": its height and
        width after resizing}: each float32 of shape [2], "im_shape" None where no operator said it."""
        im_info: dict[str, Any] = {"scale_factor": np.ones(2, np.float32), "im_shape": None}
        for transform in self.transforms:
            im, im_info = transform(im, im_info)
        return im, im_info


@dataclass(frozen=True)
class Lambda:
    """A function of the user's own as an operator."""

    lambd: Callable[[Any], Any]

    def __post_init__(self) -> None:
        check(callable(self.lambd), self, "lambd", self.lambd, "a function")

    def __call__(self, img: Any) -> Any:
        return self.lambd(img)


def _check(operator: object, transforms: Any) -> None:
    valid = isinstance(transforms, list | tuple) and all(map(callable, transforms))
    check(valid, operator, "transforms", transforms, "a list of operators")
