"""Archives on a node's disk, by the digests of their bytes."""

from __future__ import annotations

import asyncio
import hashlib
import os
import sys
import time
from collections import defaultdict
from collections.abc import AsyncIterator, Iterable
from contextlib import ExitStack, asynccontextmanager
from pathlib import Path
from typing import BinaryIO

from pdarchiver import archive as archives
from pdarchiver.staging import staged_file
from pdserver.cluster.base import PIECE_BYTES, Archive, Holder
from pdserver.errors import ArchiveUnusable, ModelNotFound, Unavailable
from pdserver.formats.values import SHA256, shown
from pdserver.store.model import SUFFIXES, suffix
from pdserver.system.folders import make_folder

_KEPT_SECONDS = 60.0
_PIECE_SECONDS = 15.0
"""For a piece, from a holder that may be gone without a word."""


class NoRoom(Unavailable):
    """The disk takes no more; `bytes` were to be written."""

    def __init__(self, message: str, bytes: int = 0) -> None:
        super().__init__(message)
        self.bytes = bytes


class Archives:
    """The files of a folder, each named by its digest and the suffix of its kind.

    A file is there whole or not at all. However many ask for one at a time, it is fetched once.
    """

    def __init__(self, folder: Path, kept_seconds: float = _KEPT_SECONDS) -> None:
        """An archive that was asked for just now stays for `kept_seconds`, though nobody needs it yet. Raises OSError
        when the folder can't be made."""
        make_folder(folder, 0o700)
        self.folder = folder
        self._kept_seconds = kept_seconds
        self._turns: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)

    def digests(self) -> tuple[str, ...]:
        """Of the archives that are there, sorted."""
        return tuple(sorted(self._files()))

    def has(self, archive: Archive) -> bool:
        return (self.folder / self.name(archive)).is_file()

    def name(self, archive: Archive) -> str:
        """The name of its file in the folder. Raises ArchiveUnusable for no digest."""
        return _checked(archive.sha256) + (suffix(archive.file, SUFFIXES) or SUFFIXES[0])

    async def fetch(self, archive: Archive, holder: Holder) -> None:
        """Have the archive, from `holder` unless it is there.

        Raises what the holder raises, Unavailable when it does not answer, NoRoom when the disk does not take it, and
        ArchiveUnusable when the bytes are not those of the digest.
        """
        path = self.folder / self.name(archive)
        async with self._turns[archive.sha256]:
            try:
                os.utime(path)  # whoever asks has yet to say that it is needed
            except FileNotFoundError:
                try:
                    async with _staged(path) as file:
                        await _copy(file, archive, holder)
                except OSError as error:
                    problem = f"{archive.file}: can't be written to {self.folder}: {error.strerror}"
                    raise NoRoom(problem, archive.size) from None

    async def piece(self, sha256: str, offset: int) -> bytes:
        """As a `Holder`."""
        path = self._files().get(_checked(sha256))
        if path is None:
            raise ModelNotFound(f"no archive here has the sha256 {sha256}")
        return await asyncio.to_thread(read_piece, path, offset)

    async def is_sound(self, archive: Archive) -> bool:
        """Whether it is there with the bytes of its digest. A file with others is removed."""
        path = self.folder / self.name(archive)
        async with self._turns[archive.sha256]:
            return await asyncio.to_thread(_check, path, archive.sha256)

    async def keep_only(self, sha256s: Iterable[str]) -> None:
        """Remove the archives that nobody needs any more, except those that were asked for just now."""
        await asyncio.to_thread(self._remove_all_but, set(sha256s))

    def _remove_all_but(self, kept: set[str]) -> None:
        since = time.time() - self._kept_seconds
        for sha256, path in self._files().items():
            if sha256 not in kept and path.stat().st_mtime <= since:
                path.unlink(missing_ok=True)

    def _files(self) -> dict[str, Path]:
        """By their digests. The names of those that are being written begin with a dot."""
        by_digest = {path.name.partition(".")[0]: path for path in self.folder.iterdir()}
        return {digest: path for digest, path in by_digest.items() if SHA256.fullmatch(digest)}


@asynccontextmanager
async def _staged(path: Path) -> AsyncIterator[BinaryIO]:
    """A file that is at `path` once it is whole. Threads make it and put it on the disk, which may be slow."""
    stack = ExitStack()
    stage = await asyncio.to_thread(stack.enter_context, staged_file(path))
    try:
        with stage.open("wb") as file:
            yield file
    except BaseException:
        stack.__exit__(*sys.exc_info())
        raise
    await asyncio.to_thread(stack.close)


async def _copy(file: BinaryIO, archive: Archive, holder: Holder) -> None:
    digest = hashlib.sha256()
    offset = 0
    while data := await _piece(archive, holder, offset):
        offset += len(data)
        digest.update(data)
        await asyncio.to_thread(file.write, data)
        if offset > archive.size:
            break
    if offset != archive.size or digest.hexdigest() != archive.sha256:
        raise ArchiveUnusable(
            f"{archive.file}: what came is not the archive with the sha256 {archive.sha256} ({archive.size:,} bytes):"
            f" {offset:,} bytes with the sha256 {digest.hexdigest()}"
        )


async def _piece(archive: Archive, holder: Holder, offset: int) -> bytes:
    """Raises what the holder raises, and Unavailable when it does not answer."""
    try:
        return await asyncio.wait_for(holder.piece(archive.sha256, offset), _PIECE_SECONDS)
    except asyncio.TimeoutError:
        problem = f"{archive.file}: who has it has not answered for {_PIECE_SECONDS:.0f} s"
        raise Unavailable(problem) from None


def read_piece(path: Path, offset: int) -> bytes:
    """As a `Holder` gives it."""
    with path.open("rb") as file:
        file.seek(offset)
        return file.read(PIECE_BYTES)


def _check(path: Path, sha256: str) -> bool:
    if not path.is_file():
        return False
    if archives.sha256(path) == sha256:
        return True
    path.unlink(missing_ok=True)
    return False


def _checked(sha256: str) -> str:
    """It becomes the name of a file. Raises ArchiveUnusable."""
    if not SHA256.fullmatch(sha256):
        raise ArchiveUnusable(f"{shown(sha256)}: expected a sha256: 64 hexadecimal digits in lower case")
    return sha256
