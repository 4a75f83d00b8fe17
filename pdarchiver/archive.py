"""Archives on disk: inspect, verify and unpack them. Packing is in `pack.py`; `pack` can be imported from here too."""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
import stat
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from pdarchiver import manifest as manifests
from pdarchiver import untar, unzip
from pdarchiver.errors import InvalidArchive, InvalidManifest, InvalidPipeline
from pdarchiver.manifest import MANIFEST_PATHS, MAX_MANIFEST_BYTES, Manifest
from pdarchiver.pack import PackOptions, pack
from pdarchiver.pipeline.graph import Pipeline
from pdarchiver.pipeline.named import check_named
from pdarchiver.pipeline.reading import read as read_pipeline
from pdarchiver.reading import CHUNK_BYTES, Entry, FolderReader, Limits, Reader
from pdarchiver.safe_yaml import MAX_YAML_BYTES
from pdarchiver.staging import staged_folder

__all__ = [
    "ArchiveInfo",
    "Entry",
    "Limits",
    "PackOptions",
    "inspect",
    "pack",
    "read_manifest",
    "sha256",
    "unpack",
    "unpack_some",
    "verify",
]

_DEFAULT_LIMITS = Limits()


@dataclass(frozen=True)
class ArchiveInfo:
    """The result of `inspect`."""

    format: str
    """"zip", "tar.gz" or "folder"."""
    size_bytes: int
    """The size of the archive's file; for a folder, of all files together."""
    entries: tuple[Entry, ...]
    manifest: Manifest
    pipeline: Pipeline | None = None
    """None: it holds no pipeline."""


def inspect(path: Path, limits: Limits = _DEFAULT_LIMITS) -> ArchiveInfo:
    """Read an archive's listing, its manifest, and the pipeline that this names, without checking other files.

    `path` is a zip (`.pdar`, `.mar`), a `.tar.gz`, or a folder; its content tells which. Raises InvalidArchive,
    InvalidManifest, InvalidPipeline, OSError.
    """
    with _reader(path, limits) as reader:
        manifest_path = _manifest_entry(reader).path
        data = next(b"".join(chunks) for entry, chunks in reader.contents() if entry.path == manifest_path)
        files_bytes = sum(entry.size_bytes for entry in reader.entries)
        size_bytes = files_bytes if path.is_dir() else path.stat().st_size
        manifest = manifests.parse(data)
        return ArchiveInfo(reader.format, size_bytes, reader.entries, manifest, _pipeline(path, limits, manifest))


def verify(path: Path, limits: Limits = _DEFAULT_LIMITS) -> Manifest:
    """Read a whole archive and compare it with its manifest: each file's sha256, nothing missing, nothing added.

    An archive of TorchServe has no checksums in its manifest (`Manifest.has_checksums`). Then only the format's own
    are checked. Of a pipeline, the files that it names are looked for as well. Raises InvalidArchive, InvalidManifest,
    InvalidPipeline, OSError.
    """
    with _reader(path, limits) as reader:
        manifest_path = _manifest_entry(reader).path
        digests, data = {}, b""
        for entry, chunks in reader.contents():
            if entry.path == manifest_path:
                data = b"".join(chunks)
            else:
                digests[entry.path] = _digest(chunks)
        manifest = manifests.parse(data)
        manifest.check_files(digests)
        if pipeline := _pipeline(path, limits, manifest):
            check_named(pipeline, {entry.path for entry in reader.entries})
        return manifest


def unpack(
    source: Path | BinaryIO, destination: Path, limits: Limits = _DEFAULT_LIMITS, *, default: Manifest | None = None
) -> Manifest:
    """Unpack an archive into the new folder `destination`, and verify it as `verify` does.

    `default` is the manifest for an archive that has none. Without it, such an archive is refused. `source` may be an
    open file, for a caller that must be sure of what it opened. The archive is unpacked beside `destination`, flushed
    to the disk, and renamed if all is well. Otherwise nothing is left. The folders have mode 0700, the files 0600,
    whatever the archive says.

    Raises InvalidArchive or InvalidManifest for an archive that is damaged or breaks a rule or a limit, OSError if the
    disk is full or `destination` exists.
    """
    if destination.exists() or destination.is_symlink():
        raise FileExistsError(errno.EEXIST, "exists already", str(destination))
    with _reader(source, limits) as reader:
        described = _find_manifest(reader) if default else _manifest_entry(reader)
        _check_free_space(reader, destination.parent)
        with staged_folder(destination, mode=0o700) as stage:
            for entry in reader.entries:
                folder = stage / entry.path if entry.folder else (stage / entry.path).parent
                _make_folders(folder, stage)
            digests = {entry.path: _write(stage / entry.path, chunks) for entry, chunks in reader.contents()}
            if described:
                del digests[described.path]
            manifest = read_manifest(stage, default)
            manifest.check_files(digests)
    return manifest


