"""model_store on disk: a name → a verified, unpacked directory, shared by content hash.

An archive is unpacked once into <run directory>/archives/<sha256>, however many versions and workers use it, and
removed when the last of them is gone; replacing or deleting the file in the store does not touch what is loaded. When
somebody else has removed files there, such as a cleaner, opening the archive again unpacks it anew.
Archives are named by plain file names; nothing outside the store can be reached, by whatever name.
"""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import json
import os
import re
import shutil
import stat
import tempfile
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, Protocol

from pdarchiver import archive
from pdarchiver.errors import ArchiveError
from pdarchiver.manifest import MANIFEST_PATHS, Manifest
from pdarchiver.reading import Limits
from pdserver.configuration.model import parse_model_config
from pdserver.configuration.sources import is_url
from pdserver.errors import ArchiveUnusable, ConfigError, Forbidden, InvalidRequest, ModelNotFound, Unavailable
from pdserver.formats.values import nearest, shown
from pdserver.security.models import check_folder
from pdserver.system.folders import make_folder
from pdserver.types import ModelSettings

SUFFIXES = (".pdar", ".mar", ".tar.gz", ".tgz", ".zip")
_COPY_BYTES = 1024 * 1024
_NO_MANIFEST = Manifest(model_name=None)
"""TorchServe serves archives without one: the file gives the name; the call or the configuration, the handler."""


@dataclass(frozen=True)
class StoredModel:
    """An archive that is open for use: `directory` stays as it is until `Store.release`."""

    url: str
    """Its file name in the store, or where else it came from."""
    directory: Path
    digest: str
    """sha256 in hexadecimal: of the archive's bytes, or, of a folder, of its manifest."""
    manifest: Manifest
    settings: ModelSettings
    """What the model's own YAML says."""
    model_config: dict[str, Any]
    """That YAML, whole; empty without one."""
    pin: str | None = None
    """The sha256 that it has to have whenever it is opened again; None: whatever lies in the store then."""

    @property
    def handler(self) -> str | None:
        """What the manifest names; None when it names none."""
        return self.manifest.handler if (self.manifest.raw.get("model") or {}).get("handler") else None

    @property
    def name(self) -> str:
        """The manifest's model name; without one, the file's, as TorchServe has it."""
        return self.manifest.model_name or re.sub(r"\W", "_", _stem(self.url), flags=re.ASCII)


class Source(Protocol):
    """Where models are opened. Its methods block and may be called from any thread."""

    def open(self, url: str) -> StoredModel:
        """The model of this name, to be given back with `release`. Raises PdError."""

    def release(self, model: StoredModel) -> None:
        """Nobody uses it any more."""


