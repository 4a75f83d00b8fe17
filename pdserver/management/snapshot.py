"""Snapshots: the registered models in a file, after every change, so that they survive a restart.

A snapshot is a properties file `<log_location>/config/yyyyMMddHHmmssSSS-{startup,snapshot,shutdown}.cfg` (UTC) with the
key model_snapshot, as TorchServe's are, but without the rest of the configuration. It is written beside, synced and
renamed, so a file by that name is complete, whatever happens to the machine.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import re
import time
from collections.abc import Callable, Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import Literal

from pdserver.configuration.models_to_load import ModelToLoad
from pdserver.configuration.snapshot_text import snapshot_models, snapshot_text
from pdserver.formats.properties import PropertiesError, escaped, parse_properties
from pdserver.system.folders import make_folder

_log = logging.getLogger("pdserver.snapshot")
_NAME = re.compile(r"([0-9]{17})-(startup|snapshot|shutdown)\.cfg")
_UNFINISHED = re.compile(r"\.[0-9]{17}-(startup|snapshot|shutdown)\.cfg\.unfinished")
_KEPT = 10
_MAX_BYTES = 16 * 1024 * 1024

Kind = Literal["startup", "snapshot", "shutdown"]
Models = Sequence[ModelToLoad]


class Snapshots:
    """Writes `models()` after each change; one write serves all changes that were made while the last was written."""

    def __init__(self, folder: Path, models: Callable[[], Models]) -> None:
        self._folder = folder
        self._models = models
        self._begun = False
        self._written: tuple[ModelToLoad, ...] | None = None
        self._next: asyncio.Task[str] | None = None
        """The write that has not begun yet: what is served now will be in it."""
        self._lock = asyncio.Lock()

    async def begin(self) -> None:
        """The start is over. Before, what is served is not all that is to be, and nothing is written."""
        self._begun = True
        async with self._lock:
            await self._write("startup")

    def changed(self) -> None:
        """Have what is served now written."""
        if self._begun:
            self._upcoming()

    async def keep(self) -> str:
        """Wait until what is served now is on the disk. Returns why it could not be written, or ""."""
        if not self._begun:
            return "the server is still starting"
        return await asyncio.shield(self._upcoming())

    async def close(self) -> None:
        """Write what has changed. Idempotent."""
        if self._next is not None:
            await self._next
        if self._begun:
            async with self._lock:
                await self._write("shutdown")

    def _upcoming(self) -> asyncio.Task[str]:
        if self._next is None:
            self._next = asyncio.create_task(self._write_next())
        return self._next

    async def _write_next(self) -> str:
        async with self._lock:
            self._next = None
            return await self._write("snapshot")

    async def _write(self, kind: Kind) -> str:
        """Write a snapshot, unless nothing has changed since the last one. Returns what failed, or "". A failure is
        logged, and the server serves on."""
        models = tuple(self._models())
        if models == self._written:
            return ""
        try:
            await asyncio.to_thread(write_snapshot, self._folder, kind, models)
        except OSError as error:
            _log.error("no snapshot could be written in %s: %s; the one before stays", self._folder, error)
            return error.strerror or str(error)
        self._written = models
        return ""


def read_last_snapshot(folder: Path) -> tuple[ModelToLoad, ...] | None:
    """The models of the newest snapshot that can be read; None when there is none."""
    for path in reversed(_snapshots(folder)):
        try:
            models = _read(path)
        except (OSError, ValueError) as error:
            _log.error("%s is not a sound snapshot (%s): going back to the one before", path, error)
            continue
        _log.info("serving what %s names, since neither load_models nor models say what to serve", path)
        return models
    return None


def _read(path: Path) -> tuple[ModelToLoad, ...]:
    fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    with open(fd, "rb") as file:
        data = file.read(_MAX_BYTES + 1)
    if len(data) > _MAX_BYTES:
        raise ValueError(f"it is larger than {_MAX_BYTES:,} bytes")
    try:
        texts = [entry.value for entry in parse_properties(data) if entry.key == "model_snapshot"]
    except PropertiesError as error:
        raise ValueError(f"line {error.line}: {error}") from None
    if len(texts) != 1 or not texts[0]:
        raise ValueError("there is no model_snapshot in it, or more than one")
    return snapshot_models(texts[0])


def write_snapshot(folder: Path, kind: Kind, models: Models) -> Path:
    """Raises OSError, and has changed nothing then that `read_last_snapshot` would see."""
    make_folder(folder, 0o750)
    before = _snapshots(folder)
    name = f"{_stamp(before)}-{kind}.cfg"
    created_ms = time.time_ns() // 1_000_000
    text = escaped(snapshot_text(name, created_ms, models))
    unfinished, path = folder / f".{name}.unfinished", folder / name
    try:
        fd = os.open(
            unfinished, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o640
        )  # all by os: tests let each of its calls fail
        try:
            _write_all(fd, f"# The models that pdserver served.\nmodel_snapshot={text}\n".encode())
            os.fsync(fd)
        finally:
            os.close(fd)
        os.rename(unfinished, path)  # noqa: PTH104
    except OSError:
        with contextlib.suppress(OSError):
            os.unlink(unfinished)  # noqa: PTH108
        raise
    _sync_folder(folder)
    _prune(folder, before)
    return path


def _stamp(before: Sequence[Path]) -> str:
    """Now; later than all that are there, even when the clock was put back."""
    now = datetime.now(timezone.utc).strftime("%Y%m%d%H%M%S%f")[:17]
    return max(now, str(int(before[-1].name[:17]) + 1).zfill(17)) if before else now


def _write_all(fd: int, data: bytes) -> None:
    while data:
        data = data[os.write(fd, data) :]


def _sync_folder(folder: Path) -> None:
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def _prune(folder: Path, before: Sequence[Path]) -> None:
    """Leave the last ones, and nothing of those that a crash left unfinished. Other files are not ours."""
    unfinished = [path for path in folder.iterdir() if _UNFINISHED.fullmatch(path.name)]
    for path in [*before[: max(0, len(before) + 1 - _KEPT)], *unfinished]:
        with contextlib.suppress(OSError):
            os.unlink(path)  # noqa: PTH108


def _snapshots(folder: Path) -> list[Path]:
    """Oldest first."""
    if not folder.is_dir():
        return []
    return sorted(path for path in folder.iterdir() if _NAME.fullmatch(path.name))
