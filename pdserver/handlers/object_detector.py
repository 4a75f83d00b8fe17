"""The built-in handler for object detection: pictures in, labelled boxes out."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
import numpy as np

from pdarchiver.manifest import TensorSpec
from pdserver.errors import ArchiveUnusable, HandlerFailed
from pdserver.handlers.context import Context
from pdserver.handlers.runtime import labels, sections
from pdserver.handlers.runtime.rows import Array, Arrays, run_by_shape, run_by_size, run_one_by_one
from pdserver.handlers.vision import paddle_detection
from pdserver.handlers.vision.image_handler import ImageHandler
from pdserver.handlers.vision.preparation import Picture

_SIDE_INPUTS = ("im_shape", "scale_factor")


class DetectionSettings(msgspec.Struct, frozen=True, kw_only=True):
    """The section `detection` of a model's own YAML."""

    threshold: Annotated[float, msgspec.Meta(ge=0, le=1)] = 0.5
    """Boxes of a lower score are left out."""
    coordinates: Literal["auto", "image", "input"] = "auto"
    """Whether the model's boxes are places in the picture as it was sent, or as the model got it. auto: the former
    for models with the input `scale_factor`."""


class ObjectDetector(ImageHandler):
    """For models with an input [n, channels, height, width] and perhaps `im_shape` and `scale_factor` [n, 2], whose
    outputs are boxes of (class, score, left, top, right, bottom): [boxes, 6] with the number of boxes of each picture
    beside it, or [n, boxes, 6].

    An answer is [{label: [left, top, right, bottom], "score": score}, …] in pixels of the picture as it was sent, the
    highest score first.
    """

    export_files = ("infer_cfg.yml", "inference.yml")
    settings: DetectionSettings
    """After `initialize`."""

    def initialize(self, context: Context) -> None:
        """Raises what ImageHandler raises; ArchiveUnusable for a model with other inputs or outputs."""
        self._defaults: dict[str, Any] = {}
        self._listed: list[str] | None = None
        super().initialize(context)
        self.settings = sections.read(DetectionSettings, "detection", context.model_yaml_config, self._defaults)
        self._labels = labels.read(Path(context.system_properties["model_dir"]), self._listed)
        for spec in self.signature.inputs:
            if spec is not self.image and (spec.name not in _SIDE_INPUTS or len(spec.shape) != 2):
                raise ArchiveUnusable(
                    f'object_detector does not know what the input "{spec}" takes; beside the image, models have '
                    "im_shape and scale_factor of shape [n, 2], perhaps renamed by inputs: in the model's config file"
                )
        self._boxes, self._counts = _outputs(self.signature.outputs)
        takes_scale = any(spec.name == "scale_factor" for spec in self.signature.inputs)
        wanted = self.settings.coordinates
        self._scale_back = wanted == "input" or (wanted == "auto" and not takes_scale)
        # Unless the rows of the counts or boxes are known to be the pictures', boxes can't be assigned to pictures.
        known = self._counts or (self._boxes if len(self._boxes.shape) == 3 else None)
        self._one_by_one = known is None or not self.batching.are_rows(known.name)

    def read_export(self, config: dict[str, Any], file: str) -> dict[str, Any]:
        if isinstance(threshold := config.get("draw_threshold"), int | float):
            self._defaults = {"threshold": threshold}
        if isinstance(listed := config.get("label_list"), list):
            self._listed = [str(label) for label in listed]
        return paddle_detection.image_settings(config, file)

    def beside(self, pictures: Sequence[Picture]) -> Arrays:
        """Of `im_shape` and `scale_factor` what the model takes: height and width, as float32."""
        inputs = {
            "im_shape": np.array([picture.resized for picture in pictures], np.float32),
            "scale_factor": np.array([picture.scale for picture in pictures], np.float32),
        }
        names = {spec.name for spec in self.signature.inputs}
        return {name: array for name, array in inputs.items() if name in names}

    def inference(self, inputs: Arrays) -> Arrays:
        """{"boxes": an array with one [boxes, 6] for each row}. Pictures of equal size run together."""
        size = self.predictor.fixed_batch_size
        if self._one_by_one:
            return run_one_by_one(self._detect if size is None else partial(self._detect_one, size=size), inputs)
        detect = self._detect if size is None else partial(run_by_size, self._detect, sizes=(size,))
        return run_by_shape(detect, inputs)

    def postprocess(self, outputs: Arrays) -> Sequence[list[dict[str, Any]]]:
        return [self._answer(boxes, picture) for boxes, picture in zip(outputs["boxes"], self.pictures, strict=True)]

    def _detect(self, inputs: Arrays) -> Arrays:
        outputs = self.predictor.run(inputs)
        rows = len(inputs[self.image.name])
        boxes = outputs[self._boxes.name]
        if boxes.ndim == 2:
            counts = outputs[self._counts.name].ravel() if self._counts else np.array([len(boxes)])
            if len(counts) != rows or counts.sum() != len(boxes):
                raise HandlerFailed(
                    f"the model counts {counts.tolist()} boxes in {rows} pictures, and has {len(boxes)}"
                )
            split = np.split(boxes, np.cumsum(counts)[:-1])
        else:
            split = list(boxes)
        if boxes.shape[-1] != 6 or len(split) != rows:
            shape = list(boxes.shape)
            raise HandlerFailed(
                f"object_detector needs boxes of 6 numbers for {rows} pictures; the model's are {shape}"
            )
        by_row = np.empty(rows, dtype=object)
        for i, found in enumerate(split):
            by_row[i] = found
        return {"boxes": by_row}

    def _detect_one(self, inputs: Arrays, size: int) -> Arrays:
        """For a model that takes exactly `size` pictures: run the same picture so many times."""
        found = self._detect({name: np.repeat(array, size, axis=0) for name, array in inputs.items()})
        return {"boxes": found["boxes"][:1]}

    def _answer(self, boxes: Array, picture: Picture) -> list[dict[str, Any]]:
        # Boxes of class -1 are padding.
        boxes = boxes[(boxes[:, 0] >= 0) & (boxes[:, 1] >= self.settings.threshold)]
        boxes = boxes[np.argsort(-boxes[:, 1], kind="stable")]
        corners = boxes[:, 2:]
        if self._scale_back:
            scale_y, scale_x = picture.scale
            corners = corners / np.array([scale_x, scale_y, scale_x, scale_y], np.float32)
        return [{self._labels[int(box[0])]: place, "score": box[1]} for box, place in zip(boxes, corners, strict=True)]


def _outputs(specs: Sequence[TensorSpec]) -> tuple[TensorSpec, TensorSpec | None]:
    """The boxes, and how many of them each picture has."""
    for boxes in specs:
        if len(boxes.shape) in (2, 3) and boxes.shape[-1] in (-1, 6) and boxes.dtype.startswith("float"):
            counts = (spec for spec in specs if len(spec.shape) == 1 and spec.dtype.startswith("int"))
            return boxes, next(counts, None)
    raise ArchiveUnusable(
        f"object_detector needs an output of boxes, [boxes, 6] or [n, boxes, 6]; this model's outputs are "
        f"{', '.join(map(str, specs))}"
    )
