"""TensorFlow Serving's protocol, over REST below /v1 and over gRPC."""

from __future__ import annotations

from pdserver.dialects.base import Door
from pdserver.dialects.codec import Codec
from pdserver.dialects.dialect import Dialect
from pdserver.dialects.tensorflow.control import Control
from pdserver.dialects.tensorflow.door import ServingDoor
from pdserver.dialects.tensorflow.errors import WORDS
from pdserver.dialects.tensorflow.routes import routes
from pdserver.dialects.tensorflow.served import Models
from pdserver.engine.catalogue import InferenceEngine

NAME = "tensorflow"


def dialect(engine: InferenceEngine, control: Control, codec: Codec, kserve: Door, *, limit_bytes: int) -> Dialect:
    """`control` is what serves models by TensorFlow Serving's configuration, `kserve` reads requests in KServe's first
    protocol, `limit_bytes` is the limit of a body."""
    models = Models(engine.catalogue, control)
    door = ServingDoor(models, kserve, codec, limit_bytes)
    return Dialect(name=NAME, words=WORDS, doors=dict.fromkeys((b"v1", b"V1"), door), path="/v1", routes=routes(models))
