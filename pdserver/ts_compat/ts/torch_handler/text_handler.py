"""`ts.torch_handler.text_handler`."""

from __future__ import annotations

from pdserver.handlers import base, text_classifier

from .base_handler import BaseHandler


class TextHandler(BaseHandler, text_classifier.TextClassifier):
    """Takes texts, through the archive's tokenizer; returns the model's outputs by name."""

    inference = base.BaseHandler.inference
    postprocess = base.BaseHandler.postprocess
