"""Writes the formats so that the same files give the same bytes: sorted, without times, owners and modes.

The manifest is written last, because it has the checksums of the files before it. Each file is read once, so the
manifest describes what was packed, even if a file changes meanwhile.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import os
import shutil
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import BinaryIO

from pdarchiver.errors import PackingError
from pdarchiver.manifest import MANIFEST_PATH, Manifest, dump
from pdarchiver.names import path_problem
from pdarchiver.reading import CHUNK_BYTES, Limits

_SAMPLE_BYTES = 1024**2
_WORTH = 0.95
"""A file is compressed if its first MiB shrinks below this share. Weights hardly ever do, and a stored file is read at
the speed of the disk."""
_DATE = (1980, 1, 1, 0, 0, 0)  # the earliest that a zip can hold
_DATE_SECONDS = 315532800


class _Hashing(io.RawIOBase):
    """A file that keeps the checksum and the number of the bytes read from it."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.digest = hashlib.sha256()
        self.count = 0

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1) -> bytes:
        data = self._file.read(size)
        self.digest.update(data)
        self.count += len(data)
        return data


def _members(
    sources: Mapping[str, Path], manifest: Manifest | None
) -> Iterator[tuple[str, int, io.RawIOBase | io.BytesIO]]:
    """Path, size and content of each file, the manifest last, if there is one. Read each content whole before the
    next."""
    digests = {}
    for path, source in sorted(sources.items()):
        with source.open("rb") as file:
            size_bytes = os.fstat(file.fileno()).st_size
            stream = _Hashing(file)
            yield path, size_bytes, stream
            if stream.count != size_bytes or file.read(1):
                raise PackingError(f"{source}: changed while it was packed; pack again")
            digests[path] = stream.digest.hexdigest()
    if manifest is None:
        return
    data = dump(replace(manifest, files=digests))
    yield MANIFEST_PATH, len(data), io.BytesIO(data)


def write_zip(
    target: Path, sources: Mapping[str, Path], manifest: Manifest, limits: Limits, *, store_only: bool
) -> None:
    """Write a zip. Files are deflated if that helps, and stored otherwise."""
    stored = {*sources, MANIFEST_PATH} if store_only else set()
    # Weights that are all zeros shrink so far that a reader must take them for a bomb. Store those after all.
    while bombs := _write_zip(target, sources, manifest, limits, frozenset(stored)):
        stored |= bombs


def write_files(target: Path, sources: Mapping[str, Path], limits: Limits) -> None:
    """Write a zip of these files alone."""
    stored: set[str] = set()
    while bombs := _write_zip(target, sources, None, limits, frozenset(stored)):
        stored |= bombs


def _write_zip(
    target: Path, sources: Mapping[str, Path], manifest: Manifest | None, limits: Limits, stored: frozenset[str]
) -> set[str]:
    """Write the archive, the files `stored` uncompressed. Returns those that were compressed too well."""
    with zipfile.ZipFile(target, "w") as archive:
        for path, size_bytes, stream in _members(sources, manifest):
            info = zipfile.ZipInfo(path, _DATE)
            info.create_system = 3  # Unix, whatever this system is, so that the mode counts
            info.external_attr = (stat.S_IFREG | 0o644) << 16
            info.file_size = size_bytes  # tells zipfile whether to write 64-bit sizes
            sample = stream.read(_SAMPLE_BYTES) or b""
            if path not in stored and len(zlib.compress(sample)) < _WORTH * len(sample):
                info.compress_type = zipfile.ZIP_DEFLATED
            with archive.open(info, "w") as member:
                member.write(sample)
                shutil.copyfileobj(stream, member, CHUNK_BYTES)
        infos = archive.infolist()
    return {info.filename for info in infos if limits.is_bomb(info.file_size, info.compress_size)}


def write_tar(target: Path, sources: Mapping[str, Path], manifest: Manifest, limits: Limits, top: str) -> None:
    """Write a tar.gz with everything below the folder `top`, as TorchServe does."""
    for path, source in sources.items():
        if problem := path_problem(f"{top}/{path}"):
            raise PackingError(f"{source}: its name in the archive, '{top}/{path}', {problem}")
    # As in a zip, a file that shrinks too far is stored, for which gzip has level 0.
    for level in (6, 0):
        unpacked_bytes = _write_tar(target, sources, manifest, top, level)
        if not limits.is_bomb(unpacked_bytes, target.stat().st_size):
            return


def _write_tar(target: Path, sources: Mapping[str, Path], manifest: Manifest, top: str, level: int) -> int:
    """Write the archive and return the tar's size in bytes before compression."""
    with (
        target.open("wb") as file,
        gzip.GzipFile("", "wb", level, file, mtime=0) as packed,
        tarfile.open(fileobj=packed, mode="w", format=tarfile.PAX_FORMAT) as archive,
    ):
        for path, size_bytes, stream in _members(sources, manifest):
            info = tarfile.TarInfo(f"{top}/{path}")
            info.size, info.mtime, info.mode = size_bytes, _DATE_SECONDS, 0o644
            archive.addfile(info, stream)
        archive.close()
        return packed.tell()


def write_folder(target: Path, sources: Mapping[str, Path], manifest: Manifest) -> None:
    """Write the files as they are, below the empty folder `target`."""
    for path, _, stream in _members(sources, manifest):
        file = target / path
        file.parent.mkdir(parents=True, exist_ok=True)
        with file.open("xb") as copy:
            shutil.copyfileobj(stream, copy, CHUNK_BYTES)
