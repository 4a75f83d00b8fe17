"""What the engines are given in a trial: the archive's samples, else what `warmup` says, else made-up numbers."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, Literal

import numpy as np

from pdarchiver.manifest import Signature
from pdserver.errors import ConfigError
from pdserver.handlers.runtime import warm_up
from pdserver.handlers.runtime.predictor_settings import ReshapeSettings
from pdserver.handlers.runtime.rows import Array, Arrays, reshaped
from pdserver.handlers.runtime.trial import made, samples
from pdserver.tensors import array
from pdserver.types import Port, Tensor

Kind = Literal["samples", "warmup", "made"]


@dataclass(frozen=True)
class Inputs:
    """Of single runs."""

    kind: Kind
    timed: Sequence[Arrays]
    """Those whose runs are measured, the smallest first."""
    compared: Sequence[Arrays] = ()
    """Further ones, whose answers are compared alone."""


@dataclass(frozen=True)
class Source:
    """Where a trial's inputs come from."""

    kind: Kind
    about: Callable[[], object]
    """Gives what the inputs depend on, for the trial's memory. Raises OSError."""
    read: Callable[[], Inputs]
    """Raises ConfigError for samples that can't be read, or do not fit the model."""


def source(
    config: Mapping[str, Any],
    directory: Path,
    signature: Signature,
    reshape: ReshapeSettings | None,
    rows: int,
    ids_below: Mapping[str, int],
    checksums: Mapping[str, str],
) -> Source:
    """For a model with this YAML in this folder; `rows` is the largest batch, `checksums` are those that the archive
    has of its files. Raises ConfigError for a wrong section `samples`."""
    shapes = reshape.inputs if reshape else {}
    sizes = sorted({1, rows})
    section = config.get("interface")
    is_batch = not (isinstance(section, dict) and section.get("batched") is False)
    stacks = is_batch and all(spec.shape and spec.shape[0] == -1 for spec in signature.inputs)

    def of(kind: Kind, given: Sequence[Arrays]) -> Inputs:
        timed = [_rows_of(given, size) for size in sizes] if stacks else given[:1]
        is_timed = all(len(array) == len(timed[0][name]) for name, array in given[0].items() if array.ndim)
        return Inputs(kind, timed, given[1:] if is_timed else given)

    if found := samples.files(config, directory, signature):
        return Source(
            "samples",
            lambda: [sizes, _contents(found, directory, checksums)],
            lambda: of("samples", samples.read(found, signature, shapes, ids_below)),
        )
    made_up = partial(made.made, signature.inputs, sizes, ids_below)
    if config.get("warmup"):

        def asked() -> Inputs:
            usual = _usual(config, directory, signature, shapes, ids_below)
            return Inputs("made", made_up()) if usual is None else replace(of("warmup", [usual]), compared=())

        return Source("warmup", lambda: [sizes, config["warmup"]], asked)
    return Source("made", lambda: sizes, lambda: Inputs("made", made_up()))


def _contents(
    found: Sequence[Mapping[str, Path]], directory: Path, checksums: Mapping[str, str]
) -> list[dict[str, str]]:
    """What tells samples from others: an archive that is unpacked once more has new files."""

    def digest(path: Path) -> str:
        return checksums.get(path.relative_to(directory).as_posix()) or hashlib.sha256(path.read_bytes()).hexdigest()

    return [{name: digest(path) for name, path in each.items()} for each in found]


def _usual(
    config: Mapping[str, Any],
    directory: Path,
    signature: Signature,
    shapes: Mapping[str, list[int]],
    ids_below: Mapping[str, int],
) -> Arrays | None:
    """Of the requests of the section `warmup`, the one whose rows are as large as those of half of them. What is zero
    there is made up: all answers to zeros may be alike. None for requests that are not for the model as it is, but for
    its handler."""
    specs = {spec.name: spec for spec in signature.inputs}
    ports = [Port(spec.name, spec.dtype, spec.shape) for spec in signature.inputs]

    def value(values: warm_up.Values, given: Tensor) -> Array:
        if values.file or values.data == "random":
            return array(given)
        spec = specs[given.name]
        return made.numbers(spec, given.shape, ids_below.get(spec.source))

    try:
        lengths = [
            sum(math.prod(given.shape[1:]) for _, given in inputs)
            for _, _, inputs in warm_up.requests(config, ports, directory)
        ]
        place = sorted(range(len(lengths)), key=lengths.__getitem__)[len(lengths) // 2]
        _, _, inputs = next(islice(warm_up.requests(config, ports, directory), place, None))
    except ConfigError:
        return None
    return reshaped({given.name: value(values, given) for values, given in inputs}, shapes)


def _rows_of(given: Sequence[Arrays], size: int) -> Arrays:
    """So many rows: those of the first one and of all others of its shape, over and over."""
    first = given[0]
    alike = [each for each in given if all(each[name].shape[1:] == array.shape[1:] for name, array in first.items())]
    rows = {name: np.concatenate([each[name] for each in alike]) for name in first}
    return {name: array[np.arange(size) % len(array)] for name, array in rows.items()}
