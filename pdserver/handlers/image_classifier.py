"""The built-in handler for image classification: pictures in, the likeliest labels out."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from pdserver.dtypes import BYTES
from pdserver.errors import ArchiveUnusable, ConfigError
from pdserver.handlers.context import Context
from pdserver.handlers.runtime import labels, ranking, sections
from pdserver.handlers.runtime.ranking import Softmax, TopK
from pdserver.handlers.runtime.rows import Arrays
from pdserver.handlers.vision import occlusion, paddle_clas
from pdserver.handlers.vision.image_handler import ImageHandler
from pdserver.handlers.vision.image_settings import ImageSettings, check_lengths
from pdserver.handlers.vision.occlusion import OcclusionSettings
from pdserver.handlers.vision.preparation import Preparation
from pdserver.types import Interface, Port


class ClassifierSettings(ImageSettings, frozen=True, kw_only=True):
    """The section `image` for image_classifier, which says what is answered, too."""

    resize: int | tuple[int, int] | None = 256
    crop: int | tuple[int, int] | None = 224
    """From the centre: width and height, one number for both."""
    top_k: TopK = 5
    softmax: Softmax = "auto"
    """auto: also not for several labels, whose probabilities do not add up to 1."""
    threshold: float | list[float] | None = None
    """Every label of at least this probability is answered; a list has one for each class."""
    otherwise: Annotated[int, msgspec.Meta(ge=0)] | None = None
    """With it, one label is answered: the likeliest if it exceeds `threshold`, else this class. Of two classes, the
    other one if it has at least `threshold`."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_lengths("crop", self.crop)
        if self.otherwise is not None and not isinstance(self.threshold, float):
            raise ValueError(f"otherwise: {self.otherwise}: needs a threshold that is one number")

    @property
    def multi_label(self) -> bool:
        return self.threshold is not None and self.otherwise is None


class ImageClassifier(ImageHandler):
    """For models with one input of shape [n, channels, height, width], whose first output is one number per class.

    An answer is {label: probability}, the likeliest first; a list of them, for several pictures or a tensor with the
    batch axis.
    """

    export_files = ("inference.yml",)
    takes_rows = True
    settings: ClassifierSettings
    """After `initialize`."""

    def initialize(self, context: Context) -> None:
        """Raises what ImageHandler raises; ArchiveUnusable for a model with other inputs beside the picture."""
        self._listed: list[str] | None = None
        super().initialize(context)
        for spec in self.signature.inputs:
            if spec is not self.image:
                raise ArchiveUnusable(f'image_classifier does not know what the input "{spec}" beside the image takes')
        self._occlusion = sections.read(OcclusionSettings, "explanation", context.model_yaml_config)
        self._labels = labels.read(Path(context.system_properties["model_dir"]), self._listed)
        self._check_classes()

    def read_export(self, config: dict[str, Any], file: str) -> dict[str, Any]:
        answered, self._listed = paddle_clas.answers(config, file)
        return paddle_clas.image_settings(config, file) | answered

    def preparation(self, config: dict[str, Any], defaults: dict[str, Any]) -> Preparation:
        self.settings = sections.read(ClassifierSettings, "image", config, defaults)
        crop = self.settings.crop
        return Preparation(self.settings, self.image, (crop, crop) if isinstance(crop, int) else crop)

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
        return Interface([Port("image", BYTES, (-1, 1))], [chances], batched=True, opaque=True)

    def handle_tensors(self, inputs: Arrays) -> Arrays:
        """Raises InvalidRequest for a row that is no image."""
        images = self.preprocess([{"body": image} for image in inputs["image"].ravel()])
        self.raise_first()
        return {"probabilities": self._probabilities(self.inference(images))}

    def get_insights(self, tensor_data: Arrays, raw_data: Any, target: Any) -> list[NDArray[np.float32]]:
        """For each row, how much less probable the class is without each part of the picture: see occlusion.py."""
        return [self._insight(image, target) for image in tensor_data[self.image.name]]

    def _insight(self, image: NDArray[np.float32], target: Any) -> NDArray[np.float32]:
        def chances(images: NDArray[np.float32]) -> NDArray[np.float32]:
            return self._probabilities(self.inference({self.image.name: images}))

        index = self._labels.index(target, chances(image[None])[0])
        return occlusion.importances(image, lambda images: chances(images)[:, index], self._occlusion)

    def _probabilities(self, outputs: Arrays) -> NDArray[np.float32]:
        softmax = self.settings.softmax
        return ranking.probabilities(
            next(iter(outputs.values())), False if softmax == "auto" and self.settings.multi_label else softmax
        )

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
