"""model_store on disk: a name → a verified, unpacked directory, shared by content hash.

An archive is unpacked once into <run directory>/archives/<sha256>, however many versions and workers use it, and
removed when the last of them is gone. Replacing or deleting its file in the store does not touch what is loaded. When
somebody else, such as a cleaner, has removed files of the directory, opening the archive again unpacks it anew.
Archives are named by plain file names; no name reaches anything outside the store.
"""

from __future__ import annotations

import os
import re
import shutil
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import BinaryIO
from zipfile import is_zipfile

from pdarchiver import archive
from pdarchiver.errors import ArchiveError
from pdarchiver.manifest import Manifest
from pdarchiver.reading import Limits
from pdserver.configuration.sources import is_url
from pdserver.errors import ArchiveUnusable, Forbidden, InvalidRequest, ModelNotFound, PdError, Unavailable
from pdserver.formats.values import nearest, shown
from pdserver.security.models import check_folder
from pdserver.store import pipelines
from pdserver.store.model import SUFFIXES, StoredModel, reason, stored_model, suffix
from pdserver.store.model_folders import digest_of, has_manifest, is_served, open_model
from pdserver.store.unpacked import UnpackedArchives
from pdserver.system.folders import make_folder

_COPY_BYTES = 1024 * 1024
_NO_MANIFEST = Manifest(model_name=None)
"""For archives without one, which TorchServe serves: the file gives the name, the call or configuration the handler."""


