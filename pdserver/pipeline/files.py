"""Items and the files that their data are in: what workers answer → items; items → a request's inputs and files."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import msgspec

from pdserver.pipeline.values import Item
from pdserver.types import Part, Tensor


def item(given: Part | Tensor) -> Item:
    """What a worker answered as an item."""
    return Item(given)


def items_of_request(inputs: Sequence[Part | Tensor], fds: Sequence[int], kept: Sequence[object]) -> list[Item]:
    """A request's inputs as items. `kept` keeps its descriptors open."""
    return [
        Item(given) if given.file < 0 else Item(msgspec.structs.replace(given, file=0), fds[given.file], kept)
        for given in inputs
    ]


def files_of(items: Iterable[Item]) -> tuple[list[Part | Tensor], list[int]]:
    """The inputs of a request, and the descriptors of its files: each file once, however many items are in it."""
    inputs: list[Part | Tensor] = []
    places: dict[int, int] = {}
    for one in items:
        given = one.given
        if given.file >= 0:
            given = msgspec.structs.replace(given, file=places.setdefault(one.fd, len(places)))
        inputs.append(given)
    return inputs, list(places)
