"""`ts.torch_handler.image_classifier`."""

from __future__ import annotations

import msgspec

from pdserver.handlers import image_classifier as ours
from pdserver.handlers.context import Context

from .vision_handler import VisionHandler


class ImageClassifier(VisionHandler):
    """This server's image_classifier. `topk` counts where the model's config file does not say `image: {top_k: …}`."""

    topk = 5

    # As TorchServe's, of VisionHandler's kind; but the answers are the classifier's.
    inference = ours.ImageClassifier.inference
    postprocess = ours.ImageClassifier.postprocess

    def initialize(self, context: Context) -> None:
        super().initialize(context)
        if "top_k" not in (context.model_yaml_config.get("image") or {}):
            self.set_max_result_classes(self.topk)

    def set_max_result_classes(self, topk: int) -> None:
        """How many labels an answer has at most."""
        self.topk = topk
        self.settings = msgspec.structs.replace(self.settings, top_k=topk)

    def get_max_result_classes(self) -> int:
        return self.settings.top_k
