"""Finds the files of the model that `--serialized-file` names, in any of the forms that Paddle's tools write, or ONNX.

A model file (PIR `.json` or `.pdmodel`) with its weights beside it, or their common prefix, as paddle.jit.save was
given it; a folder of Paddle 1.x (`__model__`, and `__params__` or a file for each parameter); an inference folder, as
PaddleX, PaddleOCR and paddle.jit.save leave one (`inference.json` or `inference.pdmodel`, `.pdiparams`, perhaps
`inference.yml`); a Paddle Serving folder, whose `serving_server_conf.prototxt` gives inputs and outputs their public
names; or an `.onnx` file, or a folder with one and none of Paddle's models.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path

from pdarchiver import encryption, onnx_model, parameters, serving_conf, serving_text, signature
from pdarchiver.errors import InvalidModel, PackingError
from pdarchiver.manifest import Signature
from pdarchiver.serving_conf import ServingConf
from pdarchiver.signature import Program

INFERENCE_CONFIGS = ("inference.yml", "infer_cfg.yml", "deploy.yaml")
"""The names that PaddleX and PaddleClas, PaddleDetection, and PaddleSeg use."""
_MODEL_SUFFIXES = (".json", ".pdmodel")
_PARAMS_SUFFIX = ".pdiparams"
_OLD_MODELS, _OLD_WEIGHTS = ("__model__", "model"), ("__params__", "params")
"""The names of Paddle 1.x."""
_SERVING_MODELS, _SERVING_WEIGHTS = (".pdmodel", "__model__", ".json", "model"), (_PARAMS_SUFFIX, *_OLD_WEIGHTS)
"""The endings of names that Paddle Serving's engine looks for, in its order, and .json, which it does not know."""
_PIR_MAGIC_WITHIN_BYTES = 256
_WITHOUT_WEIGHTS = ", nor a file for each parameter; name the weights with --params-file"


@dataclass(frozen=True)
class ModelFiles:
    """The files of one model on disk."""

    model: Path
    params: Path | None
    config: Path | None = None
    """The first of INFERENCE_CONFIGS in an inference folder. It says how inputs are prepared."""
    conf: ServingConf | None = None
    """What a Paddle Serving folder says of the model: public names, types and shapes."""
    described: bool = True
    """False for weights without a model file, whose inputs and outputs only Python code knows."""
    declared: Signature | None = None
    """Of an encrypted model: what its Paddle Serving folder says of it. Lengths that are not fixed are not in it."""


def find(serialized_file: Path, params_file: Path | None, where: str = "--serialized-file ") -> ModelFiles:
    """The files that `serialized_file` stands for. `params_file` replaces the weights found beside the model.

    `where` is the option that has given the path, if there is one. Errors begin with it.

    Raises PackingError if there is no model, or more than one.
    """
    serialized_file = _of_prefix(serialized_file, where)
    for path in (serialized_file, params_file):
        if path is not None and not path.exists():
            raise PackingError(f"{path}: no such file")
    if serialized_file.suffix == onnx_model.SUFFIX and params_file is not None:
        raise PackingError(f"--params-file {params_file}: an .onnx file names its weights itself; leave the flag out")
    if not serialized_file.is_dir():
        if serialized_file.suffix == _PARAMS_SUFFIX:
            raise PackingError(
                f"{where}{serialized_file}: these are weights; name the model file (.json or .pdmodel) that they lie "
                "beside"
            )
        return ModelFiles(serialized_file, params_file or _beside(serialized_file))
    if conf := serving_conf.find(serialized_file):
        return _serving_folder(serialized_file, params_file, where, conf)
    model = _only_model(serialized_file, where)
    configs = (serialized_file / name for name in INFERENCE_CONFIGS)
    return ModelFiles(model, params_file or _beside(model), next((path for path in configs if path.is_file()), None))


def is_folder_of_model(folder: Path) -> bool:
    """Whether a folder holds a model in one of these forms, as far as the names of its files tell."""
    if serving_conf.find(folder) or (folder / _OLD_MODELS[0]).is_file():
        return True
    return any(_is_onnx(path) or (path.suffix in _MODEL_SUFFIXES and _beside(path)) for path in folder.iterdir())


def with_one_weights_file(files: ModelFiles, scratch: Path) -> ModelFiles:
    """`files`, with one file of weights. If each parameter has its own file beside the model, they are combined to a
    file in the folder `scratch`. Raises InvalidModel, and what `parameters.combine` raises."""
    if files.params is not None or files.declared is not None or _is_onnx(files.model):
        return files
    combined = scratch / _weights_names(files.model)[0]
    program = signature.read(files.model)
    return replace(files, params=combined) if parameters.combine(files.model.parent, program, combined) else files


def has_separate_parameters(files: ModelFiles) -> bool:
    """Whether each parameter has its own file beside the model. Raises InvalidModel."""
    if files.params is not None or files.declared is not None or _is_onnx(files.model):
        return False
    return parameters.are_separate(files.model.parent, signature.read(files.model))


def read_signature(files: ModelFiles, without_weights: str = _WITHOUT_WEIGHTS) -> Signature:
    """The model's inputs and outputs with their public names. Checks and raises what `read_program` does."""
    return read_program(files, without_weights).signature


