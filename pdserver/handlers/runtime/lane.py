"""A straight way for plain predictions: JSON of numbers → one array an input → the model → JSON, a batch at a time.

The general way makes Python objects of each request and each row. Here, a typed decoder checks the numbers while it
reads them, and one call writes an output of the whole batch, whose text is then cut into the requests' answers. A batch
that has anything odd in it takes the general way: only that one refuses requests and isolates failures.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, islice, repeat
from operator import attrgetter
from typing import Annotated, Any

import msgspec
import numpy as np
import orjson
from msgspec import Meta

from pdarchiver.manifest import Signature, TensorSpec
from pdserver.configuration.model import ModelSpec
from pdserver.dtypes import BFLOAT16
from pdserver.handlers.base import BaseHandler
from pdserver.handlers.runtime.parts import begins_of_json
from pdserver.handlers.runtime.rows import Arrays
from pdserver.handlers.runtime.typed import Times
from pdserver.types import Outcome, Part, Reply, Request

_READ = frozenset(
    {"bool", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "float16", "float32", "float64"}
)
"""The dtypes of inputs whose limits msgspec can check."""
_WRITTEN = frozenset(map(np.dtype, ("bool", "int32", "int64", "float32", "float64")))
"""The dtypes of outputs that orjson writes alike whether a row is an array or a single number."""


def of(handler: Any, spec: ModelSpec) -> Lane | None:
    """The lane for a handler that has been initialised, or None if all of its batches must take the general way."""
    if type(handler) is not BaseHandler or spec.service_envelope or not spec.decode_input_request:
        return None
    if handler.batching.first_axis != "batch" or not all(map(_is_plain, handler.signature.inputs)):
        return None
    are_ids = handler.batching.ids_below.keys()
    whole = {given.name for given in handler.signature.inputs if np.dtype(_dtype(given)).kind in "iu"}
    return Lane(handler) if are_ids <= whole else None


def _is_plain(given: TensorSpec) -> bool:
    return bool(given.shape) and _dtype(given) in _READ and ":" not in given.name


@dataclass(frozen=True)
class _Form:
    """One of the ways to write a request."""

    decode: Callable[[bytes], Any]
    columns: list[tuple[str, str, Callable[[list[Any]], Any]]]
    """Each input's name and dtype, and what gives its values from those that were decoded."""
    several: bool
    """Whether a request gives the batch axis, and so has several rows."""

    def arrays(self, documents: list[Any]) -> tuple[Arrays, list[int] | None]:
        """The inputs of all requests, and how many rows each has, if they give the batch axis. Raises ValueError."""
        arrays: Arrays = {}
        counts: list[int] | None = None
        for name, dtype, column in self.columns:
            values = column(documents)
            if self.several:
                lengths = list(map(len, values))
                if counts not in (None, lengths):
                    raise ValueError("the inputs do not agree on the number of rows")
                counts, values = lengths, list(chain.from_iterable(values))
            arrays[name] = np.array(values, dtype)
        return arrays, counts


class Lane:
    """Takes batches of a handler that is BaseHandler itself, and of a model that works row by row."""

    def __init__(self, handler: BaseHandler) -> None:
        self._handler = handler
        self._most_colons = len(handler.signature.inputs)
        self._forms = _forms(handler.signature, handler.batching.ids_below)
        """The one that the last batch had comes first."""

    def answers(self, requests: Sequence[Request], times: Times) -> list[Outcome] | None:
        """The answers to opaque requests without an envelope, to predict; None if they must take the general way, and
        then `times` has nothing of this attempt."""
        started = time.perf_counter()
        bodies = self._bodies(requests)
        if bodies is None:
            return None
        try:
            inputs, counts = self._read(bodies)
            read = time.perf_counter()
            outputs = self._handler.predictor.run(inputs)
            ran = time.perf_counter()
            rows = len(bodies) if counts is None else sum(counts)
            answers: list[Outcome] = list(map(Reply, _written(outputs, rows, counts), repeat("application/json")))
        except Exception:  # noqa: BLE001 - the general way finds out what is wrong, and with which request
            return None
        times.executions += 1
        times.input_seconds += read - started
        times.output_seconds += time.perf_counter() - ran
        return answers

    def _bodies(self, requests: Sequence[Request]) -> list[bytes] | None:
        """The documents, unless a request is of another kind, or gives a key twice, which the decoder does not see."""
        most_colons = self._most_colons
        bodies: list[bytes] = []
        content_type: str | None = None
        begins: tuple[bytes, ...] | None = None
        for request in requests:
            inputs = request.inputs
            given = inputs[0] if len(inputs) == 1 else None
            if type(given) is not Part or given.name != "body":
                return None
            if given.content_type != content_type:  # nearly always, all requests have one
                content_type = given.content_type
                begins = begins_of_json(content_type)
            data = given.data
            if type(data) is not bytes or data.count(b":") > most_colons:
                return None
            if begins is not None and data[:1] not in begins:
                return None
            bodies.append(data)
        return bodies

    def _read(self, bodies: list[bytes]) -> tuple[Arrays, list[int] | None]:
        """Raises ValueError for what is no plain batch, whose requests are all of one form."""
        for form in self._forms:
            try:
                documents = list(map(form.decode, bodies))
            except msgspec.DecodeError:
                continue
            if form is not self._forms[0]:
                self._forms.remove(form)
                self._forms.insert(0, form)
            return form.arrays(documents)
        raise ValueError("no form fits")


