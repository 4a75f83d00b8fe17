"""Items and the files that their data are in: what workers answer → items; items → a request's inputs and files.

A file goes from worker to worker as it is: the front end passes its descriptor on, and items on parts of one file pass
the same one.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from typing import Any

import msgspec

from pdserver.dtypes import BYTES
from pdserver.errors import HandlerFailed, InvalidRequest
from pdserver.formats.elements import packed
from pdserver.formats.values import shown
from pdserver.memory_file import THRESHOLD_BYTES, MemoryFile, file_of, kept_view, view
from pdserver.pipeline.values import Item
from pdserver.types import Part, Tensor

_LENGTH_BYTES = 4
"""Before each element of dtype "bytes"."""


def item(given: Part | Tensor) -> Item:
    """What a worker answered to a `RelayedRequest` as an item, which keeps the file open that it came in."""
    file = file_of(given.data)
    if file is None:
        return Item(msgspec.structs.replace(given, start=0, size=0) if given.size else given)
    return Item(msgspec.structs.replace(given, data=b"", file=0), file.fd, file)


def items_of_request(inputs: Sequence[Part | Tensor], fds: Sequence[int], kept: Sequence[object]) -> list[Item]:
    """A request's inputs as items. `kept` keeps its descriptors open."""
    return [
        Item(given) if given.file < 0 else Item(msgspec.structs.replace(given, file=0), fds[given.file], kept)
        for given in inputs
    ]


def files_of(items: Iterable[Item]) -> tuple[list[Part | Tensor], list[int]]:
    """The inputs of a request, and the descriptors of its files: each once, however many items lie in it.

    Whoever sends the request keeps the items until it is answered.
    """
    inputs: list[Part | Tensor] = []
    places: dict[int, int] = {}
    for each in items:
        given = each.given
        if given.file >= 0:
            given = msgspec.structs.replace(given, file=places.setdefault(each.fd, len(places)))
        inputs.append(given)
    return inputs, list(places)


def element(one: Item, name: str, content_type: str) -> Item:
    """The element of a tensor that has a single one, of dtype "bytes", as a part: in a file, it stays there.

    Raises InvalidRequest for data that are not one element behind its length.
    """
    given = one.given
    size = len(given.data) if given.file < 0 else given.size
    head = given.data[:_LENGTH_BYTES] if given.file < 0 else os.pread(one.fd, min(size, _LENGTH_BYTES), given.start)
    if size < _LENGTH_BYTES or int.from_bytes(head, "little") != size - _LENGTH_BYTES:
        raise InvalidRequest(f'input "{shown(given.name)}": {size} bytes are not one element behind its length')
    if given.file < 0:
        return Item(Part(name, content_type, given.data[_LENGTH_BYTES:]))
    part = Part(name, content_type, b"", 0, given.start + _LENGTH_BYTES, size - _LENGTH_BYTES)
    return one._replace(given=part)


def data_of(one: Item, *, keep: bool = False) -> Any:
    """Its data, mapped where they are in a file, or copied when there is no room for that. `keep`: they are passed on,
    so the file is found by them (`item`)."""
    given = one.given
    if given.file < 0:
        return given.data
    if given.size < THRESHOLD_BYTES:
        return one.data
    try:
        whole = kept_view(one.owner) if keep and isinstance(one.owner, MemoryFile) else view(one.fd)
    except OSError:
        return one.data
    return whole[given.start : given.start + given.size]


def stacked(name: str, items: Sequence[Item]) -> Tensor:
    """The items as one tensor with one axis more, which is the first. Raises HandlerFailed for items that differ."""
    if not items:
        return Tensor(name, BYTES, (0,), b"")
    first = items[0].given
    form = _form(first)
    if any(_form(one.given) != form for one in items):
        raise HandlerFailed(
            f'"{name}": its items differ in dtype or shape, so they make no tensor: ask over HTTP without types, or'
            " join them in a node"
        )
    if isinstance(first, Part):
        return Tensor(name, BYTES, (len(items),), packed(bytes(data_of(one)) for one in items))
    return Tensor(name, first.dtype, (len(items), *first.shape), b"".join(data_of(one) for one in items))


def _form(given: Part | Tensor) -> object:
    return (given.dtype, given.shape) if isinstance(given, Tensor) else None
