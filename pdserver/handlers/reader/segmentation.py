"""What becomes of the class of each pixel."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from pdserver.handlers.reader.checks import check, is_whole
from pdserver.handlers.runtime.rows import Array
from pdserver.handlers.vision import images


def palette(classes: int) -> Array:
    """A colour for each class, uint8 [classes, 3]: bits 0, 3 and 6 of its number begin the first channel, bits 1, 4
    and 7 the second, bits 2 and 5 the third, as in Pascal VOC."""
    colors = np.zeros((classes, 3), np.uint8)
    numbers = np.arange(classes)
    for place in range(8):
        for channel in range(3):
            colors[:, channel] |= ((numbers >> (3 * place + channel)) & 1).astype(np.uint8) << (7 - place)
    return colors


class SegPostprocess:
    """The class of each pixel → two PNG files beside the picture: `…_mask.png`, whose pixels are the classes, and
    `…_result.png`, coloured and of the picture's size. For cat.jpg, these are cat_jpg_mask.png and cat_jpg_result.png.
    """

    def __init__(self, class_num: int) -> None:
        self.class_num = class_num
        check(is_whole(class_num) and class_num <= 256, self, "class_num", class_num, "a number of classes up to 256")

    def __call__(self, image_with_result: Mapping[str, Any]) -> None:
        """`image_with_result` has the picture's path as `filename`, and the classes under any other name: integers of
        shape [height, width], perhaps among axes of length 1. Raises ValueError for anything else."""
        if "filename" not in image_with_result:
            raise ValueError('SegPostprocess: expected the path of the picture as "filename"')
        path = Path(image_with_result["filename"])
        mask = self._mask(image_with_result)
        _, width, height = images.size(path.read_bytes())
        colored = cv2.resize(palette(self.class_num)[mask], (width, height), interpolation=cv2.INTER_CUBIC)
        name = f"{path.stem}_{path.suffix[1:]}"
        cv2.imwrite(str(path.with_name(f"{name}_mask.png")), mask)
        cv2.imwrite(str(path.with_name(f"{name}_result.png")), colored)

    def _mask(self, image_with_result: Mapping[str, Any]) -> Array:
        masks = [
            np.asarray(value)
            for name, value in image_with_result.items()
            if name != "filename" and not name.endswith(".lod")
        ]
        if not masks:
            raise ValueError("SegPostprocess: expected the class of each pixel beside the filename")
        mask = masks[-1].squeeze()
        if mask.ndim != 2:
            raise ValueError(
                f"SegPostprocess: expected a class for each pixel, [height, width], got {list(mask.shape)}"
            )
        if mask.min() < 0 or mask.max() >= self.class_num:
            found = f"{mask.min()} to {mask.max()}"
            raise ValueError(f"SegPostprocess: class_num={self.class_num}: the model found classes {found}")
        return mask.astype(np.uint8)