@dataclass
class _Unpacked:
    """A directory in use. `users` is guarded by the store's lock, the rest by this one, held while unpacking."""

    directory: Path
    users: int = 0
    manifest: Manifest | None = None
    files: Sequence[Path] = ()
    """All that was unpacked."""
    lock: threading.Lock = field(default_factory=threading.Lock)

    def is_whole(self) -> bool:
        return self.manifest is not None and all(map(os.path.lexists, self.files))


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
    ) -> None:
        """Without a `model_store`, there is nothing to be found. With `allow_unsafe`, models that come from elsewhere
        may do more than compute."""
        self._limits = limits
        self._allow_unsafe = allow_unsafe
        self._store = model_store.resolve() if model_store else None
        self._archives = run_directory.resolve() / "archives"
        self._lock = threading.Lock()
        self._unpacked: dict[str, _Unpacked] = {}
        """By digest; owned by `_lock`."""
        self._serial = itertools.count()
        _make_private(self._archives)

    def names(self) -> list[str]:
        """Every archive and every folder with a manifest, sorted; hidden ones are not for serving.

        Raises Unavailable when the store itself cannot be read.
        """
        if self._store is None:
            return []
        try:
            visible = [path for path in self._store.iterdir() if not path.name.startswith(".")]
        except OSError as error:
            raise Unavailable(f"model store {self._store}: {_reason(error)}") from None
        return sorted(path.name for path in visible if (_has_manifest(path) if path.is_dir() else _is_archive(path)))

    def open(self, url: str, path: Path | None = None, sha256: str | None = None) -> StoredModel:
        """Verify and unpack the archive named `url`, or find it unpacked; give it back with `release`.

        `path` is where it lies when it comes from elsewhere than the store; `sha256`, in lower case, what its bytes
        must have. A folder is served in place. Raises InvalidRequest for what is not a plain file name, Forbidden for
        what lies outside the store, and for what came over the network and does more than compute, ModelNotFound,
        ArchiveUnusable for what is not a sound archive or another than `sha256` says, Unavailable when it cannot be
        unpacked now (a full disk).
        """
        path = path or self._find(url)
        if path.is_dir():
            if sha256:
                raise InvalidRequest(f"{shown(url)}: a folder, which has no sha256: pack it into an archive")
            return self._open_folder(url, path)
        try:
            make_folder(self._archives, 0o700)  # it is there, unless a cleaner has been at it
        except OSError as error:
            raise self._no_room(url, error) from None
        with self._opened(url, path, private=sha256 is not None) as file:
            digest = archive.sha256(file)
            if sha256 not in (None, digest):
                raise ArchiveUnusable(
                    f"{shown(url)}: its sha256 is {digest}, not {sha256}: not the archive that is meant"
                )
            with self._lock:
                unpacked = self._unpacked.setdefault(digest, _Unpacked(self._archives / digest))
                unpacked.users += 1
            try:
                with unpacked.lock:
                    if not unpacked.is_whole():
                        self._unpack(url, file, digest, unpacked)
                    assert unpacked.manifest is not None  # noqa: S101
                remote = url.startswith(("http:", "https:"))
                if remote and not self._allow_unsafe:
                    check_folder(unpacked.directory)
                pin = digest if sha256 or remote else None
                return _stored(url, unpacked.directory, digest, unpacked.manifest, pin)
            except BaseException:
                self._drop(digest)
                raise

    def is_whole(self, model: StoredModel) -> bool:
        """Whether all that `open` unpacked for it is still there; else, opening its `digest` again brings it back."""
        if model.directory.parent != self._archives:
            return True
        unpacked = self._unpacked[model.digest]
        with unpacked.lock:
            return unpacked.is_whole()

    def release(self, model: StoredModel) -> None:
        """Take back what `open` gave; the last release of a directory removes it. A folder of the store stays."""
        if model.directory.parent == self._archives:
            self._drop(model.digest)

    def _find(self, url: str) -> Path:
        """The path of `url` with symbolic links resolved, known to lie in the store."""
        if is_url(url):
            raise Forbidden(
                f"{shown(url)}: archives are loaded from the model store alone: copy it there, name the file"
            )
        if self._store is None:
            raise ModelNotFound(f"{shown(url)}: there is no model store: start the server with --model-store FOLDER")
        if not url or url.startswith(".") or not url.isprintable() or re.search(r"[/\\]", url) or len(url) > 255:
            raise InvalidRequest(
                f"url={shown(url)}: expected the name of a file in the model store, such as digits.pdar"
            )
        try:
            path = (self._store / url).resolve(strict=True)
        except (FileNotFoundError, NotADirectoryError):
            raise ModelNotFound(f"{shown(url)}: not in the model store{nearest(url, self.names())}") from None
        except (OSError, RuntimeError) as error:
            raise ArchiveUnusable(f"{shown(url)}: {getattr(error, 'strerror', None) or 'a loop of links'}") from None
        if not path.is_relative_to(self._store):
            raise Forbidden(f"{shown(url)}: a link that leads out of the model store: copy the archive into it")
        return path

    def _open_folder(self, url: str, path: Path) -> StoredModel:
        try:
            manifest = archive.read_manifest(path, _NO_MANIFEST if any(path.iterdir()) else None)
        except (ArchiveError, OSError) as error:
            raise ArchiveUnusable(f"{shown(url)}: {_reason(error)}") from None
        return _stored(url, path, hashlib.sha256(json.dumps(manifest.raw).encode()).hexdigest(), manifest)

    def _unpack(self, url: str, file: BinaryIO, digest: str, unpacked: _Unpacked) -> None:
        """From the open file that `digest` was read from, so that a file put in its place cannot slip in.

        What a cleaner has left is there until the new files are.
        """
        fresh = self._aside()
        try:
            default = None if url.lower().endswith(".pdar") else _NO_MANIFEST
            manifest = archive.unpack(file, fresh, self._limits, default=default)
            paths = [path.relative_to(fresh) for path in fresh.rglob("*")]
        except ArchiveError as error:
            raise ArchiveUnusable(f"{shown(url)}: {str(error).removeprefix(f'{file.name}: ')}") from None
        except OSError as error:
            raise self._no_room(url, error) from None
        if archive.sha256(file) != digest:
            shutil.rmtree(fresh)
            raise ArchiveUnusable(f"{shown(url)}: the file was changed while it was read: try again")
        gone = self._set_aside(unpacked.directory)
        fresh.rename(unpacked.directory)
        shutil.rmtree(gone, ignore_errors=True)
        unpacked.manifest, unpacked.files = manifest, [unpacked.directory / path for path in paths]

    def _no_room(self, url: str, error: OSError) -> Unavailable:
        return Unavailable(f"{shown(url)}: cannot be unpacked in {self._archives}: {_reason(error)}")

    @contextmanager
    def _opened(self, url: str, path: Path, *, private: bool) -> Iterator[BinaryIO]:
        """The archive's file. The link is not followed again, and a pipe does not keep the caller waiting.

        `private`: a copy of it that nobody else can write to, between the check of its sha256 and its use.
        """
        if not _suffix(url):
            raise ArchiveUnusable(
                f"{shown(url)}: not the name of an archive: expected {', '.join(SUFFIXES)} or a folder"
            )
        try:
            file = open(  # noqa: SIM115 (closed below)
                path, "rb", opener=lambda name, flags: os.open(name, flags | os.O_NOFOLLOW | os.O_NONBLOCK)
            )
        except OSError as error:
            raise ArchiveUnusable(f"{shown(url)}: cannot be opened: {_reason(error)}") from None
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
                raise ArchiveUnusable(f"{shown(url)}: cannot be read: {_reason(error)}") from None

    @contextmanager
    def _copied(self, url: str, file: BinaryIO) -> Iterator[BinaryIO]:
        with tempfile.TemporaryFile(dir=self._archives) as copy:
            try:
                shutil.copyfileobj(file, copy, _COPY_BYTES)
            except OSError as error:
                raise Unavailable(f"{shown(url)}: cannot be copied to {self._archives}: {_reason(error)}") from None
            yield copy

    def _drop(self, digest: str) -> None:
        with self._lock:
            unpacked = self._unpacked[digest]
            unpacked.users -= 1
            if unpacked.users:
                return
            del self._unpacked[digest]
            gone = self._set_aside(unpacked.directory)
        shutil.rmtree(gone, ignore_errors=True)

    def _set_aside(self, directory: Path) -> Path:
        """Out of the way at once: the next to open the same archive unpacks it to the same place."""
        aside = self._aside()
        with contextlib.suppress(FileNotFoundError):
            directory.rename(aside)
        return aside

    def _aside(self) -> Path:
        return self._archives / f".aside-{next(self._serial)}"


