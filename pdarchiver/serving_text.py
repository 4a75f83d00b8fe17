"""Writes what Paddle Serving's folders say of a model: `serving_server_conf.prototxt`, and the same for its clients.

Source: GeneralModelConfig in general_model_config.proto of Paddle Serving, and what its converter writes.
"""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import Any

from pdarchiver import messages
from pdarchiver.errors import PackingError
from pdarchiver.manifest import Signature, TensorSpec
from pdarchiver.serving_conf import TYPES, UNKNOWN_TYPE

SERVER_CONF, CLIENT_CONF = "serving_server_conf.prototxt", "serving_client_conf.prototxt"
_TYPES = {name: number for number, name in TYPES.items() if name != "string"}


def describe(signature: Signature, lod: Collection[str]) -> Any:
    """The message for a model. Its public names become the aliases, and outputs are sorted by the model's own names,
    which `lod` has of those that are LoD tensors."""
    message = messages.new("GeneralModelConfig")
    for spec in signature.inputs:
        _add(message.feed_var, spec, lod).feed_type = _TYPES.get(spec.dtype, UNKNOWN_TYPE)
    for spec in sorted(signature.outputs, key=lambda spec: spec.source):
        _add(message.fetch_var, spec, lod).fetch_type = _TYPES.get(spec.dtype, UNKNOWN_TYPE)
    return message


def write(message: Any, path: Path) -> None:
    """Write the text to `path`, and the same in the wire format beside it."""
    path.write_text(messages.encode_text(message), "utf-8")
    path.with_suffix(f".stream{path.suffix}").write_bytes(message.SerializeToString())


def declared(message: Any, path: Path) -> Signature:
    """What the file at `path` tells of a model by itself: lengths that are not fixed are missing.

    Names are the model's own. Raises PackingError for a type that is no tensor's.
    """
    names = {number: name for name, number in _TYPES.items()}

    def spec(variable: Any, number: int) -> TensorSpec:
        if number not in names:
            raise PackingError(f"{path}: {variable.name!r} is of type {number}, which Paddle's predictor does not know")
        shape = (-1,) if variable.is_lod_tensor else (-1, *variable.shape)
        return TensorSpec(variable.name, names[number], shape, variable.name)

    inputs = tuple(spec(variable, variable.feed_type) for variable in message.feed_var)
    return Signature(inputs, tuple(spec(variable, variable.fetch_type) for variable in message.fetch_var))


def _add(variables: Any, spec: TensorSpec, lod: Collection[str]) -> Any:
    is_lod = spec.source in lod
    shape = [-1] if is_lod else [length for length in spec.shape if length >= 0]
    return variables.add(name=spec.source, alias_name=spec.name, is_lod_tensor=is_lod, shape=shape)
