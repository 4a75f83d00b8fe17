"""Which files go into an archive, and under which names."""

from __future__ import annotations

import glob
import os
from collections.abc import Iterator
from pathlib import Path

from pdarchiver.errors import PackingError
from pdarchiver.manifest import MANIFEST_PATHS
from pdarchiver.names import NameSet, path_problem
from pdarchiver.reading import Limits

# Files that systems and tools leave in folders are not part of a model, nor are folders whose names begin with a dot.
_JUNK_FOLDERS = frozenset({"__pycache__", "__MACOSX"})
_JUNK_FILES = frozenset({".DS_Store", "Thumbs.db"})
_RESERVED = frozenset(path.partition("/")[0].casefold() for path in MANIFEST_PATHS)


class Contents:
    """Collects an archive's files. Raises PackingError for names that clash or that an archive may not contain."""

    def __init__(self, limits: Limits) -> None:
        self.sources: dict[str, Path] = {}
        """Path in the archive → file on disk."""
        self._limits = limits
        self._names = NameSet()
        self._total_bytes = 0

    def add(self, path: str, source: Path) -> None:
        """Put the file `source` into the archive as `path`. The same file may be named twice."""
        if not source.is_file():
            raise PackingError(f"{source}: {'not a file' if source.exists() else 'no such file'}")
        if path in self.sources and self.sources[path].samefile(source):
            return
        if problem := path_problem(path):
            raise PackingError(f"{source}: its name in the archive, {path!r}, {problem}")
        if path.partition("/")[0].casefold() in _RESERVED:
            raise PackingError(f"{source}: {path!r} is where the manifest is kept; rename the folder")
        if (clash := self._names.add(path)) is not None:
            first = self.sources.get(clash) or next(
                file for name, file in self.sources.items() if name.startswith(f"{clash}/")
            )
            raise PackingError(f"{first} and {source} would both be {path!r} in the archive; rename one of them")
        self.sources[path] = source
        self._total_bytes += source.stat().st_size
        if len(self.sources) >= self._limits.entries or self._total_bytes > self._limits.unpacked_bytes:
            raise PackingError(
                f"{source}: with it the archive would pass the limit of {self._limits.entries} files or "
                f"{self._limits.unpacked_bytes} bytes"
            )

    def add_below(self, path: str, source: Path) -> None:
        """Put a file into the archive as `path`, or the files of a folder below it."""
        if not source.is_dir():
            self.add(path, source)
            return
        for file in _walk(source):
            self.add(f"{path}/{file.relative_to(source).as_posix()}", file)

    def add_extra(self, item: str) -> None:
        """Add the files of one item of --extra-files: a file, a folder, or a glob of both.

        A file goes to the top of the archive. The folder `a/b` becomes `b/…` with everything below it. With a slash at
        the end, `a/b/`, its contents go to the top.
        """
        found = [item] if os.path.lexists(item) else sorted(glob.glob(item))  # noqa: PTH207 (keeps the final slash)
        if not found:
            problem = "matches nothing" if glob.has_magic(item) else "no such file or folder"
            raise PackingError(f"--extra-files {item}: {problem}")
        for text in found:
            path = Path(text)
            if not path.is_dir():
                self.add(path.name, path)
                continue
            top = "" if text.endswith("/") or path.name in ("", "..") else f"{path.name}/"
            for file in _walk(path):
                self.add(top + file.relative_to(path).as_posix(), file)


def _walk(folder: Path) -> Iterator[Path]:
    for path in sorted(folder.iterdir()):
        if path.is_dir():
            if path.name in _JUNK_FOLDERS or path.name.startswith("."):
                continue
            if path.is_symlink():
                raise PackingError(f"{path}: a link to a folder; name the folder itself in --extra-files")
            yield from _walk(path)
        elif path.name not in _JUNK_FILES:
            yield path
