"""Folders that others write to: what is in them, and when it has come to rest. All of it blocks."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import Generic, TypeVar

_MAX_FILES = 10_000
_T = TypeVar("_T")

Stamp = tuple[tuple[str, int, int, int], ...]
"""Path, size, time of change and inode of files. It is equal as long as nobody writes to them."""


def stamp(path: Path, skip: Iterable[str] = ()) -> Stamp:
    """The stamp of all files below `path`, but for those that are named `skip` in `path` itself. Links to nothing or to
    themselves do not count, nor do files that can't be reached. Raises OSError for too many files and folders, which
    may be links to folders that they are in."""
    found = []
    looked = 0
    for folder, folders, files in os.walk(path, followlinks=True):
        inside = Path(folder).relative_to(path)
        folders[:] = sorted(name for name in folders if not (folder == str(path) and name in skip))
        for name in sorted(files):
            if folder == str(path) and name in skip:
                continue
            try:
                state = Path(folder, name).stat()
            except OSError:
                continue  # such a link, or somebody removes it just now
            found.append((str(inside / name), state.st_size, state.st_mtime_ns, state.st_ino))
        looked += 1 + len(files)
        if looked > _MAX_FILES:
            raise OSError(f"{path} has more than {_MAX_FILES} files and folders")
    return tuple(found)


class Settling(Generic[_T]):
    """Tells what has changed in places that others write to. A change counts when two looks in a row find the same, so
    that nothing half-copied is taken."""

    def __init__(self) -> None:
        self.seen: Mapping[str, _T] = {}
        """What the last look found, by name."""
        self.taken: dict[str, _T] = {}
        """What the owner has made of it."""

    def look(self, found: Mapping[str, _T], again: Collection[str] = ()) -> tuple[dict[str, _T | None], bool]:
        """What differs from `taken`, or is named by `again`, and was the same at the last look; None: it is gone. Also
        whether nothing else differs."""
        before, self.seen = self.seen, found
        changed = {
            name: found.get(name)
            for name in found.keys() | self.taken.keys()
            if name in again or found.get(name) != self.taken.get(name)
        }
        still = {name: look for name, look in changed.items() if look == before.get(name)}
        return still, len(still) == len(changed)
