"""The built-in handler for image classification: pictures in, the likeliest labels out."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from pdserver.errors import ArchiveUnusable, ConfigError, InvalidRequest
from pdserver.handlers.base import BaseHandler
from pdserver.handlers.context import Context
from pdserver.handlers.runtime import labels, ranking, sections
from pdserver.handlers.runtime.inputs import Place
from pdserver.handlers.runtime.rows import Array, Arrays, stack
from pdserver.handlers.vision import image_requests, image_settings, images, occlusion
from pdserver.handlers.vision.image_settings import ImageSettings
from pdserver.handlers.vision.occlusion import OcclusionSettings
from pdserver.handlers.vision.pixel_settings import pixel_limit
from pdserver.handlers.vision.transform import Transform
from pdserver.tensors import BYTES
from pdserver.types import Binary, Interface, Port

INFERENCE_CONFIG = "inference.yml"


class ImageClassifier(BaseHandler):
    """For models with one input of shape [n, channels, height, width], whose first output is one number per class.

    A request is an image file, its base64 as text, several in a JSON list or as parts of a form, or a tensor for the
    model as it is. An answer is {label: probability}, the likeliest first; a list of them, for several.
    """

    settings: ImageSettings
    """After `initialize`."""

    def initialize(self, context: Context) -> None:
        """Raises what BaseHandler raises; ConfigError for wrong settings, ArchiveUnusable when they do not fit."""
        super().initialize(context)
        # What is wrong with an image is the client's to know, not the log's.
        cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)
        directory = Path(context.system_properties["model_dir"])
        path = directory / INFERENCE_CONFIG
        defaults, listed = image_settings.from_inference_yml(path) if path.is_file() else ({}, None)
        defaults = pixel_limit(context) | defaults
        self.settings = sections.read(ImageSettings, "image", context.model_yaml_config, defaults)
        self._occlusion = sections.read(OcclusionSettings, "explanation", context.model_yaml_config)
        self._transform = Transform(self.settings)
        self._labels = labels.read(directory, listed)
        self._input_name = self.signature.inputs[0].name
        self._shape = self._input_shape()
        self._check_classes()

    def preprocess(self, data: list[dict[str, Any]]) -> Arrays:
        """float32 of shape [rows, channels, height, width]."""
        # Written to in place, where all images come out at one size.
        batch = np.empty((len(data), *self._shape), np.float32) if -1 not in self._shape else None
        pieces: list[Array] = []
        places: list[Place] = []
        start, images_only = 0, True
        for row in data:
            try:
                value = image_requests.find(row, self._input_name)
                if isinstance(value, Binary):
                    out = batch[len(pieces)] if batch is not None and images_only else None
                    found = [self._read_image(value, out)]
                    place: Place = start
                elif isinstance(value, image_requests.Several):
                    found = value.read(self._read_image)
                    place = slice(start, start + len(found))
                    images_only = False
                else:
                    piece, place = self._read_tensor(value, start)
                    found = [piece]
                    images_only = False
                pieces += found
                places.append(place)
                start += sum(map(len, found))
            except InvalidRequest as error:
                places.append(error)
        self.places = places
        return {self._input_name: batch[:start] if batch is not None and images_only else stack(pieces)}

    def inference(self, inputs: Arrays) -> Arrays:
        """The model's outputs, the first of which is a row for each picture."""
        return self.run_rows(inputs, self.signature.outputs[0].name)

    def postprocess(self, outputs: Arrays) -> Sequence[dict[str, np.floating[Any]]]:
        """{label: probability} for each row, in descending order: of at most `top_k` classes, of those that have the
        threshold, or of one."""
        chances, settings = self._probabilities(outputs), self.settings
        if settings.otherwise is not None and isinstance(settings.threshold, float):
            return ranking.one(chances, self._labels, settings.threshold, settings.otherwise)
        if settings.threshold is not None:
            return ranking.above(chances, self._labels, settings.threshold)
        return ranking.likeliest(chances, self._labels, settings.top_k)

    def interface(self) -> Interface:
        """Image files, one a row; the probabilities of all classes."""
        classes = self.signature.outputs[0].shape[-1]
        chances = Port("probabilities", "float32", (-1, classes), self._labels.known)
        return Interface([Port("image", BYTES, (-1, 1))], [chances], batched=True)

    def handle_tensors(self, inputs: Arrays) -> Arrays:
        """Raises InvalidRequest for a row that is no image."""
        images = self.preprocess([{"body": image} for image in inputs["image"].ravel()])
        self.raise_first()
        return {"probabilities": self._probabilities(self.inference(images))}

    def get_insights(self, tensor_data: Arrays, raw_data: Any, target: Any) -> list[NDArray[np.float32]]:
        """For each row, how much less probable the class is without each part of the picture: see occlusion.py."""
        return [self._insight(image, target) for image in tensor_data[self._input_name]]

    def _insight(self, image: NDArray[np.float32], target: Any) -> NDArray[np.float32]:
        def chances(images: NDArray[np.float32]) -> NDArray[np.float32]:
            return self._probabilities(self.inference({self._input_name: images}))

        index = self._labels.index(target, chances(image[None])[0])
        return occlusion.importances(image, lambda images: chances(images)[:, index], self._occlusion)

    def _probabilities(self, outputs: Arrays) -> NDArray[np.float32]:
        softmax = self.settings.softmax
        return ranking.probabilities(
            next(iter(outputs.values())), False if softmax == "auto" and self.settings.multi_label else softmax
        )

    def _read_image(self, data: Binary, out: NDArray[np.float32] | None = None) -> Array:
        """One row, in `out` of shape [channels, height, width] if given."""
        pixels = images.decode(data, gray=self.settings.color == "gray", max_pixels=self.settings.max_pixels)
        pixels = self._transform.fit(pixels)
        height, width = pixels.shape[:2]
        wanted = self._shape[1:]
        if not image_requests.agree(wanted, (height, width)):
            raise InvalidRequest(f"expected an image of height and width {list(wanted)}, got {[height, width]}")
        if out is None:
            out = np.empty((self.settings.channels, height, width), np.float32)
        self._transform.normalize(pixels, out)
        return out[None]

    def _read_tensor(self, value: Any, start: int) -> tuple[Array, Place]:
        """What is no image goes to the model as it is: one row, or several with the batch axis."""
        inputs, (place,) = self.reader.read([{self._input_name: value}])
        if isinstance(place, Exception):
            raise place
        rows = inputs[self._input_name]
        return rows, start if isinstance(place, int) else slice(start, start + len(rows))

    def _check_classes(self) -> None:
        """Raises ConfigError for settings about other classes than the model has."""
        classes = self.signature.outputs[0].shape[-1] if self.signature.outputs[0].shape else -1
        threshold, otherwise = self.settings.threshold, self.settings.otherwise
        if classes < 0:
            return
        if isinstance(threshold, list) and len(threshold) != classes:
            raise ConfigError(f"image.threshold: {len(threshold)} numbers, but the model has {classes} classes")
        if otherwise is not None and otherwise >= classes:
            raise ConfigError(f"image.otherwise: {otherwise}: the model has {classes} classes, counted from 0")

    def _input_shape(self) -> tuple[int, int, int]:
        """Channels, height and width of what the model gets; -1 where they depend on the image."""
        spec = self.signature.inputs[0]
        if len(self.signature.inputs) != 1 or len(spec.shape) != 4 or not spec.dtype.startswith("float"):
            raise ArchiveUnusable(
                f"image_classifier needs a model with one float input [n, channels, height, width]; this one's inputs "
                f"are {', '.join(map(str, self.signature.inputs))}"
            )
        width, height = self.settings.output_size or (-1, -1)
        made, taken = (self.settings.channels, height, width), spec.shape[1:]
        if not image_requests.agree(made, taken):
            raise ConfigError(
                f'image: the settings make {list(made)} (channels, height, width), the input "{spec.name}" takes '
                f"{list(taken)}; in the model's config file, set image: {{{_settings_for(*taken)}}}"
            )
        channels, height, width = (max(lengths) for lengths in zip(made, taken, strict=True))
        return channels, height, width


def _settings_for(channels: int, height: int, width: int) -> str:
    size = [f"resize: [{width}, {height}]", "crop: null"] if -1 not in (height, width) else []
    return ", ".join([f"color: {'gray' if channels == 1 else 'rgb'}", *size])