def read_program(files: ModelFiles, without_weights: str = _WITHOUT_WEIGHTS) -> Program:
    """Read the model file, and check that the weights belong to it. Inputs and outputs have their public names.

    Of an encrypted model, there is only what its folder says. `without_weights` is the end of the error for missing
    weights.

    Raises InvalidModel for files that are damaged or do not belong together, PackingError for missing weights and for
    what a Paddle Serving folder says of another model.
    """
    program = signature.read(files.model) if files.declared is None else Program(files.declared, Counter())
    try:
        signature.check_dtypes(program.signature)
    except InvalidModel as error:
        raise InvalidModel(f"{files.model}: {error}") from None
    if missing := [name for name in program.files if not (files.model.parent / name).is_file()]:
        raise PackingError(f"{files.model}: its weights are in {missing[0]}, which is not beside it; put it there")
    if files.params is not None and files.declared is None:
        parameters.check(files.params, program)
    elif program.parameters:
        count, name = program.parameters.total(), _weights_names(files.model)[0]
        raise PackingError(
            f"{files.model}: the model has {count} parameters, but there is no {name} beside it{without_weights}"
        )
    if files.conf is None:
        return program
    named = signature.rename(program.signature, files.conf.inputs, files.conf.outputs, files.conf.path.name)
    files.conf.check(program.signature)
    return replace(program, signature=named)


def _of_prefix(path: Path, where: str) -> Path:
    """The model file whose name without suffix is `path`. `path` itself if it exists, or if there is no such file."""
    if path.exists():
        return path
    found = [file for suffix in _MODEL_SUFFIXES if (file := path.with_name(path.name + suffix)).is_file()]
    if not found and _is_onnx(file := path.with_name(path.name + onnx_model.SUFFIX)):
        return file
    if len(found) > 1:
        names = " and ".join(file.name for file in found)
        raise PackingError(f"{where}{path}: stands for {names}; name one of them")
    return found[0] if found else path


def _weights_names(model: Path) -> tuple[str, ...]:
    return _OLD_WEIGHTS if model.name in _OLD_MODELS else (model.with_suffix(_PARAMS_SUFFIX).name,)


def _is_onnx(path: Path) -> bool:
    return path.suffix == onnx_model.SUFFIX and path.is_file()


def _beside(model: Path) -> Path | None:
    """The weights beside one of Paddle's models."""
    if model.suffix == onnx_model.SUFFIX:
        return None
    return next((path for name in _weights_names(model) if (path := model.with_name(name)).is_file()), None)


def _only_model(folder: Path, where: str) -> Path:
    found = sorted(path for path in folder.iterdir() if path.suffix in _MODEL_SUFFIXES and path.is_file())
    # Folders of models also contain JSON files of labels and tokenizers, but those have no weights beside them.
    if len(found) > 1:
        found = [path for path in found if _beside(path)] or found
    old = next((path for name in _OLD_MODELS if (path := folder / name).is_file()), None)
    if not any(map(_is_program, found)):
        found = ([old] if old else sorted(filter(_is_onnx, folder.iterdir()))) or found
    if not found:
        raise PackingError(f"{where}{folder}: no model in this folder{_instead(folder)}")
    if len(found) > 1:
        names = ", ".join(path.name for path in found)
        raise PackingError(f"{where}{folder}: several models ({names}); name the file instead of the folder")
    return found[0]


def _instead(folder: Path) -> str:
    if any((folder / name).is_file() for name in serving_conf.CLIENT_CONFS):
        return ", which is the one for clients; name the folder for the server, serving_server, which has the model"
    if serving_conf.find(folder / "serving_server"):
        return f"; name {folder / 'serving_server'}, which has one"
    return (
        "; expected inference.json or inference.pdmodel with its .pdiparams, an .onnx file, or a Paddle Serving folder "
        f"with {serving_conf.TEXT_CONF}"
    )


def _is_program(path: Path) -> bool:
    """Whether the file holds a model, and not labels or settings."""
    if path.suffix != ".json":
        return True
    with path.open("rb") as file:
        return b'"pir"' in file.read(_PIR_MAGIC_WITHIN_BYTES)


def _serving_folder(folder: Path, params_file: Path | None, where: str, conf: Path) -> ModelFiles:
    model = _by_ending(folder, (encryption.ENCRYPTED_MODEL, *_SERVING_MODELS))
    if model is None:
        raise PackingError(f"{where}{folder}: {conf.name} is here, but no model file")
    params = params_file or _by_ending(folder, (encryption.ENCRYPTED_PARAMS, *_SERVING_WEIGHTS))
    said = serving_conf.read(conf)
    declared = serving_text.declared(said.message, conf) if encryption.is_encrypted(model.name) else None
    return ModelFiles(model, params, None, said, declared=declared)


def _by_ending(folder: Path, endings: tuple[str, ...]) -> Path | None:
    files = sorted(path for path in folder.iterdir() if path.is_file())
    found = (path for ending in endings for path in files if path.name.endswith(ending) and _is_program(path))
    return next(found, None)