class Store:
    """Gives out archives. Its methods block and may be called from any thread.

    `run_directory` belongs to this server alone: what an earlier run left in its `archives` folder is removed.
    """

    def __init__(
        self,
        model_store: Path | None,
        run_directory: Path,
        limits: Limits = Limits(),  # noqa: B008 (frozen)
        *,
        allow_unsafe: bool = False,
        title: str = "model store",
        suffixes: tuple[str, ...] = SUFFIXES,
    ) -> None:
        """Without a `model_store`, no name is found. With `allow_unsafe`, models that come over the network may do more
        than compute. `title` is what errors call the store, and `suffixes` are those of its archives' names. Raises
        ConfigError when the run directory cannot be used."""
        self._limits = limits
        self._allow_unsafe = allow_unsafe
        self._title = title
        self._suffixes = suffixes
        self._store = model_store.resolve() if model_store else None
        self._unpacked = UnpackedArchives(run_directory.resolve() / "archives")

    def names(self) -> list[str]:
        """The names of all archives, and of all folders with a manifest or a model, sorted, without the hidden ones.

        Raises Unavailable when the store itself cannot be read.
        """
        if self._store is None:
            return []
        try:
            visible = [path for path in self._store.iterdir() if not path.name.startswith(".")]
        except OSError as error:
            raise Unavailable(f"{self._title} {self._store}: {reason(error)}") from None
        return sorted(path.name for path in visible if (_is_served(path) if path.is_dir() else self._is_archive(path)))

    def open(self, url: str, path: Path | None = None, sha256: str | None = None) -> StoredModel:
        """Verify and unpack the archive named `url`, or find it unpacked; give it back with `release`.

        `path` is where the file is, when it is not in the store. `sha256` is what its bytes must have, in lower case.
        A folder is served in place, also one with a model and without a manifest. Raises InvalidRequest for what is
        not a plain file name, Forbidden for what is outside the store and for what came over the network and does more
        than compute, ModelNotFound, ArchiveUnusable for what is not a sound archive or not the one with this `sha256`,
        Unavailable when it cannot be unpacked now (a full disk).
        """
        model = self._open(url, path or self._find(url), sha256)
        try:
            return pipelines.opened(model, self._open, self.release)
        except BaseException:
            self.release(model)
            raise

    def glance(self, url: str) -> Manifest | None:
        """The manifest of an archive or folder of the store, without looking at anything else; None where that would
        take long, or `open` may say why not."""
        try:
            path = self._find(url)
            return archive.inspect(path, self._limits).manifest if path.is_dir() or is_zipfile(path) else None
        except (PdError, ArchiveError, OSError):
            return None

    def _open(self, url: str, path: Path, sha256: str | None = None) -> StoredModel:
        if path.is_dir():
            if sha256:
                raise InvalidRequest(f"{shown(url)}: a folder, which has no sha256: pack it into an archive")
            return self._open_folder(url, path)
        try:
            make_folder(self._unpacked.folder, 0o700)  # it is there, unless a cleaner has removed it
        except OSError as error:
            raise self._no_room(url, error) from None
        with self._opened(url, path, private=sha256 is not None) as file:
            digest = archive.sha256(file)
            if sha256 not in (None, digest):
                raise ArchiveUnusable(
                    f"{shown(url)}: its sha256 is {digest}, not {sha256}: not the archive that is meant"
                )
            return self._open_archive(url, file, digest, pinned=sha256 is not None)

    def _is_archive(self, path: Path) -> bool:
        return bool(suffix(path.name, self._suffixes)) and path.is_file()

    def is_whole(self, model: StoredModel) -> bool:
        """Whether all that `open` unpacked for it is still there; else, opening its `digest` again brings it back."""
        own = model.directory.parent != self._unpacked.folder or self._unpacked.is_whole(model.digest)
        return own and all(map(self.is_whole, model.nested.values()))

    def release(self, model: StoredModel) -> None:
        """Take back what `open` gave; the last release of a directory removes it. A folder of the store stays."""
        for nested in model.nested.values():
            self.release(nested)
        if model.directory.parent == self._unpacked.folder:
            self._unpacked.release(model.digest)

    def _find(self, url: str) -> Path:
        """The path of `url` with symbolic links resolved, which is in the store."""
        if is_url(url):
            raise Forbidden(
                f"{shown(url)}: archives are loaded from the {self._title} alone: copy it there, name the file"
            )
        if self._store is None:
            flag = f"--{self._title.replace(' ', '-')} FOLDER"
            raise ModelNotFound(f"{shown(url)}: there is no {self._title}: start the server with {flag}")
        if not url or url.startswith(".") or not url.isprintable() or re.search(r"[/\\]", url) or len(url) > 255:
            raise InvalidRequest(
                f"url={shown(url)}: expected the name of a file in the {self._title}, such as digits{self._suffixes[0]}"
            )
        try:
            path = (self._store / url).resolve(strict=True)
        except (FileNotFoundError, NotADirectoryError):
            raise ModelNotFound(f"{shown(url)}: not in the {self._title}{nearest(url, self.names())}") from None
        except (OSError, RuntimeError) as error:
            raise ArchiveUnusable(f"{shown(url)}: {getattr(error, 'strerror', None) or 'a loop of links'}") from None
        if not path.is_relative_to(self._store):
            raise Forbidden(f"{shown(url)}: a link that leads out of the {self._title}: copy the archive into it")
        return path

    def _open_folder(self, url: str, path: Path) -> StoredModel:
        try:
            if is_served(path) and not has_manifest(path):
                return open_model(url, path, self._unpacked)
            default = pipelines.manifest_of(path) if pipelines.is_pipeline(path) else _NO_MANIFEST
            manifest = archive.read_manifest(path, default if any(path.iterdir()) else None)
        except (ArchiveError, OSError) as error:
            raise ArchiveUnusable(f"{shown(url)}: {_within(path, reason(error))}") from None
        return stored_model(url, path, digest_of(manifest.raw), manifest)

    def _open_archive(self, url: str, file: BinaryIO, digest: str, *, pinned: bool) -> StoredModel:
        try:
            directory, manifest = self._unpacked.hold(digest, partial(self._unpack, url, file, digest))
        except OSError as error:
            raise self._no_room(url, error) from None
        try:
            remote = url.startswith(("http:", "https:"))
            if remote and not self._allow_unsafe:
                check_folder(directory)
            return stored_model(url, directory, digest, manifest, digest if pinned or remote else None)
        except BaseException:
            self._unpacked.release(digest)
            raise

    def _unpack(self, url: str, file: BinaryIO, digest: str, directory: Path) -> Manifest:
        """Unpack the open file that `digest` was read from, so that a file put in its place cannot slip in."""
        try:
            default = None if url.lower().endswith(".pdar") else _NO_MANIFEST
            manifest = archive.unpack(file, directory, self._limits, default=default)
        except ArchiveError as error:
            raise ArchiveUnusable(f"{shown(url)}: {str(error).removeprefix(f'{file.name}: ')}") from None
        if archive.sha256(file) != digest:
            shutil.rmtree(directory)
            raise ArchiveUnusable(f"{shown(url)}: the file was changed while it was read: try again")
        return manifest

    def _no_room(self, url: str, error: OSError) -> Unavailable:
        return Unavailable(f"{shown(url)}: cannot be unpacked in {self._unpacked.folder}: {reason(error)}")

    @contextmanager
    def _opened(self, url: str, path: Path, *, private: bool) -> Iterator[BinaryIO]:
        """The archive's file, opened without following a link again and without waiting for a pipe.

        With `private`, it is a copy that nobody else can change between the check of its sha256 and its use.
        """
        if not suffix(url, self._suffixes):
            raise ArchiveUnusable(
                f"{shown(url)}: not the name of an archive: expected {', '.join(self._suffixes)} or a folder"
            )
        try:
            file = open(  # noqa: SIM115 (closed below)
                path, "rb", opener=lambda name, flags: os.open(name, flags | os.O_NOFOLLOW | os.O_NONBLOCK)
            )
        except OSError as error:
            raise ArchiveUnusable(f"{shown(url)}: cannot be opened: {reason(error)}") from None
        with file:
            state = os.fstat(file.fileno())
            if not stat.S_ISREG(state.st_mode):
                raise ArchiveUnusable(f"{shown(url)}: not a regular file")
            if problem := self._limits.size_problem(state.st_size):
                raise ArchiveUnusable(f"{shown(url)}: {problem}")
            try:
                if not private:
                    yield file
                    return
                with self._copied(url, file) as copy:
                    yield copy
            except OSError as error:
                raise ArchiveUnusable(f"{shown(url)}: cannot be read: {reason(error)}") from None

    @contextmanager
    def _copied(self, url: str, file: BinaryIO) -> Iterator[BinaryIO]:
        with tempfile.TemporaryFile(dir=self._unpacked.folder) as copy:
            try:
                shutil.copyfileobj(file, copy, _COPY_BYTES)
            except OSError as error:
                raise Unavailable(
                    f"{shown(url)}: cannot be copied to {self._unpacked.folder}: {reason(error)}"
                ) from None
            yield copy


def _within(folder: Path, text: str) -> str:
    """An error's text for clients. It names files by their place in the folder, not on the disk."""
    return text.removeprefix(f"{folder}: ").replace(f"{folder}/", "")


def _is_served(folder: Path) -> bool:
    return is_served(folder) or pipelines.is_pipeline(folder)
