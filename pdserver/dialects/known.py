"""Requests that differ from an earlier one in nothing but their numbers.

A client sends the same message again and again, with other numbers in it. The bytes before and after the numbers mean
the same each time. So the request that was read from them once, and checked against a version of a model, holds for
each later message that has them. Only the bytes between are read, and they must be numbers and nothing else.

What is odd about these is left to the ordinary way, which reads the whole message, and knows the words for errors.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Hashable
from itertools import chain
from typing import Any, Generic, NamedTuple, TypeVar, cast

import msgspec

from pdserver.configuration.model import ModelSpec
from pdserver.dialects.codec import LARGE_BYTES
from pdserver.dialects.tensors import IN_JSON
from pdserver.dtypes import BFLOAT16, BYTES
from pdserver.types import Interface, Part, Request, Tensor

AnyRequest = TypeVar("AnyRequest", bound=Request)
Read = Callable[[bytes], list[Part | Tensor] | None]
"""Makes the inputs of a message that begins and ends like a known one. None: the ordinary way has to read it."""

_MOST = 250
"""Of keys."""
_MOST_EACH = 8
"""Of messages with one key: they are compared one after the other."""
_MAX_BYTES = 2048
"""Before and after the numbers."""


class Spelling(NamedTuple):
    """How messages write numbers."""

    other: Callable[[bytes], bytes]
    """Another text, never the same, which can have this one's place without changing what is around it."""
    reader: Callable[[Tensor, bytes, int, int], Read | None]
    """What reads numbers that are written as in this text, for inputs like this tensor, in messages with so many bytes
    before and after them."""


class Known(msgspec.Struct, Generic[AnyRequest], frozen=True):
    """A message without its numbers, and what it means."""

    spec: ModelSpec
    """With `interface`: what it was checked against. It holds for no other objects than these two."""
    interface: Interface
    before: bytes
    after: bytes
    inputs: Read
    request: AnyRequest
    """Without inputs, id and headers."""


class KnownRequests(Generic[AnyRequest]):
    """A bounded cache. `numbers_of` gives the text of a message's numbers as the message's own reader finds it; empty
    unless there is exactly one such text, and for what is no message."""

    def __init__(self, numbers_of: Callable[[bytes], bytes], spelling: Spelling) -> None:
        self._numbers_of = numbers_of
        self._spelling = spelling
        self._known: dict[Hashable, list[Known[AnyRequest]]] = {}
        """By key; the one that was used last comes first."""
        self._refused = 0

    def find(self, key: Hashable, data: bytes) -> Known[AnyRequest] | None:
        """What begins and ends like `data`. The caller compares its `spec` and `interface` with those that the request
        is meant for. `key` is whatever must be the same for two messages to mean the same."""
        latest = self._known.get(key)
        if latest is None:
            return None
        known = latest[0]
        if data.startswith(known.before) and data.endswith(known.after):
            return known
        for place, known in enumerate(latest):
            if data.startswith(known.before) and data.endswith(known.after):
                latest.insert(0, latest.pop(place))
                return known
        return None

    def learn(self, key: Hashable, data: bytes, spec: ModelSpec, interface: Interface, request: AnyRequest) -> None:
        """Keep the request that was read from `data`, if its numbers can be told apart. All else in it must come from
        the message, and be of no use to this one request only, as an id would be."""
        if len(request.inputs) != 1 or len(data) >= LARGE_BYTES or self._is_crowded(key, spec, interface):
            return
        text = self._numbers_of(data)
        start = data.find(text)
        stop = start + len(text)
        other = self._spelling.other(text)
        if not text or self._numbers_of(data[:start] + other + data[stop:]) != other:
            return  # the same bytes are found elsewhere, before the numbers
        read = self._spelling.reader(cast(Tensor, request.inputs[0]), text, start, len(data) - stop)
        if read is not None:
            self.keep(key, data, start, stop, spec, interface, request, read)

    def keep(
        self, key: Hashable, data: bytes, start: int, stop: int, spec: ModelSpec, interface: Interface,
        request: AnyRequest, read: Read,
    ) -> None:  # fmt: skip
        """`learn` where it is known where the numbers are: from `start` to `stop`, and nothing else is there."""
        if start == stop or start + len(data) - stop > _MAX_BYTES or read(data) != request.inputs:
            return
        if key not in self._known and len(self._known) >= _MOST:
            self._known.clear()
        bare = msgspec.structs.replace(request, inputs=[], id="", headers=[])
        known = Known(spec, interface, data[:start], data[stop:], read, bare)
        others = [
            other for other in self._known.get(key, ()) if (other.before, other.after) != (known.before, known.after)
        ]
        self._known[key] = [known, *others[: _MOST_EACH - 1]]

    def _is_crowded(self, key: Hashable, spec: ModelSpec, interface: Interface) -> bool:
        """Whether there are as many others as there may be. One in so many takes a place of theirs, for learning takes
        longer than it spares, once."""
        others = [other for other in self._known.get(key, ()) if not _is_outdated(other, spec, interface)]
        if len(others) < _MOST_EACH:
            return False
        self._refused += 1
        return self._refused % _MOST_EACH != 0


def _is_outdated(known: Known[AnyRequest], spec: ModelSpec, interface: Interface) -> bool:
    return known.spec.ref == spec.ref and not (known.spec is spec and known.interface is interface)


def _packed_reader(like: Tensor, text: bytes, before: int, after: int) -> Read | None:
    name, dtype, shape, place, size = like.name, like.dtype, like.shape, slice(before, -after or None), len(text)
    if dtype == "bool":
        return None  # zeros and ones are the same bytes as varints; other varints are not

    def read(data: bytes) -> list[Part | Tensor] | None:
        numbers = data[place]
        return [Tensor(name, dtype, shape, numbers)] if len(numbers) == size else None

    return read


_LISTS: dict[tuple[type, int], Any] = {
    **{(kind, 1): msgspec.json.Decoder(list[kind]).decode for kind in (bool, int, float)},  # type: ignore[valid-type]
    **{(kind, 2): msgspec.json.Decoder(list[list[kind]]).decode for kind in (bool, int, float)},  # type: ignore[valid-type]
}
"""What decodes lists of such elements, by their depth."""


def _json_reader(like: Tensor, text: bytes, before: int, after: int) -> Read | None:
    """For a list, or a list of lists of one length."""
    name, dtype, shape, place = like.name, like.dtype, like.shape, slice(before, -after or None)
    (kind, _), letter = IN_JSON[dtype]
    depth = len(text) - len(text.lstrip(b"["))
    decode = _LISTS.get((kind, depth))
    if decode is None or dtype in (BYTES, BFLOAT16):
        return None
    pack = struct.Struct(f"<{len(like.data) // struct.calcsize('<' + letter)}{letter}").pack  # of no other number
    width = {text.partition(b"]")[0].count(b",") + 1}

    def read(data: bytes) -> list[Part | Tensor] | None:
        try:
            values = decode(data[place])
            if depth == 2:
                if set(map(len, values)) != width:
                    return None
                values = chain.from_iterable(values)
            return [Tensor(name, dtype, shape, pack(*values))]
        except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError, struct.error, OverflowError):
            return None

    return read


_COMPLEMENTS = bytes(range(255, -1, -1))
PACKED = Spelling(lambda text: text.translate(_COMPLEMENTS), _packed_reader)
"""Numbers as they are in memory, whose size stands before them."""
JSON = Spelling(lambda _: b"[null]", _json_reader)
"""A JSON list, flat or of rows."""
