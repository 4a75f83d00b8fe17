"""`ts.torch_handler.text_handler`."""

from __future__ import annotations

from pdserver.handlers import base, text_classifier

from .base_handler import BaseHandler


class TextHandler(BaseHandler, text_classifier.TextClassifier):
    """Texts in, through the tokenizer that lies in the archive; the model's outputs by name out."""

    inference = base.BaseHandler.inference
    postprocess = base.BaseHandler.postprocess
