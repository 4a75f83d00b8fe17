"""The section `warmup` of a model's own YAML: typed requests that each worker answers before it is ready.

The first requests of a model take longer, since Paddle prepares what depends on the inputs' shapes. Source of the
section's shape: `model_warmup` of Triton's model configuration.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
import numpy as np

from pdarchiver.names import path_problem
from pdserver.configuration.model import ModelSpec
from pdserver.dtypes import BFLOAT16, BYTES
from pdserver.errors import ConfigError, LoadFailed
from pdserver.formats.elements import packed
from pdserver.formats.values import nearest, shown
from pdserver.handlers.runtime.typed import Times, Typed
from pdserver.tensors import byte_size, tensor
from pdserver.types import Failure, Port, Request, Tensor

_MAX_BYTES = 1 << 30


class Values(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Of one input."""

    shape: list[int] | None = None
    """The batch included; None: the model's, with 1 where any length will do."""
    dtype: str = ""
    """Empty: the model's."""
    data: Literal["zero", "random"] = "zero"
    """random: from 0 to 1, and of whole numbers 0 and 1, which every vocabulary has."""
    file: str = ""
    """In the model's folder, with the bytes of the tensor; of dtype "bytes", with its one element."""


class Sample(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One request; inputs that it leaves out are zero."""

    name: str = ""
    inputs: dict[str, Values] = {}
    count: Annotated[int, msgspec.Meta(ge=1, le=10_000)] = 1
    """How often it is asked."""


def run(typed: Typed, spec: ModelSpec) -> None:
    """Ask what the section says. Raises ConfigError for a wrong section, LoadFailed for a request that fails."""
    for where, sample, given in requests(spec.model_config, typed.interface.inputs, Path(spec.directory)):
        inputs: list[Any] = [tensor for _, tensor in given]
        request = Request(spec.name, spec.version, "warmup", inputs, typed=True)
        for _ in range(sample.count):
            [outcome] = typed.run([request], None, Times())
            if isinstance(outcome, Failure):
                raise LoadFailed(f"{where}: {outcome.message}")


def requests(
    config: Mapping[str, Any], ports: Sequence[Port], directory: Path
) -> Iterator[tuple[str, Sample, list[tuple[Values, Tensor]]]]:
    """Each request, what errors call it, and its inputs with what is said of them. They are made one after the other,
    since all together may be large. Raises ConfigError for a wrong section."""
    by_name = {port.name: port for port in ports}
    for number, sample in enumerate(_samples(config)):
        where = f"warmup {shown(sample.name or number)}"
        yield where, sample, _inputs(by_name, sample, directory, where)


def _samples(config: Mapping[str, Any]) -> list[Sample]:
    try:
        return msgspec.convert(config.get("warmup") or [], list[Sample])
    except msgspec.ValidationError as error:
        raise ConfigError(f"warmup: {error}") from None


def _inputs(ports: Mapping[str, Port], sample: Sample, directory: Path, where: str) -> list[tuple[Values, Tensor]]:
    for name in sample.inputs.keys() - ports.keys():
        raise ConfigError(f"{where}: the model has no input {shown(name)}{nearest(name, ports)}")
    random = np.random.default_rng(0)
    said = {name: sample.inputs.get(name, Values()) for name in ports}
    return [
        (said[name], _tensor(port, said[name], directory, random, f"{where}: {name}")) for name, port in ports.items()
    ]


def _tensor(port: Port, values: Values, directory: Path, random: np.random.Generator, where: str) -> Tensor:
    dtype = values.dtype or port.dtype
    shape = tuple(max(1, length) if length < 0 else length for length in port.shape)
    shape = shape if values.shape is None else tuple(values.shape)
    fits = len(shape) == len(port.shape) and all(
        wanted in (-1, length) and length > 0 for wanted, length in zip(port.shape, shape, strict=True)
    )
    if dtype != port.dtype or not fits:
        raise ConfigError(
            f"{where}: {shown(dtype)} of shape {list(shape)}: the model takes {port.dtype} of shape {list(port.shape)}"
        )
    size = byte_size(dtype, shape)
    if (math.prod(shape) if size is None else size) > _MAX_BYTES:
        raise ConfigError(f"{where}: shape {list(shape)}: at most {_MAX_BYTES} bytes")
    if values.file:
        return Tensor(port.name, dtype, shape, _content(values.file, directory, dtype, size, where))
    if dtype == BYTES:
        return Tensor(port.name, dtype, shape, packed([b""] * math.prod(shape)))
    if values.data == "zero":
        assert size is not None  # noqa: S101 - only elements of any length have none
        return Tensor(port.name, dtype, shape, bytes(size))
    numbers = random.random(shape)
    if dtype == BFLOAT16:
        return tensor(port.name, numbers, dtype)
    held = np.dtype(dtype)
    return tensor(port.name, numbers.astype(held) if held.kind == "f" else (numbers < 0.5).astype(held))


def _content(name: str, directory: Path, dtype: str, size: int | None, where: str) -> bytes:
    if problem := path_problem(name):
        raise ConfigError(f"{where}: file {shown(name)} {problem}; name a file of the archive")
    path = (directory / name).resolve()
    if not path.is_relative_to(directory.resolve()):
        raise ConfigError(f"{where}: file {shown(name)} is outside the model's folder")
    try:
        content = path.read_bytes()
    except OSError as error:
        raise ConfigError(f"{where}: file {shown(name)} cannot be read: {error.strerror}") from None
    if dtype == BYTES:
        return packed([content])
    if len(content) != size:
        raise ConfigError(f"{where}: file {shown(name)} has {len(content)} bytes, the tensor has {size}")
    return content
