"""The Open Inference Protocol, as KServe's second protocol and Triton speak it, over REST below /v2 and over gRPC."""

from __future__ import annotations

from pdserver.dialects.base import Door
from pdserver.dialects.dialect import Dialect
from pdserver.dialects.oip import routes
from pdserver.dialects.oip.errors import WORDS
from pdserver.dialects.oip.grpc import GrpcService
from pdserver.dialects.oip.protocol import OpenInference
from pdserver.dialects.oip.rest import OipDoor

NAME = "oip"


def dialect(protocol: OpenInference, enveloped: Door) -> Dialect:
    """`enveloped` reads requests for models with the service envelope `kservev2`."""
    return Dialect(
        name=NAME,
        words=WORDS,
        doors={b"v2": OipDoor(protocol, enveloped)},
        path="/v2",
        routes=routes.routes(protocol),
        services=[GrpcService(protocol).service()],
    )
