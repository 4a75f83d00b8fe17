"""Items and the files that their data are in: what workers answer → items; items → a request's inputs and files.

A file goes from worker to worker as it is: the front end passes its descriptor on, and items on parts of one file pass
the same one.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import msgspec

from pdserver.memory_file import file_of
from pdserver.pipeline.values import Item
from pdserver.types import Part, Tensor


def item(given: Part | Tensor) -> Item:
    """What a worker answered to a `NodeRequest` as an item, which keeps the file open that it came in."""
    file = file_of(given.data)
    if file is None:
        return Item(given)
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
