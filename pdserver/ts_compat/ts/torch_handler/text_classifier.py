"""`ts.torch_handler.text_classifier`."""

from __future__ import annotations

from pdserver.handlers import text_classifier as ours

from .text_handler import TextHandler


class TextClassifier(TextHandler):
    """This server's text_classifier."""

    inference = ours.TextClassifier.inference
    postprocess = ours.TextClassifier.postprocess
