"""TensorFlow Serving's protocol, over REST below /v1 and over gRPC."""

from __future__ import annotations

from pdserver.dialects.base import Door
from pdserver.dialects.codec import Codec
from pdserver.dialects.dialect import Dialect
from pdserver.dialects.tensorflow.control import Control
from pdserver.dialects.tensorflow.door import ServingDoor
from pdserver.dialects.tensorflow.errors import WORDS
from pdserver.dialects.tensorflow.grpc import GrpcServices
from pdserver.dialects.tensorflow.routes import routes
from pdserver.dialects.tensorflow.served import Models
from pdserver.engine.catalogue import InferenceEngine

NAME = "tensorflow"


def dialect(
    engine: InferenceEngine, control: Control, codec: Codec, kserve: Door, *, as_content: bool, limit_bytes: int
) -> Dialect:
    """`control` is what serves models by TensorFlow Serving's configuration, `kserve` reads requests in KServe's first
    protocol, `limit_bytes` is the limit of a request. `as_content`: whether tensors in gRPC's answers are
    tensor_content."""
    models = Models(engine.catalogue, control)
    door = ServingDoor(models, kserve, codec, limit_bytes)
    return Dialect(
        name=NAME,
        words=WORDS,
        doors=dict.fromkeys((b"v1", b"V1"), door),
        path="/v1",
        routes=routes(models),
        services=GrpcServices(engine, models, codec, as_content=as_content, limit_bytes=limit_bytes).services(),
    )
