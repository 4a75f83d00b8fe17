"""The section `padding` of a model's own YAML: inputs are filled up, so that the model sees few shapes.

The axes that the model's signature leaves open (-1, the batch aside) are filled up with `value`, to the smallest of
`buckets` that holds them, else to the next multiple of `multiple`. Requests of one bucket share a run of the model.
What comes out along an open axis of an output is cut back to the length that the request gave, where the output is as
long as the inputs were made, divided by `stride`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import product
from typing import Annotated, Any

import msgspec
import numpy as np

from pdarchiver.manifest import Signature
from pdserver.dtypes import BFLOAT16, BYTES
from pdserver.errors import ConfigError
from pdserver.formats.values import nearest
from pdserver.handlers.runtime import sections
from pdserver.handlers.runtime.rows import Array, Arrays, Rows, stack
from pdserver.types import Interface, Port

_Length = Annotated[int, msgspec.Meta(ge=1)]
_Number = int | float
_STEP = 1.25
"""A length of a ladder ÷ the one before it: a ninth of what is run is filling, on average."""


class Ladder(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Lengths from `min` to `max`, each a quarter longer than the one before it, in multiples of `multiple`."""

    min: _Length
    max: _Length


class PaddingSettings(msgspec.Struct, frozen=True, kw_only=True):
    value: _Number | dict[str, _Number] = 0
    """For every input, or by the input's name (0 for the others)."""
    buckets: list[_Length] | Ladder = []
    multiple: _Length = 1
    """For what is longer than the largest bucket."""
    stride: _Length | dict[str, _Length] = 1
    """Elements of an input for one of an output, along the open axes; or by the output's name (1 for the others)."""
    where_possible: bool = False
    """Whether it is left out for a model whose requests can't be filled up, rather than refused."""

    def lengths(self) -> list[int]:
        """The buckets, ascending. Raises ConfigError."""
        if isinstance(self.buckets, list):
            return sorted(set(self.buckets))
        lowest, highest = self.buckets.min, self.buckets.max
        if lowest > highest:
            raise ConfigError(f"padding.buckets: min {lowest} is more than max {highest}")
        found = [self.up(lowest)]
        while found[-1] < highest:
            found.append(min(self.up(math.ceil(found[-1] * _STEP)), self.up(highest)))
        return found

    def up(self, length: int) -> int:
        """To the next multiple."""
        return -(-length // self.multiple) * self.multiple


class Padding:
    """Of a model, or of a handler. Raises ConfigError for wrong settings and for what has no open axis."""

    def __init__(
        self, settings: PaddingSettings, interface: Interface, ids_below: Mapping[str, int] | None = None
    ) -> None:
        if problem := _problem(interface):
            raise ConfigError(f"padding: {problem}")
        self.ports = {port.name: port for port in interface.inputs}
        self.outputs = {port.name: port for port in interface.outputs}
        self._axes = sorted({axis for port in interface.inputs for axis in _open_axes(port)})
        self._settings = settings
        self._buckets = settings.lengths()
        self._check_values(ids_below or {})
        self.shape_count = len(self._buckets) ** len(self._axes)
        """Of `shapes`."""

    def length(self, longest: int) -> int:
        """What axes of this length at most are filled up to."""
        fitting = next((bucket for bucket in self._buckets if bucket >= longest), None)
        return fitting if fitting is not None else self._settings.up(longest)

    def bucket(self, inputs: Arrays) -> tuple[int, ...]:
        """What requests have in common that share a run. Without buckets, all do."""
        if not self._buckets:
            return ()
        given = ((inputs[name].shape, axis) for name, port in self.ports.items() for axis in _open_axes(port))
        return tuple([self.length(shape[axis]) if axis < len(shape) else 0 for shape, axis in given])

    def shapes(self) -> Iterator[Mapping[str, tuple[int, ...]]]:
        """All that the buckets make of the inputs, by their names, without the batch.

        Axes of one number are taken to be equally long in all inputs, as those of tokens and their mask are.
        """
        for lengths in product(self._buckets, repeat=len(self._axes)):
            at = dict(zip(self._axes, lengths, strict=True))
            yield {
                name: tuple(at[axis] if length == -1 else length for axis, length in enumerate(port.shape) if axis)
                for name, port in self.ports.items()
            }

    def together(self, requests: Sequence[Arrays]) -> list[Arrays]:
        """The same inputs, filled up so that all of equal rank have one shape but for the batch."""
        filled: list[dict[str, Array]] = [{} for _ in requests]
        for name, port in self.ports.items():
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
        return {name: self._cut(name, array, lengths) for name, array in outputs.items()}

    def run(self, run: Callable[[Arrays], Arrays], inputs: Arrays) -> Arrays:
        """`run` on the inputs of the model, as arrays whose rows have one shape. Others are left for it to refuse."""
        if any(name not in inputs or inputs[name].ndim != len(port.shape) for name, port in self.ports.items()):
            return run(inputs)
        [padded] = self.together([inputs])
        return self.cut(run(padded), inputs, padded)

    def run_rows(self, run: Callable[[Arrays], Arrays], inputs: Arrays) -> Arrays:
        """`run` on rows that may differ in shape, those of one bucket together."""
        if not any(array.dtype.hasobject for array in inputs.values()):
            return run(inputs)
        rows = Rows(inputs)
        given = [{name: row[None] for name, row in rows[i].items()} for i in range(len(rows))]
        groups: dict[tuple[int, ...], list[int]] = {}
        for i, row in enumerate(given):
            groups.setdefault(self.bucket(row), []).append(i)
        found: dict[int, Arrays] = {}
        for members in groups.values():
            padded = self.together([given[i] for i in members])
            outputs = run({name: np.concatenate([row[name] for row in padded]) for name in inputs})
            for place, (i, row) in enumerate(zip(members, padded, strict=True)):
                own = {name: array[place : place + 1] for name, array in outputs.items()}
                found[i] = self.cut(own, given[i], row)
        return {name: stack([found[i][name] for i in range(len(rows))]) for name in found[0]}

    def _cut(self, name: str, array: Array, lengths: Mapping[int, Mapping[int, int]]) -> Array:
        """An output. What inputs were along the same axis counts before what they were along others."""
        if name not in self.outputs:
            return array
        stride = _of(self._settings.stride, name, 1)
        where = [slice(None)] * array.ndim
        for axis in _open_axes(self.outputs[name]):
            for along in (lengths.get(axis, {}), *lengths.values()):
                made = {-(-after // stride): -(-before // stride) for after, before in along.items()}
                if axis < array.ndim and array.shape[axis] in made:
                    where[axis] = slice(made[array.shape[axis]])
                    break
        return array[tuple(where)]

    def _check_values(self, ids_below: Mapping[str, int]) -> None:
        for name, port in self.ports.items():
            value = _of(self._settings.value, name, 0)
            if _open_axes(port) and (expected := _unfit(value, port.dtype, ids_below.get(name))):
                raise ConfigError(
                    f"padding.value: {value}: the input {name} takes {expected}; value: {{{name}: 0}} is for it alone"
                )

    def _lengths(self, given: Arrays, padded: Arrays) -> dict[int, dict[int, int]]:
        """By axis: length that was made → length that was given, where an input was filled up along one."""
        lengths: dict[int, dict[int, int]] = {}
        is_changed = False
        for name, port in self.ports.items():
            for axis in _open_axes(port):
                before, after = given[name].shape[axis], padded[name].shape[axis]
                of_axis = lengths.setdefault(axis, {})
                of_axis[after] = max(before, of_axis.get(after, 0))
                is_changed |= before != after
        return lengths if is_changed else {}

    def _filled(self, name: str, given: Array, shape: Sequence[int]) -> Array:
        wanted = (len(given), *shape[1:])
        if given.shape == wanted:
            return given
        filled = np.full(wanted, _of(self._settings.value, name, 0), given.dtype)
        filled[tuple(slice(length) for length in given.shape)] = given
        return filled


def of_model(
    config: Mapping[str, Any], signature: Signature, *, batched: bool, ids_below: Mapping[str, int] | None = None
) -> Padding | None:
    """What the section says of the model itself; None without it, and for a model whose inputs can't be filled up.

    `ids_below`: of inputs that are numbers of an embedding's rows, by their names, how many it has. Raises ConfigError.
    """
    if config.get("padding") is None:
        return None
    sides = (signature.inputs, signature.outputs)
    inputs, outputs = ([Port(spec.name, spec.dtype, spec.shape) for spec in side] for side in sides)
    interface = Interface(inputs, outputs, batched)
    if _problem(interface):
        return None
    return Padding(sections.read(PaddingSettings, "padding", config), interface, ids_below)


def of_handler(config: Mapping[str, Any], interface: Interface, model: Padding | None) -> Padding | None:
    """What the section says of what a handler takes; None without it.

    `model` is what it says of the model that the handler runs. Without that, the section must fit the handler. Raises
    ConfigError.
    """
    if config.get("padding") is None:
        return None
    settings = sections.read(PaddingSettings, "padding", config)
    if _problem(interface) and (settings.where_possible or model is not None):
        found = None
    else:
        found = Padding(settings, interface)
    known = [padding for padding in (found, model) if padding is not None]
    _check_names("value", "input", settings.value, {name for padding in known for name in padding.ports})
    _check_names("stride", "output", settings.stride, {name for padding in known for name in padding.outputs})
    return found


def _check_names(key: str, what: str, given: Any, known: set[str]) -> None:
    for name in given.keys() - known if isinstance(given, dict) and known else ():
        raise ConfigError(f"padding.{key}: the model has no {what} {name}{nearest(name, sorted(known))}")


def _of(given: Any, name: str, otherwise: int) -> Any:
    """What a setting says of one input or output."""
    return given.get(name, otherwise) if isinstance(given, dict) else given


def _unfit(value: _Number, dtype: str, below: int | None) -> str:
    """What an input of this dtype takes instead of `value`; "" if it takes it. `below`: the rows of its embedding."""
    if dtype in (BFLOAT16, BYTES):
        return ""
    held = np.dtype(dtype)
    if held.kind not in "iub":
        return ""
    info = np.iinfo(held) if held.kind != "b" else None
    lowest, highest = (info.min, info.max) if info else (0, 1)
    if below is not None:
        lowest, highest = 0, below - 1
    return "" if isinstance(value, int) and lowest <= value <= highest else f"whole numbers from {lowest} to {highest}"


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
