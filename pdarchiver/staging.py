"""Files and folders that appear whole or not at all: written beside their place under a hidden name, then renamed.

Whatever ends the block early (an error, Ctrl-C, SIGTERM when it raises) removes what was staged. After a SIGKILL or
a power cut a hidden `.NAME.XXXXXXXX.part` stays; the next one to stage the same NAME removes it. It knows the
leftovers from the work of a living process by a lock, which the kernel releases with the process.
"""

from __future__ import annotations

import errno
import fcntl
import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

_SUFFIX = ".part"


@contextmanager
def staged_file(destination: Path) -> Iterator[Path]:
    """Give a new empty file (mode 0666 less the umask) that takes the place of `destination` when the block ends."""
    stage = _stage_path(destination)
    try:
        lock = os.open(stage, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
        with _locked(lock):
            yield stage
            os.fsync(lock)
            stage.replace(destination)
        _sync(destination.parent)
    finally:
        _remove(stage)


@contextmanager
def staged_folder(destination: Path, mode: int = 0o777, *, replace: bool = False) -> Iterator[Path]:
    """Give a new empty folder (`mode` less the umask) that becomes `destination` when the block ends.

    Everything in it is flushed to the disk first. With `replace`, a folder that is at `destination` gives way; else
    FileExistsError is raised.
    """
    stage = _stage_path(destination)
    old = _stage_path(destination)
    try:
        stage.mkdir(mode)
        with _locked(os.open(stage, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)):
            yield stage
            _sync_tree(stage)
            if os.path.lexists(destination):
                if not replace:
                    raise FileExistsError(errno.EEXIST, "exists already", str(destination))
                destination.rename(old)
            try:
                stage.rename(destination)
            except BaseException:
                if os.path.lexists(old):
                    old.rename(destination)
                raise
        _sync(destination.parent)
    finally:
        _remove(stage)
        _remove(old)


def _sync_tree(folder: Path) -> None:
    for parent, _, files in os.walk(folder, topdown=False):
        for name in files:
            _sync(Path(parent, name))
        _sync(Path(parent))


def _sync(path: Path) -> None:
    """Flush a file's content, or a folder's entries, to the disk."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def _stage_path(destination: Path) -> Path:
    _remove_leftovers(destination)
    return destination.with_name(f".{destination.name}.{secrets.token_hex(4)}{_SUFFIX}")


@contextmanager
def _locked(fd: int) -> Iterator[None]:
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        yield
    finally:
        os.close(fd)


def _remove_leftovers(destination: Path) -> None:
    for leftover in destination.parent.glob(f".{_escaped(destination.name)}.????????{_SUFFIX}"):
        # Another process may remove it, or finish its work and rename it, at any moment.
        with suppress(OSError):
            fd = os.open(leftover, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                _remove(leftover)
            finally:
                os.close(fd)


def _escaped(name: str) -> str:
    return "".join(f"[{c}]" if c in "*?[" else c for c in name)


def _remove(stage: Path) -> None:
    if stage.is_dir() and not stage.is_symlink():
        shutil.rmtree(stage, ignore_errors=True)
    else:
        with suppress(FileNotFoundError):
            stage.unlink()
