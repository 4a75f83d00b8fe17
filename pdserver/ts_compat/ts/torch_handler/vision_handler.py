"""`ts.torch_handler.vision_handler`."""

from __future__ import annotations

from pdserver.errors import ArchiveUnusable
from pdserver.handlers import base
from pdserver.handlers import image_classifier as ours
from pdserver.handlers.context import Context

from .base_handler import BaseHandler


class VisionHandler(BaseHandler, ours.ImageClassifier):
    """Takes images, prepared as `image` in the model's config file says; returns the model's outputs by name."""

    inference = base.BaseHandler.inference
    postprocess = base.BaseHandler.postprocess

    def initialize(self, context: Context) -> None:
        """Raises ArchiveUnusable for a handler that sets `image_processing`, which nothing here calls."""
        if hasattr(self, "image_processing") and type(self).preprocess is VisionHandler.preprocess:
            raise ArchiveUnusable(
                "the handler's image_processing is not called here: describe in the section image of the model's "
                "config file how to prepare images, or override preprocess"
            )
        super().initialize(context)
