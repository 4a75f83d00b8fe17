"""The operators of `paddle_serving_app.reader`, under their names and with their arguments.

Each of them is a callable that never changes, so that threads can share it. A module of this package is imported when
one of its names is asked for: a text reader does not load OpenCV. docs/reader.md has them all in tables.
"""

from __future__ import annotations

import importlib
from typing import Any

_MODULES = {
    "sequential": ("DetectionSequential", "Lambda", "Sequential"),
    "images": (
        "BGR2RGB", "Base64ToImage", "CenterCrop", "Div", "File2Image", "ImageReader", "Normalize", "PadStride",
        "RGB2BGR", "Resize", "ResizeByFactor", "String2Image", "Transpose",
    ),
    "urls": ("URL2Image",),
    "detection": (
        "BlazeFacePostprocess", "DetectionBGR2RGB", "DetectionDiv", "DetectionFile2Image", "DetectionNormalize",
        "DetectionPadStride", "DetectionResize", "DetectionTranspose", "RCNNPostprocess",
    ),
    "segmentation": ("SegPostprocess",),
    "text_boxes": ("DBPostProcess", "FilterBoxes", "GetRotateCropImage", "SortedBoxes"),
    "ocr": ("OCRReader",),
    "text": ("IMDBDataset", "LACReader", "SentaReader"),
    "bert": ("ChineseBertReader",),
    "video": ("Image2Array", "Normalization", "Sampler", "Scale", "TenCrop", "VideoDecoder"),
}  # fmt: skip
_MODULE_OF = {name: module for module, names in _MODULES.items() for name in names}
__all__ = list(_MODULE_OF)


def __getattr__(name: str) -> Any:
    if name not in _MODULE_OF:
        raise AttributeError(f"pdserver.handlers.reader has no {name}; it has {', '.join(sorted(_MODULE_OF))}")
    return getattr(importlib.import_module(f"{__name__}.{_MODULE_OF[name]}"), name)