def _suffix(name: str) -> str:
    return next((suffix for suffix in SUFFIXES if name.lower().endswith(suffix)), "")


def _stem(url: str) -> str:
    name = url.rpartition("/")[2]
    return name[: -len(_suffix(name))] if _suffix(name) else name


def _is_archive(path: Path) -> bool:
    return bool(_suffix(path.name)) and path.is_file()


def _has_manifest(folder: Path) -> bool:
    return any((folder / manifest).is_file() for manifest in MANIFEST_PATHS)


def _stored(url: str, directory: Path, digest: str, manifest: Manifest, pin: str | None = None) -> StoredModel:
    settings, model_config = ModelSettings(), dict[str, Any]()
    if manifest.config_file:
        where = f"{shown(url)}: {manifest.config_file}"
        path = (directory / manifest.config_file).resolve()
        if not path.is_relative_to(directory):
            raise Forbidden(f"{where}: a link that leads out of the model's folder")
        try:
            settings, model_config = parse_model_config(path.read_bytes(), where)
        except ConfigError as error:
            raise ArchiveUnusable(str(error)) from None
        except OSError as error:
            raise ArchiveUnusable(f"{where}: cannot be read: {_reason(error)}") from None
    return StoredModel(url, directory, digest, manifest, settings, model_config, pin)


def _reason(error: Exception) -> str:
    """Without the path that an OSError's text repeats."""
    return error.strerror or str(error) if isinstance(error, OSError) else str(error)


def _make_private(folder: Path) -> None:
    """An empty folder that only this user can enter; whatever was in it is removed."""
    try:
        make_folder(folder.parent, 0o700)
        if folder.is_symlink() or (folder.exists() and folder.stat().st_uid != os.geteuid()):
            raise ConfigError(f"{folder}: a link, or another user's folder: remove it or choose another run directory")
        if folder.exists():
            shutil.rmtree(folder)
        folder.mkdir(mode=0o700)
    except OSError as error:
        raise ConfigError(f"{folder}: cannot be made ready for use: {_reason(error)}") from None
