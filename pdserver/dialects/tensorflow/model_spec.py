"""ModelSpec: what a message asks, and which version has answered."""

from __future__ import annotations

from functools import lru_cache
from typing import Any, NamedTuple

from pdserver.dialects.protos import decode, message_class
from pdserver.dialects.rpc import Code, RpcError
from pdserver.dialects.tensorflow.request import SIGNATURE
from pdserver.dialects.tensorflow.served import Models
from pdserver.dialects.tensorflow.versions import find, number
from pdserver.engine.catalogue import ServedVersion
from pdserver.errors import InvalidRequest
from pdserver.formats.values import shown

_ModelSpec = message_class("tensorflow.serving.ModelSpec")


class Names(NamedTuple):
    """What a ModelSpec asks for."""

    model: str
    version: int | None
    label: str


def asked_first(data: bytes) -> bytes:
    """The ModelSpec with which a request begins, unread; empty if it is elsewhere, or long."""
    return data[2 : 2 + data[1]] if len(data) > 1 and data[0] == 0x0A and data[1] < 0x80 else b""


@lru_cache(maxsize=4096)
def names_in(spec: bytes) -> Names:
    """Raises InvalidRequest for what is no ModelSpec."""
    return _names(decode(_ModelSpec, spec))


def served_by(models: Models, names: Names) -> ServedVersion:
    """Raises InvalidRequest, ModelNotFound, VersionNotFound."""
    return find(models.catalogue, models.control, *names)


def meant(models: Models, request: Any) -> ServedVersion:
    """The version that the request's model_spec means. Raises InvalidRequest, ModelNotFound, VersionNotFound; and
    RpcError for a signature that no model has."""
    spec = spec_of(request)
    served = served_by(models, _names(spec))
    if spec.signature_name not in ("", SIGNATURE):
        raise RpcError(
            Code.FAILED_PRECONDITION,
            f'Serving signature key "{shown(spec.signature_name)}" not found. Models have the one signature'
            f' "{SIGNATURE}"',
        )
    return served


def spec_of(request: Any) -> Any:
    """The request's model_spec. Raises InvalidRequest."""
    if not request.HasField("model_spec"):
        raise InvalidRequest("Missing ModelSpec")
    if not request.model_spec.name:
        raise InvalidRequest("ModelSpec has no name specified.")
    return request.model_spec


def _names(spec: Any) -> Names:
    return Names(spec.name, spec.version.value if spec.HasField("version") else None, spec.version_label)


@lru_cache(maxsize=4096)
def answered_by(model: str, version: str) -> bytes:
    """The ModelSpec of an answer. A version of ours that is no number is left out."""
    spec = _ModelSpec(name=model, signature_name=SIGNATURE)
    found = number(version)
    if found is not None:
        spec.version.value = found
    return bytes(spec.SerializeToString())
