"""The archive's own samples: the section `samples` of a model's own YAML, as a pipeline has it.

A list of requests; for each, a file of the archive for each input.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import orjson

from pdarchiver.manifest import Signature, TensorSpec
from pdarchiver.names import path_problem
from pdarchiver.samples import SUFFIXES
from pdserver.dtypes import BFLOAT16
from pdserver.errors import ConfigError, HandlerFailed, InvalidRequest
from pdserver.formats.values import nearest, shown
from pdserver.handlers.runtime.model_input import check_ids
from pdserver.handlers.runtime.npy import load_npy
from pdserver.handlers.runtime.rows import Array, Arrays, reshaped

_JSON_KINDS = {"f": "iuf", "i": "iu", "u": "iu", "b": "b"}
"""numpy's kinds of numbers in JSON that an input of each kind takes."""
_CALLED = {"O": "something else", "U": "text"}
_MAX_BYTES = 256 * 1024 * 1024
"""Of one file."""


def files(config: Mapping[str, Any], directory: Path, signature: Signature) -> list[dict[str, Path]]:
    """The samples' files by input. Raises ConfigError for a wrong section, for a file that is missing, and for one that
    is neither .npy nor .json."""
    try:
        samples = msgspec.convert(config.get("samples") or [], list[dict[str, str]])
    except msgspec.ValidationError as error:
        raise ConfigError(
            f"samples: expected a list of requests, each with a file for each input, such as [{{x: x.npy}}]: {error}"
        ) from None
    return [_of_one(sample, directory, signature, f"samples[{number}]") for number, sample in enumerate(samples)]


def read(
    found: Sequence[Mapping[str, Path]],
    signature: Signature,
    shapes: Mapping[str, list[int]],
    ids_below: Mapping[str, int],
) -> list[Arrays]:
    """The samples as the model takes them.

    `shapes` are the predictor's `reshape.inputs`. Some inputs are row numbers of an embedding: `ids_below` gives its
    number of rows by the model's name for the input.

    Raises ConfigError for a file that can't be read, and for an array that is not the model's input.
    """
    specs = {spec.name: spec for spec in signature.inputs}
    samples = []
    for number, sample in enumerate(found):
        where = f"samples[{number}]"
        arrays = {name: _array(path, specs[name].dtype, f"{where}.{name}") for name, path in sample.items()}
        try:
            arrays = reshaped(arrays, shapes)
            fitting = {name: _fitting(arrays[name], spec, f"{where}.{name}") for name, spec in specs.items()}
            for name, spec in specs.items():
                if spec.source in ids_below:
                    check_ids(name, fitting[name], ids_below[spec.source])
        except (HandlerFailed, InvalidRequest) as error:
            raise ConfigError(f"{where}: {error}") from None
        samples.append(fitting)
    return samples


def _of_one(sample: Mapping[str, str], directory: Path, signature: Signature, where: str) -> dict[str, Path]:
    names = [spec.name for spec in signature.inputs]
    for name in sample.keys() - set(names):
        raise ConfigError(f"{where}: the model has no input {shown(name)}{nearest(name, names)}")
    for name in names:
        if name not in sample:
            raise ConfigError(f"{where}: no file for the input {shown(name)}")
    return {name: _path(sample[name], directory, f"{where}.{name}") for name in names}


def _path(name: str, directory: Path, where: str) -> Path:
    if problem := path_problem(name):
        raise ConfigError(f"{where}: {shown(name)} {problem}; name a file of the archive")
    path = directory / name
    if not path.resolve().is_relative_to(directory.resolve()):
        raise ConfigError(f"{where}: {shown(name)} is outside the model's folder")
    if path.suffix not in SUFFIXES:
        raise ConfigError(f"{where}: {shown(name)}: expected a .npy file, or a .json file with nested lists")
    if not path.is_file():
        raise ConfigError(f"{where}: no file {shown(name)} in the archive")
    if path.stat().st_size > _MAX_BYTES:
        raise ConfigError(f"{where}: {shown(name)} has more than {_MAX_BYTES} bytes")
    return path


def _array(path: Path, dtype: str, where: str) -> Array:
    try:
        content = path.read_bytes()
        if path.suffix == ".npy":
            return load_npy(content)
        return _of_lists(orjson.loads(content), np.dtype(np.float32 if dtype == BFLOAT16 else dtype))
    except OSError as error:
        raise ConfigError(f"{where}: {path.name} cannot be read: {error.strerror}") from None
    except (InvalidRequest, ValueError, TypeError, ArithmeticError) as error:
        raise ConfigError(f"{where}: {path.name}: {error}") from None


def _of_lists(values: Any, dtype: np.dtype[Any]) -> Array:
    """Raises ValueError and others for what no client could send: numpy would take null for nan, "1" and 1.5 for 1."""
    found = np.array(values).dtype
    if found.kind not in _JSON_KINDS.get(dtype.kind, ""):
        raise ValueError(f"expected numbers of {dtype}, found {_CALLED.get(found.kind, found.name)}")
    with np.errstate(over="raise"):
        return np.array(values, dtype)


def _fitting(array: Array, spec: TensorSpec, where: str) -> Array:
    dtype = np.dtype(np.float32 if spec.dtype == BFLOAT16 else spec.dtype)
    fits = array.size and array.ndim == len(spec.shape)
    fits = fits and all(wanted in (-1, length) for wanted, length in zip(spec.shape, array.shape, strict=True))
    if not fits or not np.can_cast(array.dtype, dtype, "same_kind"):
        shape = ", ".join("any" if length == -1 else str(length) for length in spec.shape)
        raise ConfigError(
            f"{where}: {array.dtype} of shape {list(array.shape)}: the model takes {spec.dtype} of shape [{shape}]"
        )
    return array.astype(dtype, order="C", copy=False)
