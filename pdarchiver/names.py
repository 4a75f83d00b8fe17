"""Which file names an archive may contain. The same rules apply to packing and reading."""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass

MAX_PATH_BYTES = 1024
MAX_COMPONENT_BYTES = 255
MAX_DEPTH = 32

# Marks that change the reading direction make a name look like another one ("exe.py" for "yp.exe").
_DIRECTION_MARKS = frozenset("\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")
_FORBIDDEN_CATEGORIES = frozenset({"Cc", "Cs", "Zl", "Zp"})
# Harmless here, but another program may decode them later.
_ENCODED_DOT = re.compile("%2e", re.IGNORECASE)


def path_problem(path: str) -> str | None:
    """Why `path` may not be the name of a file in an archive (without a folder's final slash). None if it may."""
    if any(c in _DIRECTION_MARKS or c in "\\:" or unicodedata.category(c) in _FORBIDDEN_CATEGORIES for c in path):
        return "has a control character, a backslash, a colon or a mark of writing direction"
    if len(path.encode()) > MAX_PATH_BYTES:
        return f"is longer than {MAX_PATH_BYTES} bytes"
    if path.startswith("/"):
        return "is absolute"
    components = path.split("/")
    if len(components) > MAX_DEPTH:
        return f"is more than {MAX_DEPTH} levels deep"
    for component in components:
        if _ENCODED_DOT.sub(".", component) in {"", ".", ".."}:
            return "has a component that is empty, '.' or '..'"
        if len(component.encode()) > MAX_COMPONENT_BYTES:
            return f"has a component of more than {MAX_COMPONENT_BYTES} bytes"
        if component[-1] in " .":
            return "has a component that ends with a space or a dot"
    return None


@dataclass(frozen=True)
class _Taken:
    name: str
    folder: bool
    explicit: bool


class NameSet:
    """The names of one archive, which must stay different on every file system.

    Two names clash when they are equal after Unicode NFC and case folding, or when one is a file and the other needs
    it to be a folder.
    """

    def __init__(self) -> None:
        self._taken: dict[str, _Taken] = {}

    def add(self, path: str, *, folder: bool = False) -> str | None:
        """Claim `path` and the folders above it. Returns the earlier name that it clashes with, or None."""
        components = path.split("/")
        for depth in range(1, len(components)):
            clash = self._claim(_Taken("/".join(components[:depth]), folder=True, explicit=False))
            if clash is not None:
                return clash
        return self._claim(_Taken(path, folder=folder, explicit=True))

    def _claim(self, new: _Taken) -> str | None:
        key = unicodedata.normalize("NFC", unicodedata.normalize("NFC", new.name).casefold())
        old = self._taken.setdefault(key, new)
        if old is new:
            return None
        if old.name != new.name or not (old.folder and new.folder) or (old.explicit and new.explicit):
            return old.name
        if new.explicit:
            self._taken[key] = new
        return None
