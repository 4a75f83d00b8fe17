"""What the handlers share that take pictures: from requests to the model's input, whatever the answers are."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import cv2
import msgspec
import numpy as np

from pdarchiver.manifest import TensorSpec
from pdserver.errors import ArchiveUnusable, InvalidRequest
from pdserver.handlers.base import BaseHandler
from pdserver.handlers.context import Context
from pdserver.handlers.runtime import sections
from pdserver.handlers.runtime.inputs import InputReader, Place
from pdserver.handlers.runtime.rows import Array, Arrays, stack
from pdserver.handlers.vision import exports, image_requests
from pdserver.handlers.vision.image_requests import Several
from pdserver.handlers.vision.image_settings import ImageSettings, pixel_limit
from pdserver.handlers.vision.preparation import Floats, Picture, Preparation
from pdserver.types import Binary


class ImageHandler(BaseHandler):
    """For models with one input [n, channels, height, width], and perhaps others that a subclass knows.

    A request is an image file, its base64 as text, several in a JSON list or as parts of a form, or one tensor for the
    model as it is.
    """

    export_files: tuple[str, ...]
    """Where Paddle's tools say how pictures are prepared; the first that is there is read."""
    takes_rows = False
    """Whether a tensor may be several rows; with the batch axis, it is then answered with a list."""
    pictures: list[Picture]
    """Of the current batch, one for each row."""

    def initialize(self, context: Context) -> None:
        """Raises what BaseHandler raises; ConfigError for wrong settings, ArchiveUnusable when no input is an image."""
        super().initialize(context)
        # What is wrong with an image is the client's to know, not the log's.
        cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)
        directory = Path(context.system_properties["model_dir"])
        defaults: dict[str, Any] = pixel_limit(context)
        path = next((path for name in self.export_files if (path := directory / name).is_file()), None)
        if path is not None:
            defaults |= self.read_export(exports.read(path), path.name)
        self._preparation = self.preparation(context.model_yaml_config, defaults)
        self._tensors = InputReader([self.image])

    @cached_property
    def image(self) -> TensorSpec:
        """The one float input of rank 4. Raises ArchiveUnusable when there is none, or more than one."""
        found = [spec for spec in self.signature.inputs if len(spec.shape) == 4 and spec.dtype.startswith("float")]
        if len(found) != 1:
            raise ArchiveUnusable(
                "expected a model with one float input [n, channels, height, width]; this one's inputs are "
                f"{', '.join(map(str, self.signature.inputs))}"
            )
        return found[0]

    def read_export(self, config: dict[str, Any], file: str) -> dict[str, Any]:
        """The keys of the section `image` in an exported file; a subclass also takes from it what else it needs."""
        raise NotImplementedError

    def preparation(self, config: dict[str, Any], defaults: dict[str, Any]) -> Preparation:
        """By the section `image` of the model's `config`. A subclass with a section of its own reads that one."""
        settings = sections.read(ImageSettings, "image", config, defaults)
        if settings.resize is None and settings.pad is None and -1 not in self.image.shape[2:]:
            settings = msgspec.structs.replace(settings, resize=self.image.shape[:1:-1])
        return Preparation(settings, self.image)

    def preprocess(self, data: list[dict[str, Any]]) -> Arrays:
        """The pictures, of shape [rows, channels, height, width], and what the model takes beside them.

        Pictures that differ in size are held as rows.
        """
        found = [self._find(row) for row in data]
        shape = self._preparation.shape
        # Written to in place, where each request is one picture and all come out at one size.
        in_place = -1 not in shape and all(isinstance(value, Binary | InvalidRequest) for value in found)
        batch = np.empty((len(data), *shape), np.float32) if in_place else None
        pieces: list[Array] = []
        places: list[Place] = []
        self.pictures = []
        for value in found:
            start = len(self.pictures)
            try:
                arrays, pictures, several = self._read(value, None if batch is None else batch[start])
            except InvalidRequest as error:
                places.append(error)
                continue
            pieces += arrays
            self.pictures += pictures
            places.append(slice(start, len(self.pictures)) if several else start)
        self.places = places
        image = stack(pieces) if batch is None else batch[: len(pieces)]
        return {self.image.name: image} | self.beside(self.pictures)

    def beside(self, pictures: Sequence[Picture]) -> Arrays:
        """The model's other inputs, a row for each of `pictures`; here, none."""
        return {}

    def _find(self, row: Any) -> Any:
        try:
            return image_requests.find(row, self.image.name)
        except InvalidRequest as error:
            return error

    def _read(self, value: Any, out: Floats | None) -> tuple[list[Array], list[Picture], bool]:
        """Arrays of shape [rows, …], a picture for each row, and whether a list of answers is expected."""
        if isinstance(value, InvalidRequest):
            raise value
        if isinstance(value, Several):
            read = value.read(self._preparation.read)
        elif isinstance(value, Binary):
            read = [self._preparation.read(value, out)]
        else:
            rows, has_batch_axis = self._read_tensor(value)
            size = (rows.shape[2], rows.shape[3])
            return [rows], [Picture(size, size, size, (1.0, 1.0))] * len(rows), has_batch_axis
        return [array[None] for array, _ in read], [picture for _, picture in read], isinstance(value, Several)

    def _read_tensor(self, value: Any) -> tuple[Array, bool]:
        """What is no image file goes to the model as it is."""
        inputs, (place,) = self._tensors.read([{self.image.name: value}])
        if isinstance(place, Exception):
            raise place
        rows = inputs[self.image.name]
        if not self.takes_rows and len(rows) != 1:
            raise InvalidRequest(f"expected one image, got {len(rows)}")
        return rows, self.takes_rows and isinstance(place, slice)
