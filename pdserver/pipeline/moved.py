"""Values on their way to another process and back: small ones are in the message, large ones in files beside it."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import msgspec

from pdserver.errors import Unavailable
from pdserver.large_data import put_beside
from pdserver.memory_file import MemoryFile
from pdserver.pipeline.asking import flattened
from pdserver.pipeline.files import files_of
from pdserver.pipeline.values import Item, Value, Values
from pdserver.types import Part, Tensor


class Moved(msgspec.Struct, frozen=True, array_like=True):
    """Values without their files."""

    names: list[str]
    """Of the values, in their order."""
    given: list[Part | Tensor]
    """What they are made of, by their names."""
    lists: dict[str, int]
    """Of how many of them each list is made."""


def moved(values: Values) -> tuple[Moved, list[MemoryFile]]:
    """With their files. Raises Unavailable."""
    items, lists = flattened(values)
    given, fds = files_of(items)
    owners = {one.fd: one.owner for one in items}
    files = [file_at(fd, owners[fd]) for fd in fds]
    if pieces := put_beside(given, len(files)):
        made = MemoryFile(pieces)
        made.seal()
        files.append(made)
    return Moved(list(values), given, lists), files


def file_at(fd: int, owner: Any) -> MemoryFile:
    """The file of this descriptor, which `owner` keeps open. Raises Unavailable."""
    if isinstance(owner, MemoryFile):
        return owner
    try:
        return MemoryFile.of(os.dup(fd))
    except OSError as error:
        raise Unavailable(f"there is no room for large data now ({error.strerror}); try again in a moment") from None


def received(what: Moved, files: Sequence[MemoryFile]) -> dict[str, Value]:
    """The values that `moved` was given."""
    lists: dict[str, list[Item]] = {name: [] for name in what.lists}
    found: dict[str, Value] = {name: lists.get(name, []) for name in what.names}
    for given in what.given:
        one = item_of(given, files)
        if given.name in lists:
            lists[given.name].append(one)
        else:
            found[given.name] = one
    return found


def item_of(given: Part | Tensor, files: Sequence[MemoryFile]) -> Item:
    if given.file < 0:
        return Item(given)
    file = files[given.file]
    return Item(msgspec.structs.replace(given, file=0), file.fd, file)
