"""TensorFlow Serving's protocol, over REST below /v1 and over gRPC."""

from __future__ import annotations

from pdserver.dialects.dialect import Dialect
from pdserver.dialects.tensorflow.control import Control
from pdserver.dialects.tensorflow.errors import WORDS
from pdserver.engine.catalogue import InferenceEngine

NAME = "tensorflow"


def dialect(engine: InferenceEngine, control: Control) -> Dialect:
    """`control` is what serves models by TensorFlow Serving's configuration."""
    return Dialect(name=NAME, words=WORDS)
