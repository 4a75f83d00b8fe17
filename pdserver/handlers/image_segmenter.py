"""The built-in handler for semantic segmentation: pictures in, the class of each pixel out."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import msgspec

from pdserver.handlers.context import Context
from pdserver.handlers.runtime import labels, sections
from pdserver.handlers.runtime.rows import Array, Arrays
from pdserver.handlers.vision import paddle_seg
from pdserver.handlers.vision.class_maps import class_map, to_png, to_runs
from pdserver.handlers.vision.image_handler import ImageHandler
from pdserver.handlers.vision.preparation import Picture

_FORMATS = {"image/png": "png", "application/json": "runs"}


class SegmentationSettings(msgspec.Struct, frozen=True, kw_only=True):
    """The section `segmentation` of a model's own YAML."""

    format: Literal["runs", "png"] = "runs"
    """The format for requests whose Accept names neither of the two."""


class ImageSegmenter(ImageHandler):
    """For models with one input [n, channels, height, width], whose first output is the class of each pixel
    [n, height, width] or each class's scores [n, classes, height, width].

    An answer is run lengths as JSON or a gray PNG, both at the size of the picture as it was sent.
    """

    export_files = ("deploy.yaml", "inference.yml")
    settings: SegmentationSettings
    """After `initialize`."""

    def initialize(self, context: Context) -> None:
        """Raises what ImageHandler raises."""
        super().initialize(context)
        self.settings = sections.read(SegmentationSettings, "segmentation", context.model_yaml_config)
        self._labels = labels.read(Path(context.system_properties["model_dir"]), None)

    def read_export(self, config: dict[str, Any], file: str) -> dict[str, Any]:
        return paddle_seg.image_settings(config, file)

    def inference(self, inputs: Arrays) -> Arrays:
        """The model's outputs, the first of which is a row for each picture."""
        return self.run_rows(inputs, self.signature.outputs[0].name)

    def postprocess(self, outputs: Arrays) -> Sequence[Any]:
        output = next(iter(outputs.values()))
        answers: list[Any] = []
        for idx, place in enumerate(self.places):
            if isinstance(place, slice):  # several pictures in one request are answered as JSON
                answers += [
                    to_runs(class_map(output[i], self.pictures[i]), self._labels) for i in range(place.stop)[place]
                ]
            elif isinstance(place, int):
                answers.append(self._answer(output[place], idx, self.pictures[place]))
        return answers

    def _answer(self, row: Array, idx: int, picture: Picture) -> Any:
        classes = class_map(row, picture)
        if self._format(idx) == "runs":
            return to_runs(classes, self._labels)
        self.context.set_response_content_type(idx, "image/png")
        return to_png(classes)

    def _format(self, idx: int) -> str:
        """The first known format that the request accepts, else the setting."""
        accepted = (self.context.get_request_header(idx, "accept") or "").split(",")
        named = (_FORMATS.get(media.partition(";")[0].strip().lower()) for media in accepted)
        return next(filter(None, named), self.settings.format)
