"""What the cluster is to serve and where, and the snapshots of it."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Mapping
from pathlib import Path

import msgspec

from pdarchiver.staging import staged_file
from pdserver.cluster.base import Wanted
from pdserver.errors import Unavailable
from pdserver.system.folders import make_folder
from pdserver.types import ModelRef


class Ending(msgspec.Struct, frozen=True):
    """A copy that is not wanted any more, and still there until all who might send requests to it know that."""

    node: str
    wanted: Wanted


class State(msgspec.Struct, frozen=True):
    """What survives the controller."""

    revision: int = 0
    """Grows with each change."""
    wanted: tuple[Wanted, ...] = ()
    """In the order of their registration. Exactly one version of each name is the default."""
    placed: Mapping[str, tuple[ModelRef, ...]] = {}
    """By the ids of nodes, which versions each has."""
    ending: tuple[Ending, ...] = ()

    def encoded(self) -> bytes:
        """As JSON."""
        return msgspec.json.encode(self)


class SnapshotFile:
    """A `Keeper`: the snapshot is the file `snapshot` of a folder, which is made when it is missing."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / "snapshot"
        self._lock = asyncio.Lock()

    async def keep(self, revision: int, snapshot: bytes) -> None:
        async with self._lock:
            if revision >= (await self.kept())[0]:
                await asyncio.to_thread(self._write, revision, snapshot)

    async def kept(self) -> tuple[int, bytes]:
        """What is not a snapshot counts as none."""
        with contextlib.suppress(OSError, ValueError):
            first, _, snapshot = (await asyncio.to_thread(self._path.read_bytes)).partition(b"\n")
            return int(first), snapshot
        return 0, b""

    def _write(self, revision: int, snapshot: bytes) -> None:
        try:
            make_folder(self._path.parent, 0o700)
            with staged_file(self._path) as stage:
                stage.write_bytes(b"%d\n%b" % (revision, snapshot))
        except OSError as error:
            raise Unavailable(f"{self._path}: the snapshot can't be written: {error.strerror}") from None
