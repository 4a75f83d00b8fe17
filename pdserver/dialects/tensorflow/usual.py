"""The usual request: {"instances": …} or {"inputs": …} with the numbers of a model's one input, nested in lists.

A typed decoder reads all of it at once. What it does not take is left to `predict_json`, which reads JSON of any kind
and knows the words for errors.
"""

from __future__ import annotations

import struct
from itertools import chain
from struct import pack
from typing import Any, Literal

import msgspec
from msgspec import UNSET, UnsetType

from pdserver.configuration.model import ModelSpec
from pdserver.dialects.base import Headers
from pdserver.dialects.tensorflow.request import SIGNATURE, ServingRequest
from pdserver.dialects.tensors import IN_JSON
from pdserver.dtypes import BFLOAT16
from pdserver.types import Interface, Parameter, Port, Tensor

_MOST_AXES = 5
_NO_FILES: list[int] = []
_NO_PARAMETERS: dict[str, Parameter] = {}


def _decoder(element: type, depth: int) -> Any:
    """Reads requests with elements that are in so many lists."""
    nested: Any = element
    for _ in range(depth):
        nested = list[nested]
    fields = [("instances", nested | UnsetType, UNSET), ("inputs", nested | UnsetType, UNSET)]
    name = ("signature_name", Literal[SIGNATURE], SIGNATURE)
    return msgspec.json.Decoder(msgspec.defstruct("Usual", [*fields, name], gc=False)).decode


_DECODERS: dict[tuple[type, int], Any] = {
    (kind, depth): _decoder(kind, depth) for kind in (float, int) for depth in range(1, _MOST_AXES + 1)
}


class Usual:
    """Reads such requests for a version of a model."""

    def __init__(self, spec: ModelSpec, port: Port, kind: type, letter: str) -> None:
        self._name, self._version, self._most_rows = spec.name, spec.version, spec.batch_size
        self._input, self._dtype, self._letter = port.name, port.dtype, letter
        self._row = port.shape[1:]
        self._lengths = [{length} for length in self._row]
        self._decode = _DECODERS[kind, len(port.shape)]
        self._decode_flat = _DECODERS[kind, 1] if {*self._row} == {1} else None
        """A number for each row may be without the axes of one."""

    def read(
        self, text: bytes | memoryview, headers: Headers, request_id: str, accepts: bytes, timeout_seconds: float
    ) -> ServingRequest | None:
        """None for anything else, be it right or wrong."""
        lengths = self._lengths
        try:
            given = self._decode(text)
        except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError):
            if self._decode_flat is None:
                return None
            try:
                given, lengths = self._decode_flat(text), []
            except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError):
                return None
        values, columns = given.instances, given.inputs
        if columns is not UNSET:
            if values is not UNSET:
                return None
            values = columns
        elif values is UNSET:
            return None
        count = len(values)
        for length in lengths:
            if {*map(len, values)} != length:
                return None
            values = values[0] if len(values) == 1 else [*chain.from_iterable(values)]
        if not values:
            return None
        try:
            data = pack(f"<{len(values)}{self._letter}", *values)
        except (struct.error, OverflowError):
            return None
        rows = self._most_rows
        return ServingRequest(
            self._name, self._version, request_id, [Tensor(self._input, self._dtype, (count, *self._row), data)],
            headers, "", "predict", _NO_FILES, "", True, (), _NO_PARAMETERS, count if count < rows else rows,
            timeout_seconds, 0, None, None, "row" if columns is UNSET else "column", accepts,
        )  # fmt: skip


def usual_of(spec: ModelSpec, interface: Interface) -> Usual | None:
    """What reads the usual requests for a version; None if it has none."""
    if len(interface.inputs) != 1 or not interface.batched:
        return None
    port = interface.inputs[0]
    (kind, _), letter = IN_JSON[port.dtype]
    if kind not in (float, int) or port.dtype == BFLOAT16:
        return None
    if not 1 <= len(port.shape) <= _MOST_AXES or min(port.shape[1:], default=1) < 1:
        return None
    return Usual(spec, port, kind, letter)
