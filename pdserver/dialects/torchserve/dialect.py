"""TorchServe's language: predictions and health over REST, and its gRPC service for inference."""

from __future__ import annotations

from pdserver.dialects.codec import Codec
from pdserver.dialects.dialect import Dialect
from pdserver.dialects.torchserve import rest, routes, workflows
from pdserver.dialects.torchserve.errors import WORDS
from pdserver.dialects.torchserve.grpc import Inference
from pdserver.engine.catalogue import InferenceEngine


def dialect(engine: InferenceEngine, codec: Codec, *, sequence_header: str, details: bool) -> Dialect:
    """With `details`, the health check says what is wrong."""
    inference = Inference(engine, codec, sequence_header=sequence_header, details=details)
    return Dialect(
        name="torchserve",
        words=WORDS,
        doors={
            **rest.doors(codec, engine.catalogue.only_model),
            b"wfpredict": workflows.WorkflowDoor(codec, engine.catalogue),
        },
        other_doors=[rest.other_door(codec)],
        routes=routes.routes(engine.catalogue, details=details),
        services=[inference.service()],
    )
