"""The archives that the cluster is to serve, as the controller has them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

import msgspec

from pdserver.cluster.base import Archive, Need
from pdserver.types import ModelRef


class Opened(msgspec.Struct, frozen=True):
    """An archive that was read and found sound."""

    ref: ModelRef
    archive: Archive
    gpus: int
    """That a copy needs."""
    needs: tuple[Need, ...] = ()
    """The models of the store that a pipeline asks."""
    workers: int | None = None
    """0: its settings say that it has none at first."""


class Models(Protocol):
    """Opens archives, and keeps those that were opened until they are forgotten."""

    async def open(
        self, url: str, *, name: str | None, handler: str | None, sha256: str | None, settings: Mapping[str, str]
    ) -> Opened:
        """Read and check an archive, as one server does when it is to register it. Raises PdError."""

    async def piece(self, sha256: str, offset: int) -> bytes:
        """As a `Holder`."""

    async def forget_others(self, digests: frozenset[str]) -> None:
        """Keep these archives alone."""
