"""`ts.torch_handler.image_classifier`."""

from __future__ import annotations

import msgspec

from pdserver.handlers import image_classifier as ours
from pdserver.handlers.context import Context

from .vision_handler import VisionHandler


class ImageClassifier(VisionHandler):
    """This server's image_classifier. `topk` is the default of `image: {top_k: …}` in the model's config file."""

    topk = 5

    # A VisionHandler, as in TorchServe, with the classifier's answers.
    inference = ours.ImageClassifier.inference
    postprocess = ours.ImageClassifier.postprocess

    def initialize(self, context: Context) -> None:
        super().initialize(context)
        if "top_k" not in (context.model_yaml_config.get("image") or {}):
            self.set_max_result_classes(self.topk)

    def set_max_result_classes(self, topk: int) -> None:
        """Set the highest number of labels in an answer."""
        self.topk = topk
        self.settings = msgspec.structs.replace(self.settings, top_k=topk)

    def get_max_result_classes(self) -> int:
        return self.settings.top_k
