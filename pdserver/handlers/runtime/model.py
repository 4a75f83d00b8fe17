"""From an archive's manifest to a model that runs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import orjson

from pdarchiver import encryption, manifest, onnx_model
from pdserver.errors import ArchiveUnusable
from pdserver.handlers.context import Context
from pdserver.handlers.runtime import loader, sections, shapes
from pdserver.handlers.runtime.decrypted import Decrypted
from pdserver.handlers.runtime.described import Described
from pdserver.handlers.runtime.engines.candidates import Converted, ModelFiles
from pdserver.handlers.runtime.predictor import Predictor
from pdserver.handlers.runtime.predictor_settings import PredictorSettings
from pdserver.handlers.runtime.trial.memory import Memory
from pdserver.handlers.runtime.trial.of_model import Conditions

_WEIGHTS_SUFFIX = ".pdparams"
"""Of a serialized file that is only the weights of what the manifest's `modelFile` describes as Python code."""
_OTHERS = dict.fromkeys((".pt", ".pth", ".so", ".bin", ".safetensors"), "PyTorch")
"""Suffixes of what other frameworks save."""


@dataclass(frozen=True)
class OpenedModel:
    """A model that can be loaded."""

    described: Described
    hidden: Decrypted | None = None
    """Of an encrypted one, the files in the clear."""

    def close(self) -> None:
        """Its files are not needed any more. Idempotent."""
        if self.hidden is not None:
            self.hidden.close()


def load(context: Context) -> tuple[Predictor, manifest.Signature]:
    """The model that the manifest names: a program with its weights, or Python code with its weights.

    Raises ArchiveUnusable when there is none, or no signature; ConfigError for wrong settings.
    """
    named = manifest.parse(orjson.dumps(context.manifest))
    serialized = named.serialized_file
    if serialized is not None and named.model_file is not None and serialized.endswith(_WEIGHTS_SUFFIX):
        return _load_code(context, named.model_file, serialized)
    if serialized is not None and (suffix := Path(serialized).suffix) in _OTHERS:
        raise ArchiveUnusable(
            f"{serialized} is a model of {_OTHERS[suffix]}, which this handler cannot run: convert it to Paddle's "
            "format and pack it with pd-model-archiver, or bring a handler that loads it in its initialize"
        )
    if serialized is None or named.signature is None:
        missing = "model file" if serialized is None else "signature"
        raise ArchiveUnusable(
            f"the manifest has no {missing}: pack the model with pd-model-archiver and --serialized-file, "
            "or bring a handler that loads it by itself"
        )
    opened: OpenedModel = context.opened_model or _opened(context, named, serialized, named.signature)
    try:
        predictor = Predictor(opened.described, opened.close)
    except BaseException:
        opened.close()
        raise
    return predictor, opened.described.files.signature


def open_first(context: Context) -> None:
    """Do what `load` does before it loads: a process with several models tries the engines of all of them before it
    loads the first one. Does nothing for what is no exported model. Raises what `load` raises."""
    named = manifest.parse(orjson.dumps(context.manifest))
    serialized = named.serialized_file
    if serialized is None or named.signature is None or Path(serialized).suffix in (_WEIGHTS_SUFFIX, *_OTHERS):
        return
    context.opened_model = _opened(context, named, serialized, named.signature)


def conditions(context: Context, checksums: Mapping[str, str]) -> Conditions | None:
    """For trials of a worker's models, with the checksums of the archive's files. None where nothing remembers them."""
    if not context.trials:
        return None
    properties = context.system_properties
    directory, memory = Path(properties["model_dir"]), Memory(Path(context.trials))
    return Conditions(memory, properties["batch_size"], checksums, directory, context.model_yaml_config)


def _load_code(context: Context, code: str, weights: str) -> tuple[Predictor, manifest.Signature]:
    from pdserver.handlers.runtime import eager  # imports Paddle, which other engines' models do without

    config, directory = context.model_yaml_config, Path(context.system_properties["model_dir"])
    settings = sections.read(eager.EagerSettings, "eager", config)
    running = sections.read(PredictorSettings, "predictor", config)
    device_id = context.system_properties["gpu_id"]
    return eager.load(loader.import_file(directory / code), directory / weights, settings, running, device_id)


def _opened(context: Context, named: manifest.Manifest, serialized: str, signature: manifest.Signature) -> OpenedModel:
    directory = Path(context.system_properties["model_dir"])
    model, params = directory / serialized, directory / named.params_file if named.params_file else None
    running = shapes.settings(context, signature)
    if running.reshape is not None:
        shapes.check_names(running.reshape, signature)
    device_id = context.system_properties["gpu_id"]
    tried = conditions(context, named.files)
    if not encryption.is_encrypted(serialized):
        files = ModelFiles(model, params, signature, converted(directory, named, signature))
        return OpenedModel(Described(files, running, device_id, tried))
    hidden = Decrypted(model, params, signature, context.model_key)
    try:
        files = ModelFiles(hidden.model, hidden.params, hidden.signature)
        return OpenedModel(Described(files, running, device_id, tried), hidden)
    except BaseException:
        hidden.close()
        raise


def converted(directory: Path, named: manifest.Manifest, signature: manifest.Signature) -> Converted | None:
    """The model in ONNX's form, if the archive has it."""
    for made in named.engines:
        if made.file.endswith(onnx_model.SUFFIX):
            inputs, outputs = (
                tuple(replace(spec, source=name) for spec, name in zip(specs, names, strict=True))
                for specs, names in ((signature.inputs, made.inputs), (signature.outputs, made.outputs))
            )
            return Converted(directory / made.file, manifest.Signature(inputs, outputs))
    return None
