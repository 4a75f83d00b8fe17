"""From an archive's manifest to a model that runs."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import orjson

from pdarchiver import encryption, manifest, onnx_model
from pdserver.errors import ArchiveUnusable
from pdserver.handlers.context import Context
from pdserver.handlers.runtime import loader, sections
from pdserver.handlers.runtime.decrypted import Decrypted
from pdserver.handlers.runtime.engines.ways import Converted
from pdserver.handlers.runtime.predictor import Predictor
from pdserver.handlers.runtime.predictor_settings import PredictorSettings
from pdserver.handlers.runtime.trial.memory import Memory
from pdserver.handlers.runtime.trial.of_model import Conditions

_WEIGHTS_SUFFIX = ".pdparams"
"""Of a serialized file that is only the weights of what the manifest's `modelFile` describes as Python code."""
_OTHERS = dict.fromkeys((".pt", ".pth", ".so", ".bin", ".safetensors"), "PyTorch")
"""Suffixes of what other frameworks save."""

_KEPT: list[Decrypted] = []
"""Models in the clear, for as long as the worker lives."""


def load(context: Context) -> tuple[Predictor, manifest.Signature]:
    """The model that the manifest names: a program with its weights, or Python code with its weights.

    Raises ArchiveUnusable when there is none, or no signature; ConfigError for wrong settings.
    """
    described = manifest.parse(orjson.dumps(context.manifest))
    config, device_id = context.model_yaml_config, context.system_properties["gpu_id"]
    directory = Path(context.system_properties["model_dir"])
    running = sections.read(PredictorSettings, "predictor", config)
    serialized = described.serialized_file
    if serialized is not None and described.model_file is not None and serialized.endswith(_WEIGHTS_SUFFIX):
        from pdserver.handlers.runtime import eager  # imports Paddle, which other engines' models do without

        settings = sections.read(eager.EagerSettings, "eager", config)
        code = loader.import_file(directory / described.model_file)
        return eager.load(code, directory / serialized, settings, running, device_id)
    if serialized is not None and (suffix := Path(serialized).suffix) in _OTHERS:
        raise ArchiveUnusable(
            f"{serialized} is a model of {_OTHERS[suffix]}, which this handler cannot run: convert it to Paddle's "
            "format and pack it with pd-model-archiver, or bring a handler that loads it in its initialize"
        )
    if serialized is None or described.signature is None:
        missing = "model file" if serialized is None else "signature"
        raise ArchiveUnusable(
            f"the manifest has no {missing}: pack the model with pd-model-archiver and --serialized-file, "
            "or bring a handler that loads it by itself"
        )
    params = directory / described.params_file if described.params_file else None
    if encryption.is_encrypted(serialized):
        hidden = Decrypted(directory / serialized, params, described.signature, context.model_key)
        return _load_decrypted(hidden, running, device_id), hidden.signature
    conditions = None
    if context.trials:
        memory = Memory(Path(context.trials))
        conditions = Conditions(memory, context.system_properties["batch_size"], described.files)
    file, signature = directory / serialized, described.signature
    made = converted(directory, described, signature)
    predictor = Predictor(file, params, signature, running, device_id, conditions, made)
    return predictor, signature


def converted(directory: Path, described: manifest.Manifest, signature: manifest.Signature) -> Converted | None:
    """The model in ONNX's form, if the archive has it."""
    for made in described.engines:
        if made.file.endswith(onnx_model.SUFFIX):
            inputs, outputs = (
                tuple(replace(spec, source=name) for spec, name in zip(specs, names, strict=True))
                for specs, names in ((signature.inputs, made.inputs), (signature.outputs, made.outputs))
            )
            return Converted(directory / made.file, manifest.Signature(inputs, outputs))
    return None


def _load_decrypted(files: Decrypted, running: PredictorSettings, device_id: int | None) -> Predictor:
    try:
        predictor = Predictor(files.model, files.params, files.signature, running, device_id)
    except BaseException:
        files.close()
        raise
    if predictor.may_load_again:
        _KEPT.append(files)
    else:
        files.close()
    return predictor
