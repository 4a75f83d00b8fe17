"""Unpacked archives: one directory for each content, shared by all who use it, removed after the last of them."""

from __future__ import annotations

import contextlib
import itertools
import os
import shutil
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from pdarchiver.manifest import Manifest
from pdserver.errors import ConfigError
from pdserver.store.model import reason
from pdserver.system.folders import make_folder


@dataclass
class _Unpacked:
    """A directory in use. UnpackedArchives' lock guards `users`; this one guards the rest and is held to unpack."""

    directory: Path
    users: int = 0
    manifest: Manifest | None = None
    files: Sequence[Path] = ()
    """All that was unpacked."""
    lock: threading.Lock = field(default_factory=threading.Lock)

    def is_whole(self) -> bool:
        return self.manifest is not None and all(map(os.path.lexists, self.files))


class UnpackedArchives:
    """The directories in `folder`, named by the sha256 of their archives. Methods block; any thread may call them.

    The folder belongs to this server alone: whatever is in it at first is removed. Raises ConfigError when that fails.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._lock = threading.Lock()
        self._unpacked: dict[str, _Unpacked] = {}
        """By digest; owned by `_lock`."""
        self._serial = itertools.count()
        _make_private(folder)

    def hold(self, digest: str, unpack: Callable[[Path], Manifest]) -> tuple[Path, Manifest]:
        """The directory of the archive with this digest, and its manifest; give it back with `release`.

        `unpack` makes the new directory that it is given, when there is none yet or files of it are missing. Raises
        what `unpack` raises, and OSError.
        """
        with self._lock:
            unpacked = self._unpacked.setdefault(digest, _Unpacked(self.folder / digest))
            unpacked.users += 1
        try:
            with unpacked.lock:
                if unpacked.manifest is None or not unpacked.is_whole():
                    unpacked.manifest = self._fill(unpacked, unpack)
                return unpacked.directory, unpacked.manifest
        except BaseException:
            self.release(digest)
            raise

    def is_whole(self, digest: str) -> bool:
        """Whether all files are still there: a cleaner may have removed some. Only for a directory in use."""
        unpacked = self._unpacked[digest]
        with unpacked.lock:
            return unpacked.is_whole()

    def release(self, digest: str) -> None:
        """Undo one `hold`; the last one removes the directory."""
        with self._lock:
            unpacked = self._unpacked[digest]
            unpacked.users -= 1
            if unpacked.users:
                return
            del self._unpacked[digest]
            gone = self._set_aside(unpacked.directory)
        shutil.rmtree(gone, ignore_errors=True)

    def _fill(self, unpacked: _Unpacked, unpack: Callable[[Path], Manifest]) -> Manifest:
        """What a cleaner has left stays in place until the new files are there."""
        fresh = self._aside()
        manifest = unpack(fresh)
        paths = [path.relative_to(fresh) for path in fresh.rglob("*")]
        gone = self._set_aside(unpacked.directory)
        fresh.rename(unpacked.directory)
        shutil.rmtree(gone, ignore_errors=True)
        unpacked.files = [unpacked.directory / path for path in paths]
        return manifest

    def _set_aside(self, directory: Path) -> Path:
        """Free the directory's place at once: the next to open the same archive unpacks it to the same place."""
        aside = self._aside()
        with contextlib.suppress(FileNotFoundError):
            directory.rename(aside)
        return aside

    def _aside(self) -> Path:
        return self.folder / f".aside-{next(self._serial)}"


def _make_private(folder: Path) -> None:
    """Make an empty folder that only this user can enter; whatever was in it is removed."""
    try:
        make_folder(folder.parent, 0o700)
        if folder.is_symlink() or (folder.exists() and folder.stat().st_uid != os.geteuid()):
            raise ConfigError(f"{folder}: a link, or another user's folder: remove it or choose another run directory")
        if folder.exists():
            shutil.rmtree(folder)
        folder.mkdir(mode=0o700)
    except OSError as error:
        raise ConfigError(f"{folder}: cannot be made ready for use: {reason(error)}") from None
