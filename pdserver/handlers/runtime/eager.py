"""A model as Python code with its weights → the same as a program, which runs as exported models do.

Converting takes a fraction of a second, and the program's runs take a fraction of the layer's own.
"""

from __future__ import annotations

import inspect
import tempfile
from pathlib import Path
from types import ModuleType
from typing import Any

import msgspec
import numpy as np
import paddle

from pdarchiver import signature
from pdarchiver.manifest import Signature
from pdserver.errors import ArchiveUnusable, ConfigError, LoadFailed
from pdserver.formats.values import nearest
from pdserver.handlers.runtime.described import Described
from pdserver.handlers.runtime.engines.candidates import ModelFiles
from pdserver.handlers.runtime.predictor import Predictor
from pdserver.handlers.runtime.predictor_settings import PredictorSettings


class InputSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One input of the layer."""

    name: str
    shape: tuple[int, ...]
    """-1 where any length will do; the batch comes first."""
    dtype: str = "float32"


class EagerSettings(msgspec.Struct, frozen=True, kw_only=True):
    """The section `eager` of a model's own YAML."""

    inputs: tuple[InputSettings, ...] = ()
    """Those of the layer's `forward`, in its order. At least one."""
    outputs: tuple[str, ...] = ()
    """Names for what it returns. Empty: output_0, output_1 and so on."""
    layer: str | None = None
    """The class in the model's file. None: the only one there that is a paddle.nn.Layer."""
    arguments: dict[str, Any] = {}
    """What the class is called with."""


def load(
    code: ModuleType, weights: Path, settings: EagerSettings, running: PredictorSettings, device_id: int | None
) -> tuple[Predictor, Signature]:
    """The model that `code` describes, with `weights` (.pdparams), ready to run.

    Raises ArchiveUnusable and ConfigError when the code, the weights and the settings do not fit together, LoadFailed
    when Paddle cannot convert the layer. What the code itself raises passes through. The weights
    are a pickle: they can run code, as the rest of the archive does.
    """
    if not settings.inputs:
        raise ConfigError(
            "eager.inputs: a model as Python code does not say what it takes; name its inputs in the model's config "
            "file, such as eager: {inputs: [{name: x, shape: [-1, 13]}]}"
        )
    paddle.set_device("cpu" if device_id is None else f"gpu:{device_id}")
    layer = _layer_class(code, settings.layer)(**settings.arguments)
    _fill(layer, weights)
    layer.eval()
    specs = [paddle.static.InputSpec(_shape(given), given.dtype, given.name) for given in settings.inputs]
    with tempfile.TemporaryDirectory(prefix="pdserver-") as folder:
        try:
            paddle.jit.save(paddle.jit.to_static(layer, specs, full_graph=True), str(Path(folder, weights.stem)))
        except Exception as error:
            raise LoadFailed(f"{type(layer).__name__} cannot be converted to a program: {error}") from error
        (model,) = (path for path in Path(folder).iterdir() if path.suffix in (".json", ".pdmodel"))
        found = _named(signature.read(model).signature, settings.outputs)
        params = model.with_suffix(".pdiparams")
        files = ModelFiles(model, params if params.is_file() else None, found)
        predictor = Predictor(Described(files, running, device_id, untried="is Python code"))
        _try(predictor, found)
    return predictor, found


def _layer_class(code: ModuleType, name: str | None) -> Any:
    own = [value for value in vars(code).values() if inspect.isclass(value) and value.__module__ == code.__name__]
    layers = {value.__name__: value for value in own if issubclass(value, paddle.nn.Layer)}
    if name is None and len(layers) == 1:
        return next(iter(layers.values()))
    if name in layers:
        return layers[name]
    known = ", ".join(layers) or "none"
    if name is None:
        raise ArchiveUnusable(
            f"{code.__name__}.py: expected one paddle.nn.Layer, found {known}; name one by eager.layer"
        )
    raise ArchiveUnusable(f"eager.layer: {name}: no such paddle.nn.Layer in {code.__name__}.py{nearest(name, layers)}; "
                     f"found {known}")  # fmt: skip


def _fill(layer: Any, weights: Path) -> None:
    state = paddle.load(str(weights))
    missing, unexpected = layer.set_state_dict(state)
    if missing or unexpected:
        wrong = [*(f"{name} is missing" for name in missing), *(f"{name} is unknown" for name in unexpected)]
        raise ArchiveUnusable(f"{weights.name}: not the weights of {type(layer).__name__}: {', '.join(wrong)}")


def _shape(given: InputSettings) -> list[int | None]:
    return [None if length == -1 else length for length in given.shape]


def _named(found: Signature, names: tuple[str, ...]) -> Signature:
    names = names or tuple(f"output_{i}" for i in range(len(found.outputs)))
    if len(names) != len(found.outputs):
        raise ConfigError(f"eager.outputs: {len(names)} names for the {len(found.outputs)} outputs of the model")
    renamed = {spec.source: name for spec, name in zip(found.outputs, names, strict=True)}
    return signature.rename(found, {}, renamed, "eager.outputs")


def _try(predictor: Predictor, found: Signature) -> None:
    """Run once where the inputs' sizes are known, while the files are there to be loaded again without oneDNN."""
    if all(-1 not in spec.shape[1:] for spec in found.inputs):
        predictor.run(
            {spec.name: np.zeros([abs(length) for length in spec.shape], spec.dtype) for spec in found.inputs}
        )