def unpack_some(source: Path, wanted: Collection[str], destination: Path, limits: Limits = _DEFAULT_LIMITS) -> None:
    """Write those files of an archive that are `wanted`, or lie in wanted folders, below the folder `destination`.

    Raises InvalidArchive, OSError.
    """
    with _reader(source, limits) as reader:
        for entry, chunks in reader.contents():
            if any(entry.path == path or entry.path.startswith(f"{path}/") for path in wanted):
                _make_folders((destination / entry.path).parent, destination)
                _write(destination / entry.path, chunks)


def read_manifest(directory: Path, default: Manifest | None = None) -> Manifest:
    """The manifest of an unpacked archive, or `default` if it has none.

    Raises InvalidArchive if there is neither, InvalidManifest, OSError.
    """
    for path in MANIFEST_PATHS:
        if (directory / path).is_file():
            with (directory / path).open("rb") as file:
                return manifests.parse(file.read(MAX_MANIFEST_BYTES + 1))
    if default is not None:
        return default
    raise _no_manifest()


def sha256(source: Path | BinaryIO) -> str:
    """The sha256 of an archive's file, in hexadecimal."""
    with _opened(source) as file:
        file.seek(0)
        return _digest(iter(lambda: file.read(CHUNK_BYTES), b""))


def _pipeline(path: Path, limits: Limits, manifest: Manifest) -> Pipeline | None:
    """The pipeline that the manifest names. Raises InvalidArchive, InvalidPipeline."""
    file = manifest.pipeline
    if file is None:
        return None
    with _reader(path, limits) as reader:
        if not any(entry.path == file and entry.size_bytes <= MAX_YAML_BYTES for entry in reader.entries):
            raise InvalidArchive(f"the manifest names {file}: not in the archive, or more than {MAX_YAML_BYTES} bytes")
        data = next(b"".join(chunks) for entry, chunks in reader.contents() if entry.path == file)
        return read_pipeline(data, file)


@contextmanager
def _reader(source: Path | BinaryIO, limits: Limits) -> Iterator[Reader]:
    """The reader for what is at `source`. Errors inside the block get the name of the source."""
    try:
        if isinstance(source, Path) and source.is_dir():
            yield FolderReader(source, limits)
            return
        with _opened(source) as file:
            if problem := limits.size_problem(file.seek(0, os.SEEK_END)):
                raise InvalidArchive(problem)
            file.seek(0)
            start = file.read(4)
            if start in unzip.SIGNATURES:
                yield unzip.ZipReader(file, limits)
            elif start.startswith(untar.SIGNATURE):
                yield untar.TarReader(file, limits)
            else:
                found = "an empty file" if not start else f"its first bytes are {start!r}"
                raise InvalidArchive(f"neither a zip (.pdar, .mar) nor a tar.gz: {found}")
    except (InvalidArchive, InvalidManifest, InvalidPipeline) as error:
        raise error.within(str(source if isinstance(source, Path) else getattr(source, "name", "archive"))) from None


@contextmanager
def _opened(source: Path | BinaryIO) -> Iterator[BinaryIO]:
    if not isinstance(source, Path):
        yield source
        return
    # O_NONBLOCK, because a FIFO would block in open(). Devices are refused below, because they have no end.
    with os.fdopen(os.open(source, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK), "rb") as file:
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            raise InvalidArchive("not a regular file")
        yield file


def _manifest_entry(reader: Reader) -> Entry:
    entry = _find_manifest(reader)
    if entry is None:
        raise _no_manifest()
    if entry.size_bytes > MAX_MANIFEST_BYTES:
        raise InvalidArchive(f"{entry.path} is longer than {MAX_MANIFEST_BYTES} bytes")
    return entry


def _find_manifest(reader: Reader) -> Entry | None:
    found = {entry.path: entry for entry in reader.entries if not entry.folder}
    return next((found[path] for path in MANIFEST_PATHS if path in found), None)


def _no_manifest() -> InvalidArchive:
    return InvalidArchive(f"has no {' or '.join(MANIFEST_PATHS)}; pack the model with pd-model-archiver")


def _check_free_space(reader: Reader, folder: Path) -> None:
    needed_bytes = sum(entry.size_bytes for entry in reader.entries) * 11 // 10
    free_bytes = shutil.disk_usage(folder).free
    if needed_bytes > free_bytes:
        raise OSError(errno.ENOSPC, f"unpacking needs {needed_bytes} bytes, {free_bytes} are free", str(folder))


def _make_folders(folder: Path, stage: Path) -> None:
    if folder != stage and not folder.exists():
        _make_folders(folder.parent, stage)
        folder.mkdir(mode=0o700)


def _write(path: Path, chunks: Iterable[bytes]) -> str:
    """Write a new file. Returns its sha256."""
    digest = hashlib.sha256()
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    with os.fdopen(fd, "wb") as file:
        for chunk in chunks:
            digest.update(chunk)
            file.write(chunk)
    return digest.hexdigest()


def _digest(chunks: Iterable[bytes]) -> str:
    digest = hashlib.sha256()
    for chunk in chunks:
        digest.update(chunk)
    return digest.hexdigest()
