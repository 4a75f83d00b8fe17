"""All errors that this package raises on purpose.

ArchiveError                 the text says what was wrong and what is expected
├── InvalidArchive           not an archive, damaged, or refused by a safety rule
├── InvalidManifest          a field of the manifest is wrong; `pointer` says which
├── InvalidModel             the model's files are not a Paddle model, or do not belong together
├── InvalidText              a text file of a model is wrong; says the line
├── UnsafeModel              the model does more than compute, or that can't be ruled out
├── InvalidPipeline          a pipeline.yaml is wrong; `place` says where
└── PackingError             the requested archive cannot be packed

The only other error is OSError, for a full disk or a folder that is not writable.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class ArchiveError(Exception):
    """The root of all errors. Users see `str(error)`."""


class InvalidArchive(ArchiveError):
    def within(self, archive: str) -> InvalidArchive:
        """The same error, naming the archive."""
        return InvalidArchive(f"{archive}: {self}")


class InvalidManifest(ArchiveError):
    """`pointer` is the JSON pointer (RFC 6901) of the field that is wrong, "" for the whole document."""

    def __init__(self, pointer: str, problem: str, archive: str = "") -> None:
        super().__init__(f"{archive + ': ' if archive else ''}manifest{' ' + pointer if pointer else ''}: {problem}")
        self.pointer = pointer
        self.problem = problem

    def within(self, archive: str) -> InvalidManifest:
        """The same error, naming the archive."""
        return InvalidManifest(self.pointer, self.problem, archive)


class InvalidModel(ArchiveError):
    pass


class InvalidText(ArchiveError):
    def __init__(self, title: str, line: int, problem: str) -> None:
        super().__init__(f"{title}: line {line}: {problem}")


class UnsafeModel(ArchiveError):
    pass


class InvalidPipeline(ArchiveError):
    """`place` is the way to what is wrong, such as `nodes.find.inputs.map`; "" for the whole file."""

    def __init__(self, place: str, problem: str, where: str = "") -> None:
        super().__init__(": ".join(part for part in (where, place, problem) if part))
        self.place = place
        self.problem = problem
        self.where = where

    def within(self, where: str) -> InvalidPipeline:
        """The same error, naming the file, or the archive that the file is in."""
        return InvalidPipeline(self.place, self.problem, ": ".join(part for part in (where, self.where) if part))


class PackingError(ArchiveError):
    pass


def nearest(word: str, known: Iterable[str]) -> str:
    """A hint for an error's text: " (did you mean 'x'?)", or nothing when no known word is like this one."""
    matches = difflib.get_close_matches(word, list(known), n=1)
    return f" (did you mean {matches[0]!r}?)" if matches else ""