def _forms(signature: Signature, ids_below: Mapping[str, int]) -> list[_Form]:
    specs = signature.inputs
    keys = [f"input{i}" for i in range(len(specs))]
    names = dict(zip(keys, (spec.name for spec in specs), strict=True))
    forms: list[_Form] = []
    bare: list[_Form] = []
    for several in (False, True):
        types = [_type(spec, ids_below.get(spec.name), several=several) for spec in specs]
        document = msgspec.defstruct(
            "Document", list(zip(keys, types, strict=True)), rename=names, forbid_unknown_fields=True, gc=False
        )
        columns = [(spec.name, _dtype(spec), _column(attrgetter(key))) for spec, key in zip(specs, keys, strict=True)]
        forms.append(_Form(msgspec.json.Decoder(document).decode, columns, several))
        if len(specs) == 1:
            bare.append(
                _Form(msgspec.json.Decoder(types[0]).decode, [(specs[0].name, _dtype(specs[0]), list)], several)
            )
    return forms + bare


def _column(get: Callable[[Any], Any]) -> Callable[[list[Any]], Any]:
    return lambda documents: list(map(get, documents))


def _dtype(spec: TensorSpec) -> str:
    return "float32" if spec.dtype == BFLOAT16 else spec.dtype


def _type(spec: TensorSpec, below: int | None, *, several: bool) -> Any:
    """What a request gives for an input: nested lists of the input's shape, with numbers that its dtype holds."""
    dtype = np.dtype(_dtype(spec))
    kind: Any = bool
    if dtype.kind == "f":
        limit = float(np.finfo(dtype).max)
        kind = Annotated[float, Meta(ge=-limit, le=limit)]
    elif dtype.kind in "iu":
        info = np.iinfo(dtype)
        low, high = (int(info.min), int(info.max)) if below is None else (0, min(below - 1, int(info.max)))
        kind = Annotated[int, Meta(ge=low, le=high)]
    for length in reversed(spec.shape[1:]):
        kind = Annotated[list[kind], Meta(min_length=1) if length == -1 else Meta(min_length=length, max_length=length)]
    return Annotated[list[kind], Meta(min_length=1)] if several else kind


def _written(outputs: Arrays, rows: int, counts: list[int] | None) -> list[bytes]:
    """Each request's answer in JSON: its row of each output by name, or its rows where it gave the batch axis.

    Raises ValueError for outputs that are not so many rows of numbers.
    """
    columns: list[list[bytes]] = []
    for name, array in outputs.items():
        if array.shape[:1] != (rows,) or not array.size or array.dtype not in _WRITTEN:
            raise ValueError(f"{name}: {array.dtype} of shape {array.shape}")
        rank = array.ndim - 1
        between = b"]" * rank + b"," + b"[" * rank  # found between rows, and nowhere in them
        texts = orjson.dumps(array, option=orjson.OPT_SERIALIZE_NUMPY)[rank + 1 : -rank - 1].split(between)
        if counts is not None:
            rank += 1
            texts = texts if len(counts) == rows else _joined(texts, counts, between)
        begin = (b"," if columns else b"{") + orjson.dumps(name) + b":" + b"[" * rank
        end = b"]" * rank + (b"}" if len(columns) == len(outputs) - 1 else b"")
        columns.append([begin + text + end for text in texts])
    return columns[0] if len(columns) == 1 else list(map(b"".join, zip(*columns, strict=True)))


def _joined(texts: list[bytes], counts: list[int], between: bytes) -> list[bytes]:
    """The rows of each request as one text."""
    left = iter(texts)
    return [between.join(islice(left, count)) for count in counts]
