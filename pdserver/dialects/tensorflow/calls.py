"""What the methods of gRPC that ask a model have in common."""

from __future__ import annotations

from typing import Any

from pdserver.dialects.request_id import of_call
from pdserver.dialects.rpc import RpcCall
from pdserver.dialects.tensorflow.model_spec import meant
from pdserver.dialects.tensorflow.request import Asked
from pdserver.dialects.tensorflow.served import Models
from pdserver.engine.catalogue import interface_of

IN_PIECES = "the model answers in pieces, which this method can't give: use ModelStreamInfer"
"""The error's text."""


def asked_by(models: Models, request: Any, call: RpcCall) -> Asked:
    """What a message with a model_spec asks.

    Raises InvalidRequest, ModelNotFound, VersionNotFound, RpcError; Unavailable until the model has been loaded.
    """
    served = meant(models, request)
    spec = served.spec
    return Asked(
        spec, interface_of(served), call.metadata, of_call(call, spec.name), timeout_seconds=call.timeout_seconds
    )
