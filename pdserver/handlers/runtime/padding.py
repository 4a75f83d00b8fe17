"""The section `padding` of a model's own YAML: typed requests of different lengths share a run of the model.

The axes that the model's signature leaves open (-1, the batch aside) are filled up with `value`, to the smallest of
`buckets` that holds the longest, else to the next multiple of `multiple`. What comes out along an open axis of an
output is cut back to the length that the request gave, where the output is as long as the inputs were made.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any

import msgspec
import numpy as np

from pdserver.errors import ConfigError
from pdserver.formats.values import nearest
from pdserver.handlers.runtime import sections
from pdserver.handlers.runtime.rows import Array, Arrays
from pdserver.types import Interface, Port

_Length = Annotated[int, msgspec.Meta(ge=1)]
_Number = int | float


class PaddingSettings(msgspec.Struct, frozen=True, kw_only=True):
    value: _Number | dict[str, _Number] = 0
    """For every input, or by the input's name (0 for the others)."""
    buckets: list[_Length] = []
    multiple: _Length = 1
    """For what is longer than the largest bucket."""
    where_possible: bool = False
    """Whether it is left out for a model whose requests can't be filled up, rather than refused."""


class Padding:
    """Raises ConfigError for wrong settings, and for a model that has no open axis."""

    def __init__(self, settings: PaddingSettings, interface: Interface) -> None:
        self._ports = {port.name: port for port in interface.inputs}
        self._outputs = {port.name: port for port in interface.outputs}
        self._buckets = sorted(settings.buckets)
        self._multiple = settings.multiple
        values = settings.value if isinstance(settings.value, dict) else dict.fromkeys(self._ports, settings.value)
        for name in values.keys() - self._ports.keys():
            raise ConfigError(f"padding.value: the model has no input {name}{nearest(name, self._ports)}")
        self._values = values
        if problem := _problem(interface):
            raise ConfigError(f"padding: {problem}")

    def length(self, longest: int) -> int:
        """What axes of this length at most are filled up to."""
        fitting = next((bucket for bucket in self._buckets if bucket >= longest), None)
        return fitting if fitting is not None else -(-longest // self._multiple) * self._multiple

    def together(self, requests: Sequence[Arrays]) -> list[Arrays]:
        """The same inputs, filled up so that all of equal rank have one shape but for the batch."""
        filled: list[dict[str, Array]] = [{} for _ in requests]
        for name, port in self._ports.items():
            arrays = [request[name] for request in requests]
            axes = _open_axes(port)
            shape = list(port.shape)
            for axis in axes:
                shape[axis] = self.length(max(given.shape[axis] for given in arrays))
            for target, given in zip(filled, arrays, strict=True):
                target[name] = self._filled(name, given, shape)
        return filled

    def cut(self, outputs: Arrays, given: Arrays, padded: Arrays) -> Arrays:
        """A request's outputs without what comes of filling its inputs up."""
        lengths = self._lengths(given, padded)
        if not lengths:
            return outputs
        cut = {}
        for name, array in outputs.items():
            axes = _open_axes(self._outputs[name]) if name in self._outputs else ()
            where = tuple(
                slice(lengths.get(length)) if axis in axes else slice(None) for axis, length in enumerate(array.shape)
            )
            cut[name] = array[where]
        return cut

    def _lengths(self, given: Arrays, padded: Arrays) -> dict[int, int]:
        """Length that was made → length that was given, of the axes that were filled up."""
        lengths: dict[int, int] = {}
        for name, port in self._ports.items():
            for axis in _open_axes(port):
                before, after = given[name].shape[axis], padded[name].shape[axis]
                if before != after:
                    lengths[after] = max(before, lengths.get(after, 0))
        return lengths

    def _filled(self, name: str, given: Array, shape: Sequence[int]) -> Array:
        wanted = (len(given), *shape[1:])
        if given.shape == wanted:
            return given
        filled = np.full(wanted, self._values.get(name, 0), given.dtype)
        filled[tuple(slice(length) for length in given.shape)] = given
        return filled


def read(config: Mapping[str, Any], interface: Interface) -> Padding | None:
    """None when the model's config has no such section. Raises ConfigError."""
    if config.get("padding") is None:
        return None
    settings = sections.read(PaddingSettings, "padding", config)
    if settings.where_possible and _problem(interface):
        return None
    return Padding(settings, interface)


def _problem(interface: Interface) -> str:
    """Why requests of the model can't be filled up; "" if they can."""
    if not interface.batched:
        return (
            "requests of this model do not share a run; if its first axis is the batch, say so: "
            "interface: {batched: true}"
        )
    if not any(_open_axes(port) for port in interface.inputs):
        return "no input of the model has an axis of any length (-1) besides the batch"
    return ""


def _open_axes(port: Port) -> tuple[int, ...]:
    return tuple(axis for axis, length in enumerate(port.shape) if axis and length == -1)
